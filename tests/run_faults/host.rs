//! Faults of the host: a disk that is full, read-only or dead, a clock that steps, a suspend, too little memory.

use crate::smtp_server::SmtpServer;
use crate::soak::{self, Soak};

/// A soak on a host that does as it is told; its orders come in a file.
fn on_a_pretend_host() -> Soak {
    on_a_pretend_host_with("")
}

/// The same with more `sections` of configuration.
fn on_a_pretend_host_with(sections: &str) -> Soak {
    Soak::under(&[], |folder| {
        configure(folder, |config| format!("{config}{sections}"));
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-host/host.c");
        let library = folder.join("host.so");
        let mut command = std::process::Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(command.status().expect("a C compiler is installed").success(), "the pretend host compiles");
        vec![("LD_PRELOAD", library), ("FAKE_HOST", folder.join("orders"))]
    })
}

fn configure(folder: &std::path::Path, with: impl FnOnce(String) -> String) {
    let path = folder.join("soak.toml");
    let config = with(std::fs::read_to_string(&path).expect("written before"));
    std::fs::write(path, config).expect("written");
}

/// Mail to `server`, and rules that are asked often.
fn mail_to(server: &SmtpServer) -> String {
    format!(
        "[alerts]\nevaluate_every = \"1s\"\n[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n\
         from = \"soakd@x.org\"\nretry_min = \"1s\"\nretry_max = \"2s\"\n[mail.routes]\ndefault = [\"ops@x.org\"]\n",
        server.address.port()
    )
}

/// Subjects with these words, and their mails.
fn mails(server: &SmtpServer, words: &str) -> Vec<crate::smtp_server::Received> {
    server.received().into_iter().filter(|mail| mail.header("Subject").contains(words)).collect()
}

/// A soak beside a systemd of the test's own, which says what the file `state` has.
fn beside_a_pretend_systemd() -> Soak {
    use std::os::unix::fs::PermissionsExt;
    let soak = Soak::under(&[], |folder| {
        let (script, state) = (folder.join("bin/systemctl"), folder.join("state"));
        std::fs::create_dir(folder.join("bin")).expect("made");
        std::fs::write(&script, format!("#!/bin/sh\n[ \"$1\" = is-system-running ] && cat {}\n", state.display()))
            .expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("may be run");
        std::fs::write(state, "degraded\n").expect("written");
        let path = std::env::var("PATH").unwrap_or_default();
        vec![("PATH", format!("{}:{path}", folder.join("bin").display()).into())]
    });
    soak.until("SELECT count(*) > 3 FROM work_sample");
    soak
}

