//! What is broken, what should happen then, and what did.

use clap::ValueEnum;
use serde::Serialize;

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The worker reads through a null pointer.
    Crash,
    /// The worker's loop waits for ever.
    Hang,
    /// The worker leaks memory at a known rate.
    LeakRss,
    /// The worker leaks device memory at a known rate.
    LeakVram,
    /// A bit of a weight is flipped.
    Corruption,
    /// The mail server cannot be reached when an alarm rings, and later it can.
    Outage,
    /// The supervisor is killed.
    Supervisor,
    /// CUDA is asked for and shows no device, and the configuration allows the CPU.
    Fallback,
}

impl Fault {
    /// All, in the order in which they are shown.
    pub const ALL: [Fault; 8] = [
        Fault::Crash,
        Fault::Hang,
        Fault::LeakRss,
        Fault::LeakVram,
        Fault::Corruption,
        Fault::Outage,
        Fault::Supervisor,
        Fault::Fallback,
    ];

    /// As it is given to `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::Hang => "hang",
            Fault::LeakRss => "leak-rss",
            Fault::LeakVram => "leak-vram",
            Fault::Corruption => "corruption",
            Fault::Outage => "outage",
            Fault::Supervisor => "supervisor",
            Fault::Fallback => "fallback",
        }
    }

    /// What is done.
    pub fn does(self) -> &'static str {
        match self {
            Fault::Crash => "the worker reads through a null pointer",
            Fault::Hang => "the worker's loop waits for ever while its process beats on",
            Fault::LeakRss => "the worker leaks host memory at a known rate",
            Fault::LeakVram => "the worker leaks GPU memory at a known rate",
            Fault::Corruption => "one bit of one weight is flipped in the loaded model",
            Fault::Outage => "a worker crashes while no mail can be delivered; later it can",
            Fault::Supervisor => "SIGKILL to soakd itself, then a new start",
            Fault::Fallback => "no GPU is shown to a soak that asks for one, with model.fallback_to_cpu",
        }
    }

    /// What should happen.
    pub fn expects(self) -> &'static str {
        match self {
            Fault::Crash => "crash recorded with its signal, mailed, worker replaced, run fails",
            Fault::Hang => "hang recorded, mailed, worker killed and replaced, run fails",
            Fault::LeakRss | Fault::LeakVram => "drift alarm names the worker's memory, mailed, run fails",
            Fault::Corruption => "next loop reports other tokens, mailed, run fails",
            Fault::Outage => "mail waits in the outbox, is tried again, arrives once",
            Fault::Fallback => "the CPU engine takes over, recorded with the reason, mailed",
            Fault::Supervisor => "its death is mailed, no child is left, the run is resumed, its return mailed",
        }
    }

    /// The event that tells of it, and the built-in rule that mails it.
    pub fn event_and_rule(self) -> (&'static str, &'static str) {
        match self {
            Fault::Crash | Fault::Outage => ("worker_crash", "worker_crash"),
            Fault::Hang => ("worker_hang", "worker_hang"),
            Fault::LeakRss | Fault::LeakVram => ("drift_alarm", "leak_outside"),
            Fault::Corruption => ("golden_mismatch", "golden_mismatch"),
            Fault::Supervisor => ("run_resumed", "heartbeat"),
            Fault::Fallback => ("backend_fallback", "backend_fallback"),
        }
    }

    /// About how long it takes with the embedded defaults: what takes long is begun first.
    pub fn usual_seconds(self) -> u32 {
        match self {
            Fault::LeakRss | Fault::LeakVram => 180,
            Fault::Hang => 70,
            Fault::Supervisor => 60,
            Fault::Outage => 50,
            Fault::Crash | Fault::Corruption | Fault::Fallback => 40,
        }
    }
}

/// What became of one fault. Seconds count from the fault.
#[derive(Debug, Clone, Serialize)]
pub struct Played {
    /// Which.
    pub fault: Fault,
    /// What was done.
    pub does: &'static str,
    /// What should have happened.
    pub expected: &'static str,
    /// What did.
    pub seen: String,
    /// Whether all of it did.
    pub rang: bool,
    /// Until the database knew.
    pub recorded_s: Option<f64>,
    /// Until the mail had left.
    pub mailed_s: Option<f64>,
    /// Until work went on; none where nothing recovers by itself.
    pub recovered_s: Option<f64>,
    /// How real life is slower, if it is.
    pub speeded_up: Option<String>,
    /// Why it was not tried, if it was not.
    pub skipped: Option<String>,
    /// Subjects of the mails that left.
    pub mails: Vec<String>,
}

impl Played {
    /// Nothing has happened yet.
    pub fn new(fault: Fault) -> Played {
        Played {
            fault,
            does: fault.does(),
            expected: fault.expects(),
            seen: String::new(),
            rang: false,
            recorded_s: None,
            mailed_s: None,
            recovered_s: None,
            speeded_up: None,
            skipped: None,
            mails: Vec::new(),
        }
    }
}
