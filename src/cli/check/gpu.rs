//! The GPU: is there a driver, does NVML answer, is a card healthy and free. Asked through a probe process, so that a
//! hung driver cannot hang this command.

use super::super::internal_devices::CudaDevice;
use super::Findings;
use crate::config::{Backend, Config, Devices};
use crate::probe::ask::ask_once;
use crate::probe::protocol::{GpuAnswer, Gpus, Outcome, Setup};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const CHECK: &str = "GPU";
/// NVML's first call wakes cards that sleep without persistence mode, a few seconds each.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn look(config: &Config, findings: &mut Findings) {
    if config.model.backend == Backend::Cpu {
        return findings.ok(CHECK, "not needed: model.backend is cpu");
    }
    let setup = Setup {
        nvml_library: config.probe.nvml_library.clone(),
        disk_path: "/".into(),
        gpu_grace_ms: PATIENCE.as_millis() as u64,
    };
    let soakd = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => {
            return findings.warning(CHECK, format!("cannot find this program: {error}"), "start it by its path");
        }
    };
    match ask_once(&soakd, setup, &[], PATIENCE + Duration::from_secs(1)) {
        Ok(readings) => {
            judge(config, &readings.gpus, findings);
            if matches!(readings.gpus, Gpus::Present(_)) {
                cuda(config, &soakd, findings);
            }
        }
        Err(error) => missing(config, &error, "look at dmesg; a driver that hangs needs a reboot", findings),
    }
}

/// No usable GPU: fatal if one is demanded, worth a word if it is not.
fn missing(config: &Config, what: &str, remedy: &str, findings: &mut Findings) {
    match config.model.backend {
        Backend::Cuda if !config.model.fallback_to_cpu => {
            findings.blocker(CHECK, what, format!("{remedy}; or set model.backend to auto or cpu"));
        }
        Backend::Cuda => findings.warning(CHECK, format!("{what}; model.fallback_to_cpu: the CPU takes over"), remedy),
        Backend::Auto | Backend::Cpu => findings.ok(CHECK, format!("{what}; the CPU will be used")),
    }
}

fn judge(config: &Config, gpus: &Gpus, findings: &mut Findings) {
    match gpus {
        Gpus::Absent(why) => missing(config, why, "install NVIDIA's driver (550 or newer)", findings),
        Gpus::Failed(failure) => {
            let remedy = "a driver that was updated under a running kernel needs a reboot; see dmesg";
            findings.blocker(CHECK, format!("{} (NVML code {})", failure.meaning, failure.code), remedy);
        }
        Gpus::Silent { .. } => {
            let what = format!("the driver did not answer within {} s", PATIENCE.as_secs());
            findings.blocker(CHECK, what, "look at dmesg for Xid lines; a driver that hangs needs a reboot");
        }
        Gpus::Present(cards) => {
            for card in cards.iter().filter(|card| wanted(&config.model.devices, card.ordinal)) {
                judge_card(card, findings);
            }
            if let Devices::These(ordinals) = &config.model.devices {
                for absent in ordinals.iter().filter(|ordinal| cards.iter().all(|card| card.ordinal != **ordinal)) {
                    let what = format!("model.devices names GPU {absent}, and there are {}", cards.len());
                    findings.blocker(CHECK, what, "nvidia-smi -L lists them; they count from 0");
                }
            }
        }
    }
}

/// NVML sees a card; does CUDA, and which kernels would it run.
fn cuda(config: &Config, soakd: &Path, findings: &mut Findings) {
    let devices = match ask_cuda(soakd) {
        Ok(devices) => devices,
        Err(why) => {
            let remedy =
                "libcuda.so.1 must be there and match the kernel module; in a container, the driver's compute part";
            return missing(config, &format!("CUDA cannot be used: {why}"), remedy, findings);
        }
    };
    if devices.is_empty() {
        return missing(config, "CUDA shows no device", "look at CUDA_VISIBLE_DEVICES", findings);
    }
    for device in devices.iter().filter(|device| wanted(&config.model.devices, device.ordinal)) {
        let name = format!("CUDA device {}: {}, compute capability {}", device.ordinal, device.name, device.compute);
        match (&device.kernels, &device.refusal) {
            (Some(kernels), _) => findings.ok(CHECK, format!("{name}: kernels {kernels}")),
            (None, why) => {
                let why = why.as_deref().unwrap_or("no kernels for it");
                missing(config, &format!("{name}: {why}"), "use another card", findings);
            }
        }
    }
}

/// In a process of its own, which is left behind if the driver does not let it go.
pub(in crate::cli) fn ask_cuda(soakd: &Path) -> Result<Vec<CudaDevice>, String> {
    let (answer, answered) = mpsc::channel();
    let child = Command::new(soakd)
        .arg("internal-devices")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    std::thread::spawn(move || answer.send(child.wait_with_output()));
    let Ok(output) = answered.recv_timeout(PATIENCE) else {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        return Err(format!("the driver did not answer within {} s", PATIENCE.as_secs()));
    };
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("soakd: ").to_owned();
        return Err(if words.is_empty() { format!("{}", output.status) } else { words });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn wanted(devices: &Devices, ordinal: u32) -> bool {
    match devices {
        Devices::All => true,
        Devices::These(ordinals) => ordinals.contains(&ordinal),
    }
}

fn judge_card(card: &GpuAnswer, findings: &mut Findings) {
    let name = card.facts.as_ref().map_or_else(
        || format!("GPU {}", card.ordinal),
        |facts| format!("GPU {}: {}, driver {}", card.ordinal, facts.name, facts.driver),
    );
    let reading = match &card.reading {
        Outcome::Present(reading) => reading,
        Outcome::Absent(why) | Outcome::Failed(why) => {
            let remedy = "nvidia-smi shows more; a lost GPU needs a reset or a reboot";
            return findings.blocker(CHECK, format!("{name}: {why}"), remedy);
        }
    };
    let megabytes =
        |bytes: Option<i64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000));
    let facts =
        format!("{name}: {} used, {} free", megabytes(reading.vram_used_bytes), megabytes(reading.vram_free_bytes));
    // What runs beside the soak moves the card's own series; a gigabyte is more than any driver holds for itself.
    if reading.vram_used_bytes.is_some_and(|bytes| bytes > 1_000_000_000) {
        findings.warning(
            CHECK,
            facts,
            "something else uses this card (nvidia-smi): its memory counts in gpu-N.device_vram",
        );
    } else {
        findings.ok(CHECK, facts);
    }
    if reading.ecc_uncorrected.is_some_and(|errors| errors > 0) {
        let what = format!("{name}: uncorrected memory errors since the driver was loaded");
        findings.warning(CHECK, what, "nvidia-smi -q -d ECC,ROW_REMAPPER; reset the card before you trust it");
    }
    for failure in &card.failures {
        findings.warning(
            CHECK,
            format!("{name}: {} (code {})", failure.meaning, failure.code),
            "that figure will be missing",
        );
    }
}
