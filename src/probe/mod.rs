//! NVML, /proc and cgroup readings.
