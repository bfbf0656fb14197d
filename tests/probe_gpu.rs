//! The probe as the supervisor meets it: a real child process, frames, and a pretend NVML that does what it is told.
//! The pretend library is C and is compiled here: a C compiler is needed, as it is for the bundled SQLite.

use soakd::model::sample::DeviceReading;
use soakd::probe::protocol::{FromProbe, GpuEventKind, Gpus, Outcome, Readings, Setup, Tick, ToProbe, Watched};
use soakd::wire::{self, Decoder};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// Ticks after which a test gives up waiting for something that comes with time.
const TICKS_MAX: u64 = 600;

fn fake_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("soakd-fake-nvml").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.expect("a folder").keep().join("libnvidia-ml.so.1");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-nvml/nvml.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let status = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(source)
            .status();
        assert!(status.expect("a C compiler is installed").success(), "{compiler} compiles the pretend NVML");
        library
    })
}

/// A running probe under orders.
struct Probe {
    child: Child,
    stdout: ChildStdout,
    decoder: Decoder,
    orders: PathBuf,
    tick: u64,
    _folder: tempfile::TempDir,
}

impl Probe {
    fn start(orders: &str) -> Probe {
        Probe::with_library(fake_library(), 20_000, orders)
    }

    fn with_library(library: &Path, gpu_grace_ms: u64, orders: &str) -> Probe {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("orders");
        std::fs::write(&path, orders).expect("orders");
        let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
        command.arg("internal-probe").env("FAKE_NVML", &path);
        let (probe, pid) = Probe::launch(&mut command, library, gpu_grace_ms, path, folder);
        assert_eq!(pid, probe.child.id() as i32);
        probe
    }

    /// Starts `command`, which becomes a probe; gives the id that it has for itself.
    fn launch(
        command: &mut Command,
        library: &Path,
        gpu_grace_ms: u64,
        orders: PathBuf,
        folder: tempfile::TempDir,
    ) -> (Probe, i32) {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("soakd starts");
        let stdout = child.stdout.take().expect("piped");
        let mut probe = Probe { child, stdout, decoder: Decoder::default(), orders, tick: 0, _folder: folder };
        let setup = Setup { nvml_library: Some(library.to_path_buf()), disk_path: "/".into(), gpu_grace_ms };
        probe.send(&ToProbe::Start(setup));
        let FromProbe::Ready { pid } = probe.receive() else { panic!("not ready") };
        (probe, pid)
    }

