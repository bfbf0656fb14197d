//! GPUs through NVML: one session of the driver, read when asked, and its events collected as they come.
//!
//! NVML is opened lazily and by path, so that the same binary runs where there is none. It is closed and opened again
//! when a GPU is lost, for that is how a card that came back is seen. Everything here may hang in the driver: it runs on
//! threads that nobody waits for (see `child`).

use super::protocol::{GpuAnswer, GpuEvent, GpuEventKind, GpuFacts, GpuFailure, Gpus, Outcome};
use crate::model::sample::DeviceReading;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::{Device, Nvml};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// Requests after which a driver that fails is closed and opened again: half a minute at one a second.
const REOPEN_AFTER_REQUESTS: u32 = 30;
/// How long one wait for driver events lasts, milliseconds; also how long closing may take. NVML keeps only the last XID
/// of those that nobody waited for, so somebody always waits.
const EVENT_WAIT_MS: u32 = 500;
/// Driver events kept until somebody asks. A GPU that is dying sends a few a second.
pub const EVENTS_MAX: usize = 1024;

/// What one request gave.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuReadings {
    /// The GPUs.
    pub gpus: Gpus,
    /// Process ids and their VRAM on one GPU, as the driver lists them. Empty when it does not tell.
    pub listed: Vec<(i32, Option<i64>)>,
}

/// Answers each request until `requests` closes. Events go to `events`; what finds it full is dropped by the sender's
/// rule (`on_drop`).
pub fn serve(
    library: Option<&Path>,
    requests: &mpsc::Receiver<()>,
    answers: &mpsc::Sender<GpuReadings>,
    events: &(dyn Fn(GpuEvent) + Sync),
) {
    loop {
        let mut builder = Nvml::builder();
        if let Some(path) = library {
            builder.lib_path(path.as_os_str());
        }
        let goes_on = match builder.init() {
            Ok(nvml) => session(&nvml, requests, answers, events),
            Err(error) => closed(&error, requests, answers),
        };
        if !goes_on {
            return;
        }
    }
}

/// Answers that there is nothing, until it is time to look again. False when nobody asks any more.
fn closed(error: &NvmlError, requests: &mpsc::Receiver<()>, answers: &mpsc::Sender<GpuReadings>) -> bool {
    let gpus = match error {
        NvmlError::LibloadingError(why) => Gpus::Absent(format!("NVML cannot be loaded: {why}")),
        NvmlError::DriverNotLoaded => Gpus::Absent("the NVIDIA driver is not loaded".to_owned()),
        NvmlError::LibraryNotFound => Gpus::Absent("NVML did not find the driver's library".to_owned()),
        other => Gpus::Failed(failure("initialisation of NVML", other)),
    };
    for _ in 0..REOPEN_AFTER_REQUESTS {
        if requests.recv().is_err() {
            return false;
        }
        if answers.send(GpuReadings { gpus: gpus.clone(), listed: Vec::new() }).is_err() {
            return false;
        }
    }
    true
}

/// Answers from an open driver until it fails for too long. False when nobody asks any more.
fn session(
    nvml: &Nvml,
    requests: &mpsc::Receiver<()>,
    answers: &mpsc::Sender<GpuReadings>,
    events: &(dyn Fn(GpuEvent) + Sync),
) -> bool {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = std::thread::Builder::new().name("gpu-events".to_owned());
        // Without a thread for events there are still readings.
        let _ = waiter.spawn_scoped(scope, || collect_events(nvml, &ends, events));
        let (mut told, mut failing) = (false, 0);
        let goes_on = loop {
            if requests.recv().is_err() {
                break false;
            }
            let readings = read_all(nvml, !told);
            told = told || matches!(readings.gpus, Gpus::Present(_));
            failing = if is_healthy(&readings.gpus) { 0 } else { failing + 1 };
            if answers.send(readings).is_err() {
                break false;
            }
            if failing >= REOPEN_AFTER_REQUESTS {
                break true;
            }
        };
        ends.store(true, Ordering::Relaxed);
        goes_on
    })
}

