//! Error handling and fallback, tried: every fault of the drill, a line each.

use super::super::CannotStart;
use super::super::drill;
use super::Findings;
use crate::config::Config;

const CHECK: &str = "drill";

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let played = match drill::rehearse(config) {
        Ok(played) => played,
        Err(CannotStart(why)) => return findings.blocker(CHECK, why, "correct it, then `soakd drill`"),
    };
    for fault in played {
        let name = fault.fault.name();
        let seconds = |name: &str, s: Option<f64>| s.map_or(String::new(), |s| format!(", {name} after {s:.0} s"));
        if let Some(why) = &fault.skipped {
            findings.warning(CHECK, format!("{name} was not tried: {why}"), "nothing, if this machine has none");
        } else if fault.rang {
            let times = [
                seconds("recorded", fault.recorded_s),
                seconds("mailed", fault.mailed_s),
                seconds("recovered", fault.recovered_s),
            ];
            findings.ok(CHECK, format!("{name}: {}{}", fault.does, times.concat()));
        } else {
            let remedy = format!("`soakd drill --only {name} --keep drill-{name}` keeps database and logs to look at");
            findings.blocker(CHECK, format!("{name}: {} (expected: {})", fault.seen, fault.expected), remedy);
        }
    }
}