#[test]
fn a_host_that_is_shut_down_ends_no_run_and_a_unit_that_is_stopped_does() {
    let mut soak = beside_a_pretend_systemd();
    std::fs::write(soak.folder().join("state"), "stopping\n").expect("written");
    soak.kill(soak.supervisor(), nix::libc::SIGTERM);
    assert_eq!(soak.wait(), 3, "nothing is known yet: {}", soak.said());
    assert_eq!(soak.text("SELECT state || coalesce(verdict, '') FROM run"), "running", "the next boot goes on");
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'host_shutdown'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0, "nobody is left behind");
    assert_eq!(
        soak.number("SELECT expects_unix_ms IS NOT NULL FROM heartbeat WHERE role = 'supervisor'"),
        1,
        "it is missed if it does not come back"
    );
    let before = soak.number("SELECT count(*) FROM work_sample");
    std::fs::write(soak.folder().join("state"), "running\n").expect("written");
    soak.again(&[]);
    soak.until(&format!("SELECT count(*) > {before} + 3 FROM work_sample"));
    soak.kill(soak.supervisor(), nix::libc::SIGTERM);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert_eq!(soak.text("SELECT group_concat(state) FROM run"), "interrupted", "one run, with a verdict");
    assert_eq!(soak.number("SELECT verdict IS NOT NULL FROM run"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'run_resumed'"), 1);
}

/// Renamed into place, so that no half-written file is read.
fn order(soak: &Soak, orders: &str) {
    let (new, path) = (soak.folder().join("orders.new"), soak.folder().join("orders"));
    std::fs::write(&new, orders).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

#[test]
fn a_file_system_that_turns_read_only_full_or_bad_in_mid_run_stops_no_soak_and_loses_no_event() {
    let mut soak = on_a_pretend_host();
    soak.until("SELECT count(*) > 3 FROM work_sample");
    for (n, (code, what)) in [(30, "EROFS"), (28, "ENOSPC"), (5, "EIO")].into_iter().enumerate() {
        order(&soak, &format!("disk {code}\n"));
        soak.wait_for(what, || soak.said().matches(" ERROR ").count() > n);
        // An event in the middle of it: it must wait for the disk, and be counted once.
        soak.kill(soak.pid("worker"), nix::libc::SIGKILL);
        soak.wait_for("the crash", || soak.said().matches("ended by signal 9").count() > n);
        order(&soak, "");
        soak.until(&format!("SELECT count(*) = {} FROM event WHERE kind = 'disk_recovered'", n + 1));
        soak.until(&format!("SELECT count(*) = {} FROM event WHERE kind = 'worker_crash'", n + 1));
        soak.until(&format!(
            "SELECT count(*) > 2 FROM work_sample JOIN process USING (process_id) WHERE incarnation = {}",
            n + 2
        ));
        assert_eq!(soak.text("PRAGMA integrity_check"), "ok", "{what}");
    }
    assert_eq!(soak.interrupt(), 1, "the crashes fail it, the disk does not: {}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role = 'supervisor'"), 1, "it watched throughout");
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0);
    let holes = "SELECT count(*) FROM (SELECT unix_ms AS until, unix_ms - lag(unix_ms) OVER (ORDER BY unix_ms) AS hole_ms FROM host_sample)
         WHERE hole_ms > 15000 AND NOT EXISTS (SELECT 1 FROM gap WHERE from_unix_ms <= until AND to_unix_ms >= until - hole_ms)";
    assert_eq!(soak.number(holes), 0, "what was shed is a gap");
}

#[test]
fn a_disk_that_takes_nothing_at_all_is_mailed_all_the_same_and_its_end_too() {
    let server = SmtpServer::start();
    let mut soak = on_a_pretend_host_with(&mail_to(&server));
    soak.until("SELECT count(*) > 3 FROM work_sample");
    soak.until("SELECT count(*) = 1 FROM heartbeat WHERE role = 'mailer'");
    order(&soak, "disk 28\n");
    let (dead, back) = ("cannot write its database: the disk is full", "writes its database again");
    soak.wait_for("the alarm", || !mails(&server, dead).is_empty());
    // An event in the middle of it waits for the disk, and so does its mail.
    soak.kill(soak.pid("worker"), nix::libc::SIGABRT);
    soak.wait_for("the crash", || soak.said().contains("ended by signal 6"));
    order(&soak, "");
    soak.wait_for("the all-clear", || !mails(&server, back).is_empty());
    soak.wait_for("the crash by mail", || !mails(&server, "SIGABRT").is_empty());
    soak.interrupt();
    let (alarms, ends) = (mails(&server, dead), mails(&server, back));
    assert_eq!((alarms.len(), ends.len()), (1, 1), "once each: {}", soak.said());
    assert_eq!(ends[0].header("In-Reply-To"), alarms[0].header("Message-ID"), "one thread");
    assert!(alarms[0].header("Subject").starts_with("[PAGE]"), "{}", alarms[0].header("Subject"));
    assert!(mails(&server, "soakd itself").is_empty(), "the supervisor was there all the time");
    println!("{}", alarms[0].data);
}

/// A soak whose database lies on a disk of its own, of 40 MB, with more configuration; none where nothing can be mounted, as is said then.
fn on_a_small_disk(more: &str) -> Option<Soak> {
    let mut is_mounted = false;
    let soak = Soak::under(&[], |folder| {
        std::fs::create_dir(disk(folder)).expect("made");
        is_mounted = mounted(&disk(folder), "size=40m");
        let database = "[run]\ndatabase = \"disk/soak.db\"";
        configure(folder, |config| format!("{}{more}", config.replacen("[run]", database, 1)));
        std::os::unix::fs::symlink("disk/soak.db", folder.join("soak.db")).expect("linked");
        Vec::new()
    });
    is_mounted.then_some(soak)
}