fn is_healthy(gpus: &Gpus) -> bool {
    match gpus {
        Gpus::Present(all) => all.iter().all(|gpu| !matches!(gpu.reading, Outcome::Failed(_))),
        Gpus::Absent(_) | Gpus::Failed(_) | Gpus::Silent { .. } => false,
    }
}

fn read_all(nvml: &Nvml, with_facts: bool) -> GpuReadings {
    let mut listed = Vec::new();
    let gpus = match nvml.device_count() {
        Err(error) => Gpus::Failed(failure("number of GPUs", &error)),
        Ok(0) => Gpus::Absent("the NVIDIA driver shows no GPU".to_owned()),
        Ok(count) => Gpus::Present((0..count).map(|at| read_one(nvml, at, with_facts, &mut listed)).collect()),
    };
    GpuReadings { gpus, listed }
}

fn read_one(nvml: &Nvml, ordinal: u32, with_facts: bool, listed: &mut Vec<(i32, Option<i64>)>) -> GpuAnswer {
    let device = match nvml.device_by_index(ordinal) {
        Ok(device) => device,
        Err(error) => {
            let failure = failure("handle", &error);
            let reading = Outcome::Failed(failure.meaning.clone());
            return GpuAnswer { facts: None, ordinal, reading, failures: vec![failure] };
        }
    };
    let mut taker = Taker { failures: Vec::new(), taken: 0 };
    let memory = taker.take("memory", device.memory_info());
    let reading = DeviceReading {
        vram_used_bytes: memory.as_ref().map(|memory| memory.used as i64),
        vram_free_bytes: memory.as_ref().map(|memory| memory.free as i64),
        temperature_celsius: taker.take("temperature", device.temperature(TemperatureSensor::Gpu)).map(i64::from),
        power_milliwatts: taker.take("power", device.power_usage()).map(i64::from),
        sm_clock_mhz: taker.take("SM clock", device.clock_info(Clock::SM)).map(i64::from),
        memory_clock_mhz: taker.take("memory clock", device.clock_info(Clock::Memory)).map(i64::from),
        utilization_percent: taker.take("utilisation", device.utilization_rates()).map(|rates| i64::from(rates.gpu)),
        throttle_reasons: taker.take("throttle reasons", throttle_reasons(&device)).map(|bits| bits as i64),
        ecc_corrected: taker.take("corrected ECC errors", ecc(&device, MemoryError::Corrected)),
        ecc_uncorrected: taker.take("uncorrected ECC errors", ecc(&device, MemoryError::Uncorrected)),
        pcie_replays: taker.take("PCIe replays", device.pcie_replay_counter()).map(i64::from),
    };
    if let Some(processes) = taker.take("processes", device.running_compute_processes()) {
        listed.extend(processes.iter().map(|process| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => (process.pid as i32, Some(bytes as i64)),
            UsedGpuMemory::Unavailable => (process.pid as i32, None),
        }));
    }
    let Taker { failures, taken } = taker;
    let reading = match failures.iter().find(|failure| failure.lost) {
        Some(lost) => Outcome::Failed(lost.meaning.clone()),
        None if taken == 0 && !failures.is_empty() => {
            Outcome::Failed(format!("none of its figures can be read: {}", failures[0].meaning))
        }
        None => Outcome::Present(reading),
    };
    let facts = with_facts.then(|| facts(nvml, &device, ordinal, memory.map(|memory| memory.total as i64)));
    GpuAnswer { facts, ordinal, reading, failures }
}

/// Sorts each figure into there, not there (`None`) and failed.
struct Taker {
    failures: Vec<GpuFailure>,
    taken: u32,
}

impl Taker {
    fn take<T>(&mut self, what: &str, result: Result<T, NvmlError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.taken += 1;
                Some(value)
            }
            // The card does not have it, the user may not see it, or the driver is too old to be asked.
            Err(
                NvmlError::NotSupported
                | NvmlError::NoPermission
                | NvmlError::FailedToLoadSymbol(_)
                | NvmlError::FunctionNotFound
                | NvmlError::NoData,
            ) => None,
            Err(error) => {
                self.failures.push(failure(what, &error));
                None
            }
        }
    }
}

