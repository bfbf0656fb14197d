//! What ends a process that did nothing wrong: limits of the session or unit, and a host that plans to restart.

use super::Findings;
use crate::config::{Config, MailerRunsAs, Transport};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

const CHECK: &str = "limits";
/// Database, pipes and logs of supervisor and children, ten times over.
const OPEN_FILES_MIN: u64 = 256;
/// Supervisor, worker threads, probe, canary, mailer.
const PROCESSES_MIN: i64 = 128;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let before = findings.list.len();
    limit(
        Resource::RLIMIT_NOFILE,
        OPEN_FILES_MIN,
        "open files",
        "ulimit -n 4096 (or LimitNOFILE= in the unit)",
        findings,
    );
    limit(Resource::RLIMIT_FSIZE, 1_000_000_000, "bytes of a file", "ulimit -f unlimited (or LimitFSIZE=)", findings);
    limit(Resource::RLIMIT_CPU, u64::MAX, "seconds of CPU", "ulimit -t unlimited (or LimitCPU=)", findings);
    tasks(findings);
    if findings.list.len() == before {
        findings.ok(CHECK, "open files, file size, CPU time and tasks leave room");
    }
    survival(config, findings);
}

/// A blocker if the soft limit of `resource` is below `least`; "no limit" is always enough.
fn limit(resource: Resource, least: u64, what: &str, remedy: &str, findings: &mut Findings) {
    let Ok((soft, _)) = getrlimit(resource) else { return };
    if soft != RLIM_INFINITY && soft < least {
        let needed = if least == u64::MAX { String::new() } else { format!(", at least {least} are needed") };
        findings.blocker(CHECK, format!("this session is limited to {soft} {what}{needed}"), remedy);
    }
}

fn tasks(findings: &mut Findings) {
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = group.lines().find_map(|line| line.strip_prefix("0::/")) else { return };
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{path}/{name}")).ok();
    let number = |name: &str| read(name).and_then(|text| text.trim().parse::<i64>().ok());
    if let (Some(most), Some(now)) = (number("pids.max"), number("pids.current"))
        && most - now < PROCESSES_MIN
    {
        let what = format!("this control group may have {most} tasks and has {now}");
        findings.warning(CHECK, what, "raise TasksMax= of the unit or slice");
    }
}

/// Will something end the run that has nothing to do with it.
fn survival(config: &Config, findings: &mut Findings) {
    let under_systemd = std::env::var_os("INVOCATION_ID").is_some();
    let remote = std::env::var_os("SSH_CONNECTION").is_some();
    let held = std::env::var_os("TMUX").is_some() || std::env::var_os("STY").is_some();
    if remote && !held && !under_systemd {
        let remedy = "start it in tmux, or as a service: systemctl start soakd";
        findings.warning("session", "this is an SSH session: when it is cut, a run started here ends", remedy);
    }
    if automatic_reboot() {
        let remedy = "set Unattended-Upgrade::Automatic-Reboot \"false\" for the time of the run; a run resumes after a reboot \
                      only if soakd.service is enabled";
        findings.warning("reboots", "unattended upgrades may reboot this host", remedy);
    }
    if config.mailer.runs_as == MailerRunsAs::Child && config.mail.transport == Transport::Smtp {
        let remedy = "install soakd-mail.service and set mailer.runs_as = \"unit\"";
        findings.warning("mailer", "the mailer is a child of soakd run: if both are killed, nobody mails it", remedy);
    }
}

fn automatic_reboot() -> bool {
    let Ok(folder) = std::fs::read_dir("/etc/apt/apt.conf.d") else { return false };
    folder.flatten().any(|entry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines().any(|line| {
            let line = line.trim();
            line.starts_with("Unattended-Upgrade::Automatic-Reboot ") && line.contains("\"true\"")
        })
    })
}