fn disk(folder: &std::path::Path) -> std::path::PathBuf {
    folder.join("disk")
}

fn unmount(soak: &Soak) {
    let unmounted = std::process::Command::new("umount").arg("-l").arg(disk(soak.folder())).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the mount goes away");
}

#[test]
fn on_a_full_disk_events_are_written_and_mailed_from_the_reserve() {
    let server = SmtpServer::start();
    let Some(mut soak) = on_a_small_disk(&mail_to(&server)) else { return };
    soak.until("SELECT count(*) > 3 FROM work_sample");
    fill(&disk(soak.folder()).join("filler"));
    soak.wait_for("the alarm", || !mails(&server, "is full").is_empty());
    soak.kill(soak.pid("worker"), nix::libc::SIGABRT);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash'");
    soak.wait_for("the crash by mail", || !mails(&server, "SIGABRT").is_empty());
    soak.until("SELECT count(*) > 0 FROM event WHERE kind = 'worker_crash' AND unix_ms < (SELECT max(unix_ms) - 5000 FROM heartbeat)");
    let told = "SELECT count(*) * 10 + (SELECT count(*) FROM event WHERE kind = 'disk_recovered') FROM event WHERE kind = 'disk_full'";
    assert_eq!(soak.number(told), 10, "it is told once that it is full, and it still is");
    let untrue = "SELECT (SELECT count(*) FROM outbox WHERE body_text LIKE '%are lost%')
                    + (SELECT count(*) FROM event WHERE kind = 'disk_full' AND summary LIKE '%shed%')";
    assert_eq!(soak.number(untrue), 0, "nothing is lost yet, and nothing shed");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE state <> 'sent'"), 0, "and it is noted that they left");
    std::fs::remove_file(disk(soak.folder()).join("filler")).expect("it was there");
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'disk_recovered'");
    soak.interrupt();
    assert_eq!(soak.text("PRAGMA integrity_check"), "ok");
    unmount(&soak);
}

/// The verdict is written from the reserve, and the samples that were not are a gap up to the end: else the run would have
/// watched what nobody can look up.
#[test]
fn a_run_that_ends_on_a_full_disk_books_what_was_shed() {
    let Some(mut soak) = on_a_small_disk("") else { return };
    soak.until("SELECT count(*) > 3 FROM work_sample");
    fill(&disk(soak.folder()).join("filler"));
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'disk_full'");
    soak.kill(soak.pid("worker"), nix::libc::SIGABRT);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash'");
    soak.interrupt();
    let booked =
        "SELECT count(*) FROM gap JOIN run USING (run_id) WHERE reason = 'disk_full' AND to_unix_ms = ended_unix_ms
         AND from_unix_ms <= (SELECT min(unix_ms) FROM event WHERE kind = 'worker_crash')";
    let said = soak.said();
    assert_eq!(
        soak.number(booked),
        1,
        "{}\n{said}",
        soak.text("SELECT coalesce(group_concat(reason), 'no gap') FROM gap")
    );
    unmount(&soak);
}

