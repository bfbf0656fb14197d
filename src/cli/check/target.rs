//! The user's own server: can it be started or found, and can it be driven. Nothing is started, and no request is made but
//! the one that asks for its models.

use super::Findings;
use crate::config::Config;
use crate::config::units::format_duration;
use crate::supervisor::intake::target_plan;
use crate::target::kept;
use crate::target::load::{Load, Means};
use crate::target::prompts::Prompts;
use crate::worker::protocol::TargetPlan;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

const CHECK: &str = "target";
/// To see whether somebody listens on a port already.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn look(config: &Config, offline: bool, findings: &mut Findings) {
    let plan = target_plan(&config.target, config.worker.start_timeout);
    match kept::look_for(&plan) {
        Ok(what) => findings.ok(CHECK, what),
        Err(why) => findings.blocker(CHECK, why, "correct [target] in the configuration"),
    }
    let means = match Means::of(&plan) {
        Ok(means) => means,
        Err(why) => return findings.blocker("load", why, "correct [target] in the configuration"),
    };
    if let Some(file) = &plan.prompts_file {
        let made = Prompts::made(0, 1, 1, 1, plan.lengths);
        match made.with_file(file) {
            Ok(prompts) => findings.ok("load", format!("{}: {} prompts", file.display(), prompts.count())),
            Err(why) => findings.blocker("load", why, "correct the file, or leave target.prompts_file out"),
        }
    }
    if let Ok(Load::OpenAi(endpoint, _)) = Load::parse(&plan.load)
        && !offline
    {
        if plan.command.is_empty() {
            answers(config, &plan, &means, findings);
        } else {
            is_free(&endpoint.address, findings);
        }
    }
}

/// A server that runs should take requests by now.
fn answers(config: &Config, plan: &TargetPlan, means: &Means, findings: &mut Findings) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = match runtime {
        Ok(runtime) => runtime.block_on(means.ready()),
        Err(error) => Err(error.to_string()),
    };
    match asked {
        Ok(model) => {
            let serves = model.map_or(String::new(), |model| format!(", and serves {model}"));
            findings.ok("load", format!("{} takes requests{serves}", plan.load));
        }
        Err(why) => {
            let waits = format_duration(config.worker.start_timeout);
            let remedy = format!("start the server or correct target.load; a run waits {waits} for it");
            findings.warning("load", why, remedy);
        }
    }
}

/// A server that is to be started must find its port free, or the load would go to a stranger.
fn is_free(address: &str, findings: &mut Findings) {
    let mut addresses = address.to_socket_addrs().into_iter().flatten();
    if addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok()) {
        let remedy = "end it, or watch it as it is with target.pid or target.unit";
        findings.warning(
            "load",
            format!("somebody listens on {address} already, where the command is to serve"),
            remedy,
        );
    } else {
        findings.ok("load", format!("{address} is free for the command"));
    }
}
