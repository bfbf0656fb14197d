//! `soakd run -- COMMAND` and `--pid`: a stand-in server that leaks a known number of bytes a request, and every way in
//! which a target or its endpoint disappoints.

mod aim;

use aim::{Stranger, events, free_port, rows, soak, soak_with, stand_in};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_servers_leak_is_measured_per_request_in_the_child_that_serves() {
    const LEAK: usize = 40_000;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, server, leak) = (free_port(), stand_in(), LEAK.to_string());
    let load = format!("openai:http://127.0.0.1:{port}/v1");
    let command = [server.to_str().expect("text"), &port.to_string(), "--worker", "--leak", &leak];
    let out = soak(dir.path(), &["--duration", "15s", "--rate", "60", "--load", &load, "--golden"], &command);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(matches!(out.status.code(), Some(0 | 1 | 3)), "{said}{}", String::from_utf8_lossy(&out.stderr));
    // Memory against requests: a sample and a count are taken at different times, so requests are those between two counts, at the sample's.
    let counts = rows(
        dir.path(),
        "SELECT w.unix_ms, w.requests FROM work_sample AS w JOIN process AS p USING (process_id) WHERE p.role = 'worker' ORDER BY 1",
    );
    let number = |v: &serde_json::Value| v.as_f64().expect("a number");
    let requests_at = |ms: f64| {
        let pair = counts.windows(2).find(|pair| (number(&pair[0][0])..=number(&pair[1][0])).contains(&ms))?;
        let ([from, to], [before, after]) = ([0, 1].map(|i| number(&pair[i][0])), [0, 1].map(|i| number(&pair[i][1])));
        Some(before + (after - before) * (ms - from) / (to - from).max(1.0))
    };
    let samples = rows(
        dir.path(),
        "SELECT s.unix_ms, s.rss_anon_bytes + coalesce(s.swap_bytes, 0) FROM process AS p JOIN process_sample AS s USING (process_id)
         WHERE p.role = 'worker' ORDER BY 1",
    );
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|r| Some((requests_at(number(&r[0]))?, number(&r[1]))))
        .filter(|p| p.0 > 60.0)
        .collect();
    assert!(points.len() >= 5, "{} points", points.len());
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let slope = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>()
        / points.iter().map(|p| (p.0 - mx).powi(2)).sum::<f64>();
    assert!((slope / LEAK as f64 - 1.0).abs() < 0.1, "{slope:.0} bytes per request where {LEAK} are leaked");
    let roles = rows(
        dir.path(),
        "SELECT p.name, max(s.rss_anon_bytes), count(DISTINCT p.process_id) FROM process AS p JOIN process_sample AS s USING (process_id)
         WHERE p.role = 'target_child' GROUP BY 1 ORDER BY 1",
    );
    assert_eq!(roles.len(), 2, "one who waits and one who serves: {roles:?}");
    assert!(roles.iter().all(|role| role[2] == 1), "each has lived once: {roles:?}");
    assert!(roles[0][0] == "leaky_server" && roles[1][0] == "leaky_server/1", "{roles:?}");
    assert!(
        roles[1][1].as_f64() > roles[0][1].as_f64().map(|waits| waits + 5e6),
        "it leaks where it serves: {roles:?}"
    );
    let work = &rows(dir.path(), "SELECT max(requests), max(tokens), max(golden_mismatches) FROM work_sample")[0];
    assert!(work[1].as_i64() > work[0].as_i64() && work[2].as_i64() == Some(0), "{work:?}");
    assert_eq!(events(dir.path(), "orphan_killed"), Vec::<String>::new(), "its worker ended with it");
    assert!(!events(dir.path(), "golden_recorded").is_empty());
    let kinds = rows(dir.path(), "SELECT DISTINCT kind FROM latency ORDER BY kind");
    assert_eq!(kinds.len(), 3, "token, first token, request: {kinds:?}");
    let metrics =
        Command::new(env!("CARGO_BIN_EXE_soakd")).current_dir(dir.path()).arg("metrics").output().expect("runs");
    let text = String::from_utf8_lossy(&metrics.stdout);
    assert!(text.contains(&format!("soakd_requests_total {}\n", work[0])) && text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn a_process_that_already_runs_is_watched_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let mut stranger =
        Stranger(Command::new(stand_in()).arg(port.to_string()).stderr(Stdio::null()).spawn().expect("starts"));
    let (pid, load) = (stranger.0.id().to_string(), format!("openai-chat:http://127.0.0.1:{port}/v1"));
    let out = soak(dir.path(), &["--duration", "12s", "--pid", &pid, "--load", &load, "--streams", "2"], &[]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(stranger.0.try_wait().expect("asks"), None, "it was only watched");
    let seen = &rows(
        dir.path(),
        "SELECT max(requests), (SELECT count(*) FROM process_sample AS s JOIN process AS p USING (process_id)
        WHERE p.role = 'worker' AND s.rss_anon_bytes > 0) FROM work_sample",
    )[0];
    assert!(seen[0].as_i64() > Some(10) && seen[1].as_i64() > Some(2), "{seen:?}");
}