/// Until the file system is full.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).expect("a file");
    for size in [1 << 20, 4_096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_run_that_ends_on_a_dead_disk_says_that_its_verdict_is_not_written() {
    let mut soak = on_a_pretend_host();
    soak.until("SELECT count(*) > 3 FROM work_sample");
    order(&soak, "disk 30\n");
    soak.wait_for("the failure", || soak.said().contains(" ERROR "));
    let code = soak.interrupt();
    assert!(soak.said().contains("The verdict could not be written to the database"), "{code}: {}", soak.said());
    assert_ne!(code, 0, "nobody can look it up: {}", soak.said());
}

#[test]
fn a_clock_that_steps_and_a_host_that_sleeps_are_told_and_are_no_uptime() {
    let mut soak = on_a_pretend_host();
    soak.until("SELECT count(*) > 3 FROM work_sample");
    for (n, wall) in [(1, "wall 3600\n"), (2, "wall -3600\n"), (3, "wall 0\n")] {
        order(&soak, wall);
        soak.until(&format!("SELECT count(*) = {n} FROM event WHERE kind = 'clock_step'"));
        let before = soak.number("SELECT count(*) FROM work_sample");
        soak.until(&format!("SELECT count(*) > {before} + 2 FROM work_sample"));
    }
    order(&soak, "slept 1200\n");
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'suspend'");
    let before = soak.number("SELECT count(*) FROM work_sample");
    soak.until(&format!("SELECT count(*) > {before} + 2 FROM work_sample"));
    let code = soak.interrupt();
    assert!([0, 3].contains(&code), "a clock is no failure: {code}: {}", soak.said());
    assert_eq!(
        soak.number("SELECT count(*) FROM gap WHERE reason = 'suspend' AND to_unix_ms - from_unix_ms > 1190000"),
        1
    );
    assert_eq!(
        soak.number("SELECT count(*) FROM event WHERE kind IN ('worker_hang', 'worker_crash', 'probe_hang')"),
        0
    );
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role = 'worker'"), 1, "and nobody is taken for hung");
    let watched = soak.said();
    assert!(!watched.contains(" h watched"), "neither the hour nor the sleep is uptime: {watched}");
    counts_are_the_last_ones(&soak);
}

/// The wall clock was an hour ahead in between: what was counted last is not what was written under the latest time.
fn counts_are_the_last_ones(soak: &Soak) {
    let tokens =
        soak.number("SELECT sum(tokens) FROM (SELECT max(tokens) AS tokens FROM work_sample GROUP BY process_id)");
    let ahead = "SELECT tokens FROM work_sample ORDER BY unix_ms DESC LIMIT 1";
    assert!(soak.number(ahead) < tokens, "or this shows nothing");
    assert!(soak.said().contains(&format!("\n{tokens} tokens in ")), "{tokens}: {}", soak.said());
    let ask = |args: &[&str]| {
        let mut command = std::process::Command::new(soak::binary());
        let output = command.args(args).current_dir(soak.folder()).output().expect("soakd starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let metrics = ask(&["metrics"]);
    let told = metrics.lines().find_map(|line| line.strip_prefix("soakd_tokens_total ")?.parse::<f64>().ok());
    assert_eq!(told, Some(tokens as f64), "{metrics}");
    assert!(ask(&["report", "1", "--format", "text"]).contains(&format!(" {tokens} (")), "the report");
    assert_eq!(soak.number("SELECT count(*) FROM v_throughput WHERE tokens < 0 OR tokens_per_s < 0"), 0);
    assert_eq!(soak.number("SELECT sum(tokens) FROM v_throughput"), tokens, "each minute adds to the one before");
    let backward = "SELECT count(*) FROM (SELECT hour, lag(hour) OVER (ORDER BY event_id) AS before FROM v_events)
                    WHERE hour < before - 0.001 OR hour > 0.7";
    assert_eq!(soak.number(backward), 0, "hours are those that passed, the sleep of twenty minutes among them");
    assert_eq!(soak.number("SELECT min(is_final) FROM v_drift"), 1, "the last finding is the final one");
}

#[test]
fn a_leap_of_the_time_zone_is_no_leap_of_time() {
    // From the date line's one side to its other, a day and more by the clock on the wall of the room.
    let mut soak = Soak::under(&[], |_| vec![("TZ", "LINT-14".into())]);
    soak.until("SELECT count(*) > 3 FROM work_sample");
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    soak.wait();
    let before = soak.number("SELECT count(*) FROM work_sample");
    soak.again_with("TZ", "AoE12");
    soak.until(&format!("SELECT count(*) > {before} + 1 FROM work_sample"));
    soak.kill(soak.pid("worker"), nix::libc::SIGABRT);
    soak.until("SELECT count(*) > 0 FROM outbox WHERE labels LIKE '%crash%' OR subject LIKE '%crash%'");
    soak.until("SELECT count(*) = 0 FROM outbox WHERE state <> 'sent'");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'clock_step'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM gap WHERE reason = 'supervisor_down'"), 1);
    let hour = 3_600_000;
    assert_eq!(soak.number(&format!("SELECT count(*) FROM gap WHERE to_unix_ms - from_unix_ms >= {hour}")), 0);
    let off = soakd::clock::now().wall.0 - soak.number("SELECT max(unix_ms) FROM event");
    assert!((0..hour).contains(&off), "an event is off by {off} ms");
    let mails = std::fs::read_dir(soak.folder().join("mail")).expect("mails").map(|mail| mail.expect("a mail").path());
    let dates: Vec<String> = mails
        .map(|mail| std::fs::read_to_string(mail).expect("text"))
        .map(|mail| mail.lines().find(|line| line.starts_with("Date: ")).expect("a date").to_owned())
        .collect();
    assert!(!dates.is_empty() && dates.iter().all(|date| date.trim_end().ends_with("+0000")), "{dates:?}");
}

/// Mounts that only root can make; said on stderr where it cannot, for a test that does less must not look the same.
fn mounted(folder: &std::path::Path, options: &str) -> bool {
    let done =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "soakd-test"]).arg(folder).output();
    let mounted = done.is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("not root: no read-only file system to try");
    }
    mounted
}