    /// In a pid namespace of its own, as in a container; with the host's /proc at a folder if `with_host`. `None` where the
    /// kernel does not let us have one. Gives the probe's id inside and outside, too.
    fn in_a_container(with_host: bool) -> Option<(Probe, i32, i32)> {
        let folder = tempfile::tempdir().expect("a folder");
        let (orders, host) = (folder.path().join("orders"), folder.path().join("host-proc"));
        std::fs::write(&orders, "").expect("orders");
        std::fs::create_dir(&host).expect("a folder");
        let user: &[&str] = if nix::unistd::Uid::effective().is_root() { &[] } else { &["-r"] };
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(user).args(["-pfm", "--kill-child", "sh", "-c", script]);
            command.arg("sh").arg(&host).arg(env!("CARGO_BIN_EXE_soakd"));
            command
        };
        let mounts = if with_host {
            "mount --rbind /proc \"$1\" && mount -t proc proc /proc"
        } else {
            "mount -t proc proc /proc"
        };
        if !unshare(mounts).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            eprintln!("no pid namespaces here (unshare -pfm): not seen");
            return None;
        }
        let mut command = unshare(&format!("{mounts} && exec \"$2\" internal-probe"));
        command.env("FAKE_NVML", &orders).env("HOST_PROC", &host);
        let (probe, inside) = Probe::launch(&mut command, fake_library(), 20_000, orders, folder);
        let children = format!("/proc/{0}/task/{0}/children", probe.child.id());
        let outside = std::fs::read_to_string(children).expect("unshare has a child").trim().parse().expect("one");
        Some((probe, inside, outside))
    }

    /// Changes the weather. Renamed into place, so that no half-written file is read.
    fn order(&self, orders: &str) {
        let new = self.orders.with_extension("new");
        std::fs::write(&new, orders).expect("orders");
        std::fs::rename(new, &self.orders).expect("orders");
    }

    fn send(&mut self, message: &ToProbe) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(&wire::encode(message)).expect("the probe reads");
    }

    fn receive(&mut self) -> FromProbe {
        let mut buffer = [0u8; 65_536];
        loop {
            if let Some(message) = self.decoder.next().expect("frames and nothing else") {
                return message;
            }
            let count = self.stdout.read(&mut buffer).expect("the probe writes");
            assert!(count > 0, "the probe ended");
            self.decoder.push(&buffer[..count]);
        }
    }

    fn tick_on(&mut self, pids: &[i32]) -> Readings {
        self.tick += 1;
        let processes =
            pids.iter().map(|pid| Watched { pid: *pid, tree: soakd::probe::protocol::Tree::default() }).collect();
        self.send(&ToProbe::Tick(Tick { tick: self.tick, processes, read_pss: true }));
        match self.receive() {
            FromProbe::Readings(readings) => {
                assert_eq!(readings.tick, self.tick);
                *readings
            }
            other @ FromProbe::Ready { .. } => panic!("not an answer: {other:?}"),
        }
    }

    fn read(&mut self) -> Readings {
        self.tick_on(&[])
    }

    /// Ticks until `found` sees what it wants.
    fn read_until<T>(&mut self, what: &str, mut found: impl FnMut(&Readings) -> Option<T>) -> T {
        for _ in 0..TICKS_MAX {
            let readings = self.read();
            if let Some(result) = found(&readings) {
                return result;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{what}: not in {TICKS_MAX} ticks");
    }

    fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("the probe ends with its stdin")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn present(readings: &Readings, ordinal: usize) -> DeviceReading {
    let Gpus::Present(gpus) = &readings.gpus else { panic!("no GPUs: {:?}", readings.gpus) };
    *gpus[ordinal].reading.present().unwrap_or_else(|| panic!("{:?}", gpus[ordinal]))
}

#[test]
fn every_figure_of_every_gpu_arrives() {
    let mut probe = Probe::start("devices 2\nused 1 2000000000\nthrottle 68\n");
    let readings = probe.read();
    let first = present(&readings, 0);
    assert_eq!((first.vram_used_bytes, first.vram_free_bytes), (Some(1_000_000_000), Some(15_000_000_000)));
    assert_eq!((first.temperature_celsius, first.power_milliwatts), (Some(61), Some(250_000)));
    assert_eq!((first.sm_clock_mhz, first.memory_clock_mhz), (Some(1980), Some(2600)));
    assert_eq!((first.utilization_percent, first.throttle_reasons), (Some(97), Some(68)));
    assert_eq!((first.ecc_corrected, first.ecc_uncorrected, first.pcie_replays), (Some(3), Some(1), Some(7)));
    assert_eq!(present(&readings, 1).vram_used_bytes, Some(2_000_000_000));
    let Gpus::Present(gpus) = &readings.gpus else { panic!() };
    let facts = gpus[1].facts.as_ref().expect("facts come with the first answer");
    assert_eq!((facts.uuid.as_str(), facts.driver.as_str()), ("GPU-fake-1", "570.00.fake"));
    assert_eq!((facts.vram_total_bytes, facts.pci_bus_id.as_deref()), (Some(16_000_000_000), Some("00000000:01:00.0")));
    let Gpus::Present(gpus) = probe.read().gpus else { panic!() };
    assert!(gpus.iter().all(|gpu| gpu.facts.is_none() && gpu.failures.is_empty()), "and only with the first: {gpus:?}");
    assert!(probe.end().success());
}

#[test]
fn without_a_library_the_gpus_are_absent_and_the_rest_is_read() {
    let us = std::process::id() as i32;
    let mut probe = Probe::with_library(Path::new("/no/such/libnvidia-ml.so.1"), 20_000, "");
    let readings = probe.tick_on(&[us, 1 << 23]);
    assert!(matches!(&readings.gpus, Gpus::Absent(why) if why.contains("/no/such/libnvidia-ml.so.1")), "{readings:?}");
    let Outcome::Present(figures) = &readings.processes[0].reading else { panic!("{readings:?}") };
    assert!(figures.reading.rss_bytes > Some(0) && figures.reading.pss_bytes > Some(0), "{figures:?}");
    assert_eq!(figures.reading.vram_bytes, None, "no GPU is no VRAM figure, and not zero");
    assert!(matches!(readings.processes[1].reading, Outcome::Absent(_)), "{readings:?}");
    assert!(readings.host.memory_available_bytes > Some(0) && readings.host.disk_free_bytes.is_some(), "{readings:?}");
}

#[test]
fn absent_and_failed_are_told_apart() {
    for (what, orders, absent) in [
        ("the driver is not loaded", "init 9\n", true),
        ("there is no GPU", "devices 0\n", true),
        ("library and driver do not match", "init 18\n", false),
        ("a code that nobody knows", "init 4242\n", false),
        ("the number of GPUs cannot be read", "fail Count 999\n", false),
    ] {
        let gpus = Probe::start(orders).read().gpus;
        match gpus {
            Gpus::Absent(_) => assert!(absent, "{what}: {gpus:?}"),
            Gpus::Failed(_) => assert!(!absent, "{what}: {gpus:?}"),
            Gpus::Present(_) | Gpus::Silent { .. } => panic!("{what}: {gpus:?}"),
        }
    }
}

#[test]
fn one_figure_that_fails_does_not_take_the_others_along() {
    let mut probe = Probe::start("fail Temperature 4242\nfail PowerUsage 3\nfail UtilizationRates 999\n");
    let readings = probe.read();
    let reading = present(&readings, 0);
    assert_eq!(
        (reading.temperature_celsius, reading.power_milliwatts, reading.utilization_percent),
        (None, None, None)
    );
    assert_eq!(reading.vram_used_bytes, Some(1_000_000_000));
    let Gpus::Present(gpus) = &readings.gpus else { panic!() };
    let failures: Vec<(&str, u32)> = gpus[0].failures.iter().map(|f| (f.what.as_str(), f.code)).collect();
    assert_eq!(failures, [("temperature", 4242), ("utilisation", 999)], "what the card does not have is no failure");
    assert!(gpus[0].failures[0].meaning.contains("unknown code 4242"), "{gpus:?}");
}

#[test]
fn throttle_reasons_without_a_name_are_kept() {
    let mut probe = Probe::start("throttle 1099511627780\n");
    assert_eq!(present(&probe.read(), 0).throttle_reasons, Some((1 << 40) | 4));
}

#[test]
fn vram_goes_to_the_process_that_holds_it_and_not_available_is_not_zero() {
    let (us, us_text) = (std::process::id() as i32, std::process::id().to_string());
    let vram = |readings: &Readings| readings.processes[0].reading.present().expect("we exist").reading.vram_bytes;
    let mut probe =
        Probe::start(&format!("devices 2\nprocess 0 {us_text} 500\nprocess 1 {us_text} 250\nprocess 1 77 9\n"));
    assert_eq!(vram(&probe.tick_on(&[us])), Some(750), "summed over GPUs");
    probe.order(&format!("process 0 {us_text} -1\n"));
    assert_eq!(vram(&probe.tick_on(&[us])), None, "not available");
    probe.order("process 0 77 9\n");
    assert_eq!(vram(&probe.tick_on(&[us])), None, "not listed");
    probe.order(&format!("process 0 {us_text} 500\nfail ComputeRunningProcesses 3\n"));
    assert_eq!(vram(&probe.tick_on(&[us])), None, "not supported");
}

#[test]
fn in_a_container_the_hosts_ids_are_told_through_its_proc_or_not_at_all() {
    let vram = |readings: &Readings| readings.processes[0].reading.present().expect("it exists").reading.vram_bytes;
    let Some((mut probe, inside, outside)) = Probe::in_a_container(true) else { return };
    assert_ne!(inside, outside);
    // Another process of the host is listed with the id that the probe has inside.
    probe.order(&format!("process 0 {outside} 500\nprocess 0 {inside} 9\nprocess 0 {} 7\n", std::process::id()));
    let readings = probe.tick_on(&[inside]);
    assert_eq!((vram(&readings), &readings.vram_note), (Some(500), &None), "its own and nobody else's");
    let Some((mut probe, inside, outside)) = Probe::in_a_container(false) else { return };
    probe.order(&format!("process 0 {outside} 500\nprocess 0 {inside} 9\n"));
    let readings = probe.tick_on(&[inside]);
    assert_eq!(vram(&readings), None, "unknown: not zero, and not another's");
    let note = readings.vram_note.as_deref().expect("said");
    assert!(note.contains(&outside.to_string()) && note.contains("whole GPU"), "{note}");
    assert_eq!(present(&readings, 0).vram_used_bytes, Some(1_000_000_000), "the GPU's own figure is there");
}

#[test]
fn a_lost_gpu_is_failed_and_its_neighbour_is_read_on_and_it_may_come_back() {
    let mut probe = Probe::start("devices 2\n");
    present(&probe.read(), 1);
    probe.order("devices 2\nlost 1\n");
    let readings = probe.read();
    assert_eq!(present(&readings, 0).temperature_celsius, Some(61));
    let Gpus::Present(gpus) = &readings.gpus else { panic!() };
    assert!(matches!(&gpus[1].reading, Outcome::Failed(why) if why.contains("bus")), "{gpus:?}");
    assert!(gpus[1].failures[0].lost && gpus[1].failures[0].code == 15, "{gpus:?}");
    probe.order("devices 2\n");
    present(&probe.read(), 1);
}

#[test]
fn a_driver_that_fails_for_long_is_opened_again() {
    let mut probe = Probe::start("init 18\n");
    assert!(matches!(probe.read().gpus, Gpus::Failed(_)));
    probe.order("");
    let facts = probe.read_until("the driver is back", |readings| match &readings.gpus {
        Gpus::Present(gpus) => gpus[0].facts.clone(),
        _ => None,
    });
    assert_eq!(facts.uuid, "GPU-fake-0", "facts come again with the new session");
}

#[test]
fn every_xid_is_kept_in_order() {
    use GpuEventKind::{EccCorrected, EccUncorrected, Xid};
    let mut probe = Probe::start("devices 2\nxid 0 79\nxid 1 63\necc 1 2\nxid 0 79\necc 0 1\n");
    let mut seen = Vec::new();
    probe.read_until("five events", |readings| {
        assert_eq!(readings.gpu_events_dropped, 0);
        seen.extend(readings.gpu_events.iter().map(|event| (event.ordinal.expect("the fake says which"), event.kind)));
        (seen.len() >= 5).then_some(())
    });
    let expected = [(0, Xid(79)), (1, Xid(63)), (1, EccUncorrected), (0, Xid(79)), (0, EccCorrected)];
    assert_eq!(seen, expected);
}

#[test]
fn a_hung_driver_hangs_neither_the_probe_nor_its_end() {
    let us = std::process::id() as i32;
    let mut probe = Probe::with_library(fake_library(), 50, "hang\n");
    for ticks in 1..=3 {
        let readings = probe.tick_on(&[us]);
        assert_eq!(readings.gpus, Gpus::Silent { ticks });
        assert!(readings.processes[0].reading.present().is_some(), "memory is read while the driver hangs");
    }
    probe.order("");
    probe.read_until("the driver answers again", |readings| matches!(readings.gpus, Gpus::Present(_)).then_some(()));
    probe.order("hang\n");
    probe.read_until("it hangs again", |readings| matches!(readings.gpus, Gpus::Silent { .. }).then_some(()));
    assert!(probe.end().success(), "it ends although a thread hangs");
}

#[test]
fn a_library_that_prints_does_not_garble_the_frames() {
    let mut probe = Probe::start("print\n");
    for _ in 0..3 {
        present(&probe.read(), 0);
    }
}

#[test]
fn what_is_no_frame_ends_the_probe_with_a_word() {
    let child = Command::new(env!("CARGO_BIN_EXE_soakd"))
        .arg("internal-probe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("soakd starts");
    child.stdin.take().expect("piped").write_all(b"hello there, probe").expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected a frame"), "{output:?}");
}