#[test]
fn a_tree_is_whole_though_its_root_begins_another_program_and_a_daemon_forks_away() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // One forks twice and leads a session of its own, as daemons do; the root becomes another program.
    let script = "(setsid sh -c 'sleep 311 & wait' &) ; sleep 1; exec sleep 312";
    let out = soak(dir.path(), &["--duration", "9s"], &["sh", "-c", script]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    // What most samples say: the first may see the shell at work, and the last, on a busy machine, the end of the run.
    let sql = "SELECT s.threads FROM process_sample AS s JOIN process AS p USING (process_id) WHERE p.role = 'worker'
         GROUP BY 1 ORDER BY count(*) DESC LIMIT 1";
    assert_eq!(rows(dir.path(), sql)[0][0], 3, "the root, the daemon and its child");
    let left = Command::new("sh").args(["-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).output().expect("a list");
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("sleep 311 ") && !left.contains("sleep 312 "), "all of it ends with the run");
}

/// Between two requests that are due a minute apart a server owes nobody an answer. It used to be killed as hung.
#[test]
fn a_server_that_is_asked_rarely_is_not_hung_in_between() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, server) = (free_port(), stand_in());
    let load = format!("openai:http://127.0.0.1:{port}/v1");
    let config = "stall = \"2s\"\n[worker]\nhang_after = \"5s\"\n";
    let args = ["--duration", "16s", "--rate", "0.05", "--load", &load];
    let out = soak_with(dir.path(), config, &args, &[server.to_str().expect("text"), &port.to_string()]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    let asked = rows(dir.path(), "SELECT max(requests) FROM work_sample")[0][0].as_i64();
    assert!(matches!(asked, Some(1 | 2)), "one in twenty seconds: {asked:?}"); // a busy machine may take longer over the run
    assert_eq!(events(dir.path(), "worker_hang"), Vec::<String>::new());
}

#[test]
fn prompts_from_a_file_are_asked_as_they_are_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, server) = (free_port(), stand_in());
    let file = dir.path().join("prompts.jsonl");
    std::fs::write(&file, "{\"prompt\": \"one two three\", \"answer_tokens\": 5}\n".repeat(3)).expect("written");
    let load = format!("openai:http://127.0.0.1:{port}/v1");
    let args = ["--duration", "10s", "--load", &load, "--prompts", file.to_str().expect("text"), "--golden"];
    let out = soak(dir.path(), &args, &[server.to_str().expect("text"), &port.to_string()]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    let sql = "SELECT requests, tokens, prompt_tokens, loops, failures FROM work_sample ORDER BY unix_ms DESC LIMIT 1";
    let last: Vec<i64> = rows(dir.path(), sql)[0].iter().map(|cell| cell.as_i64().expect("a number")).collect();
    let [requests, tokens, prompt_tokens, loops, failures] = last[..] else { panic!("{last:?}") };
    assert!(requests > 5 && failures == 0, "{last:?}");
    assert_eq!((tokens, prompt_tokens, loops), (requests * 5, requests * 3, requests / 3));
    let bad = dir.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n").expect("written");
    let args = ["--fresh", "--duration", "4s", "--load", &load, "--prompts", bad.to_str().expect("text")];
    let out = soak(dir.path(), &args, &[server.to_str().expect("text"), &port.to_string()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(2) && said.contains("bad.jsonl:2: none of"), "{said}");
}

#[test]
fn every_profile_is_a_configuration_that_starts_something_and_drives_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("profiles") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "toml") {
            let config = soakd::config::load(Some(&path)).unwrap_or_else(|e| panic!("{e}"));
            assert!(config.target.is_set() && config.target.load.starts_with("openai"), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} profiles");
}