#[test]
fn a_read_only_file_system_is_refused_with_its_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    if !mounted(folder.path(), "ro,size=1m") {
        return;
    }
    let database = folder.path().join("soak.db").display().to_string();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let (code, said) =
        soak::once(elsewhere.path(), &["--model", "synthetic:tiny", "--db", &database, "--duration", "2s"]);
    let unmounted = std::process::Command::new("umount").arg("-l").arg(folder.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "the mount goes away");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("cannot write to") && said.contains("--db") && said.contains(&database), "{said}");
}

/// A control group with a limit of memory, of either version; `None` where none can be made.
struct SmallMemory(std::path::PathBuf);

impl SmallMemory {
    fn make(bytes: u64) -> Option<SmallMemory> {
        for (root, limit) in [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")] {
            let group = std::path::Path::new(root).join(format!("soakd-test-{}", std::process::id()));
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let made = SmallMemory(group);
            // Where the hierarchy is another one, this is a folder like any other: the file would only be a file.
            let real = made.0.join(limit).exists() && made.0.join("cgroup.procs").exists();
            if real && std::fs::write(made.0.join(limit), bytes.to_string()).is_ok() {
                return Some(made);
            }
        }
        None
    }
}

impl Drop for SmallMemory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0); // the last process may take a moment; a leftover is empty
    }
}

#[test]
fn a_worker_that_the_kernel_kills_for_memory_is_told_from_a_crash() {
    let Some(group) = SmallMemory::make(120_000_000) else {
        return eprintln!("no control group can be made here: low memory is not tried");
    };
    let leak = r#"{"what":"leak","bytes_per_second":20000000}@10s"#;
    let mut soak = Soak::start(&["--inject", leak]);
    // Everything that is started from now on is in it, and the memory that is touched from now on counts.
    std::fs::write(group.0.join("cgroup.procs"), soak.supervisor().to_string()).expect("moved");
    for role in ["worker", "probe"] {
        soak.until(&format!("SELECT count(*) > 0 FROM process WHERE role = '{role}'"));
        let pid = soak.pid(role);
        let _ = std::fs::write(group.0.join("cgroup.procs"), pid.to_string()); // it may have been born in it
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let name = group.0.file_name().and_then(|name| name.to_str()).expect("a name of ours");
        assert!(groups.contains(name), "the {role} is not in the group, and a leak would be the machine's: {groups}");
    }
    soak.until("SELECT count(*) > 0 FROM event WHERE kind = 'worker_oom'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(
        soak.number("SELECT count(*) FROM process WHERE role = 'worker' AND end_reason = 'oom' AND exit_signal = 9"),
        1
    );
    assert_eq!(
        soak.number("SELECT count(*) FROM process WHERE role = 'supervisor'"),
        1,
        "the watcher outlives what it watches"
    );
}