fn facts(nvml: &Nvml, device: &Device<'_>, ordinal: u32, vram_total_bytes: Option<i64>) -> GpuFacts {
    let unknown = |_| "unknown".to_owned();
    GpuFacts {
        ordinal,
        uuid: device.uuid().unwrap_or_else(|_| format!("unknown-{ordinal}")),
        name: device.name().unwrap_or_else(unknown),
        driver: nvml.sys_driver_version().unwrap_or_else(unknown),
        pci_bus_id: device.pci_info().ok().map(|info| info.bus_id),
        vram_total_bytes,
    }
}

/// The raw mask: reasons that this soakd has no name for are kept.
fn throttle_reasons(device: &Device<'_>) -> Result<u64, NvmlError> {
    match device.current_throttle_reasons_strict() {
        Ok(reasons) => Ok(reasons.bits()),
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Ok(bits),
        Err(error) => Err(error),
    }
}

/// Since the driver was loaded.
fn ecc(device: &Device<'_>, kind: MemoryError) -> Result<i64, NvmlError> {
    device.total_ecc_errors(kind, EccCounter::Volatile).map(|count| count as i64)
}

/// Waits for driver events until `ends`. A driver that has none leaves at once.
fn collect_events(nvml: &Nvml, ends: &AtomicBool, events: &(dyn Fn(GpuEvent) + Sync)) {
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::SINGLE_BIT_ECC_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let Ok(mut set) = nvml.create_event_set() else { return };
    for ordinal in 0..nvml.device_count().unwrap_or(0) {
        let Ok(device) = nvml.device_by_index(ordinal) else { continue };
        let Ok(supported) = device.supported_event_types() else { continue };
        match device.register_events(supported & wanted, set) {
            Ok(registered) => set = registered,
            // Registering consumes the set when it fails: what was registered so far is lost, so start again without
            // this GPU is not possible either. Readings still tell of it.
            Err(_) => return,
        }
    }
    while !ends.load(Ordering::Relaxed) {
        match set.wait(EVENT_WAIT_MS) {
            Ok(event) => {
                let ordinal = event.device.index().ok();
                let kind = if event.event_type.contains(EventTypes::CRITICAL_XID_ERROR) {
                    GpuEventKind::Xid(match event.event_data {
                        Some(XidError::Value(number)) => number,
                        Some(XidError::Unknown) | None => 999,
                    })
                } else if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
                    GpuEventKind::EccUncorrected
                } else {
                    GpuEventKind::EccCorrected
                };
                events(GpuEvent { ordinal, kind });
            }
            Err(NvmlError::Timeout) => {}
            // A lost GPU makes every wait fail at once: do not spin. The readings tell of it.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(u64::from(EVENT_WAIT_MS))),
        }
    }
}

fn failure(what: &str, error: &NvmlError) -> GpuFailure {
    let lost = matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired);
    let (code, meaning) = match error {
        NvmlError::UnexpectedVariant(code) => (*code, format!("{what}: unknown code {code}")),
        NvmlError::GpuLost => (code(error), "it has fallen off the bus, or cannot be reached any more".to_owned()),
        other => (code(other), format!("{what}: {other}")),
    };
    GpuFailure { what: what.to_owned(), code, meaning, lost }
}

/// NVML's number for the errors that an operator will look up; 999 is its own "unknown".
fn code(error: &NvmlError) -> u32 {
    match error {
        NvmlError::Uninitialized => 1,
        NvmlError::InvalidArg => 2,
        NvmlError::NotSupported => 3,
        NvmlError::NoPermission => 4,
        NvmlError::NotFound => 6,
        NvmlError::InsufficientSize(_) => 7,
        NvmlError::InsufficientPower => 8,
        NvmlError::DriverNotLoaded => 9,
        NvmlError::Timeout => 10,
        NvmlError::IrqIssue => 11,
        NvmlError::LibraryNotFound => 12,
        NvmlError::FunctionNotFound => 13,
        NvmlError::CorruptedInfoROM => 14,
        NvmlError::GpuLost => 15,
        NvmlError::ResetRequired => 16,
        NvmlError::OperatingSystem => 17,
        NvmlError::LibRmVersionMismatch => 18,
        NvmlError::InUse => 19,
        NvmlError::InsufficientMemory => 20,
        NvmlError::NoData => 21,
        _ => 999,
    }
}
