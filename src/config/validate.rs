//! What cannot be, though every value alone could: one list of sentences, for files and for flags alike.

use super::error::{Place, Problem};
use super::mail::{Mail, Tls, Transport};
use super::resolved::{Config, Devices};
use super::units::format_duration;
use std::time::Duration;

/// A run that is sampled less often would see nothing of a 10-minute soak; oftener would load what it watches.
const SAMPLE_INTERVAL: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

/// Everything that is impossible in `config`; `place` finds a key's place in the file.
pub fn problems(config: &Config, place: impl Fn(&str) -> Option<Place>) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    run(config, &mut found);
    model(config, &mut found);
    worker(config, &mut found);
    mail(&config.mail, &mut found);
    target(config, &mut found);
    let mut problems: Vec<Problem> =
        found.0.into_iter().map(|(key, what, remedy)| Problem { place: place(&key), key, what, remedy }).collect();
    problems.sort_by_key(|problem| problem.place);
    problems
}

/// Whether `[mail]` alone could be used.
pub fn mail_is_possible(settings: &Mail) -> bool {
    let mut found = Found(Vec::new());
    mail(settings, &mut found);
    found.0.is_empty()
}

struct Found(Vec<(String, String, String)>);

impl Found {
    fn unless(&mut self, holds: bool, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        if !holds {
            self.0.push((key.to_owned(), what.into(), remedy.into()));
        }
    }

    fn positive(&mut self, key: &str, duration: Duration) {
        self.unless(!duration.is_zero(), key, "it is zero", "write a duration such as \"30s\"");
    }
}

fn run(config: &Config, found: &mut Found) {
    let run = &config.run;
    found.positive("run.duration", run.duration);
    found.unless(
        run.horizon >= Duration::from_secs(60),
        "run.horizon",
        format!("{} is too short a time to state drift over", format_duration(run.horizon)),
        "write at least \"1m\"; \"48h\" is what the verdict is meant for",
    );
    found.unless(
        run.tolerance_bytes > 0,
        "run.tolerance",
        "it is zero, and no memory is that still",
        "write a size such as \"50MB\"",
    );
    let [least, most] = SAMPLE_INTERVAL;
    found.unless(
        (least..=most).contains(&run.sample_interval),
        "run.sample_interval",
        format!("{} is out of range", format_duration(run.sample_interval)),
        format!("write a duration from {} to {}", format_duration(least), format_duration(most)),
    );
    found.unless(
        run.look_every >= run.sample_interval,
        "run.look_every",
        "it is shorter than run.sample_interval, so there would be nothing new to look at",
        "write \"1m\"",
    );
    found.positive("churn.every", config.churn.every);
    found.positive("burst.on", config.burst.on);
    found.positive("burst.off", config.burst.off);
    found.positive("alerts.evaluate_every", config.alerts.evaluate_every);
    found.positive("canary.found_within", config.canary.found_within);
    found.unless(
        !config.canary.enabled || config.canary.leak_bytes > run.tolerance_bytes,
        "canary.leak",
        "it is not above run.tolerance, so a detector that works would never find it",
        "leak at least twice the tolerance, or set canary.enabled = false",
    );
}

fn model(config: &Config, found: &mut Found) {
    let model = &config.model;
    found.unless(
        model.model != "synthetic:",
        "model.model",
        "synthetic: has no name after it",
        "write \"synthetic:small\", or the path of a GGUF file",
    );
    // Flags skip the reader's ranges, so they are checked here again.
    found.unless(
        (1..=16).contains(&model.streams),
        "model.streams",
        format!("{} is out of range", model.streams),
        "write a whole number from 1 to 16",
    );
    found.unless(
        model.threads.is_none_or(|threads| (1..=1024).contains(&threads)),
        "model.threads",
        "it is out of range",
        "write a whole number from 1 to 1024, or \"auto\"",
    );
    found.unless(
        (1..=1_000_000).contains(&model.prompt_tokens),
        "model.prompt_tokens",
        "it is out of range",
        "write a whole number from 1 to 1000000",
    );
    found.unless(
        (1..=1_000_000).contains(&model.answer_tokens),
        "model.answer_tokens",
        "it is out of range",
        "write a whole number from 1 to 1000000",
    );
    found.unless(config.run.seed >= 0, "run.seed", "it is negative", "write a whole number from 0");
    let needed = model.prompt_tokens + model.answer_tokens;
    found.unless(
        model.context() >= needed,
        "model.context_tokens",
        format!("{} tokens do not hold prompt_tokens + answer_tokens = {needed}", model.context()),
        format!("write {needed} or more, or \"auto\""),
    );
    if let Devices::These(ordinals) = &model.devices {
        let mut distinct = ordinals.clone();
        distinct.sort_unstable();
        distinct.dedup();
        found.unless(
            !ordinals.is_empty() && distinct.len() == ordinals.len(),
            "model.devices",
            "the list is empty or names a GPU twice",
            "list each GPU once, such as [0, 1], or write \"all\"",
        );
    }
}

fn worker(config: &Config, found: &mut Found) {
    let worker = &config.worker;
    found.positive("worker.heartbeat", worker.heartbeat);
    found.positive("worker.start_timeout", worker.start_timeout);
    found.positive("worker.backoff_min", worker.backoff_min);
    found.positive("worker.healthy_after", worker.healthy_after);
    found.unless(
        worker.hang_after >= worker.heartbeat * 3,
        "worker.hang_after",
        format!(
            "{} is less than three heartbeats, so a busy machine would look hung",
            format_duration(worker.hang_after)
        ),
        format!("write {} or more", format_duration(worker.heartbeat * 3)),
    );
    found.unless(
        worker.backoff_max >= worker.backoff_min,
        "worker.backoff_max",
        "it is below worker.backoff_min",
        "write a longer duration",
    );
    found.unless(
        (Duration::from_millis(100)..=Duration::from_secs(8)).contains(&worker.stop_timeout),
        "worker.stop_timeout",
        format!("{} is out of range: a run must end within 10s of SIGTERM", format_duration(worker.stop_timeout)),
        "write a duration from 100ms to 8s",
    );
    found.unless(
        config.probe.hang_after >= config.run.sample_interval * 3,
        "probe.hang_after",
        "it is less than three sample intervals, so a busy machine would look hung",
        format!("write {} or more", format_duration(config.run.sample_interval * 3)),
    );
    found.unless(
        config.probe.pss_every >= config.run.sample_interval,
        "probe.pss_every",
        "it is shorter than run.sample_interval",
        format!("write {} or more", format_duration(config.run.sample_interval)),
    );
    found.unless(
        config.mailer.supervisor_silent_after >= Duration::from_secs(10),
        "mailer.supervisor_silent_after",
        "it is too short: a busy disk would look like a death",
        "write \"2m\"",
    );
}

fn target(config: &Config, found: &mut Found) {
    let target = &config.target;
    found.unless(
        target.ways() <= 1,
        "target.command",
        "command, pid and unit name different things to soak",
        "give one of them",
    );
    let known = ["openai:http://", "openai:https://", "openai-chat:http://", "openai-chat:https://", "command:"]
        .iter()
        .any(|start| target.load.starts_with(start));
    found.unless(
        target.load == "none" || known,
        "target.load",
        format!("{:?} is no load", target.load),
        "write \"none\", \"openai:http://127.0.0.1:8000/v1\", \"openai-chat:http://...\" or \"command:TEXT\"",
    );
    found.unless(
        target.load == "none" || target.is_set(),
        "target.load",
        "there is load, but nothing to soak",
        "give a command, --pid or --unit: the memory that counts is that of the server, not of the load",
    );
    found.unless(
        target.rate_per_s.is_none_or(|rate| (0.001..=1_000.0).contains(&rate)),
        "target.rate_per_s",
        "it is out of range",
        "write a number of requests per second from 0.001 to 1000, or \"none\"",
    );
    found.positive("target.stall", target.stall);
    found.unless(
        target.warm_up < config.run.duration || config.run.duration.is_zero(), // which is told already
        "target.warm_up",
        "it is as long as the run, so nothing would be judged",
        "write a shorter one, such as \"10m\"",
    );
    let remote = target
        .load
        .split_once("http://")
        .is_some_and(|(_, rest)| !["127.", "localhost", "[::1]"].iter().any(|here| rest.starts_with(here)));
    found.unless(
        target.api_key_file.is_none() || !remote,
        "target.api_key_file",
        "the key would cross the network in clear text",
        "write the load with https://, or leave the key out",
    );
}

fn mail(mail: &Mail, found: &mut Found) {
    let address = |text: &str| {
        let inner = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
        inner.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !host.contains('@') && !inner.contains(char::is_whitespace)
        })
    };
    let example = "write it like \"oncall@example.org\"";
    found.unless(address(&mail.from), "mail.from", format!("{:?} is no mail address", mail.from), example);
    for (route, addresses) in &mail.routes {
        let key = format!("mail.routes.{route}");
        found.unless(!addresses.is_empty(), &key, "it names nobody", "list at least one address");
        for one in addresses {
            found.unless(address(one), &key, format!("{one:?} is no mail address"), example);
        }
    }
    found.unless(
        mail.routes.contains_key("default"),
        "mail.routes",
        "there is no route named default, so a rule with another route would mail nobody",
        "add default = [\"oncall@example.org\"]",
    );
    found.unless(
        mail.username.is_some() == mail.password_file.is_some(),
        if mail.username.is_some() { "mail.username" } else { "mail.password_file" },
        "username and password_file go together",
        "give both, or neither",
    );
    let host = mail.host.trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    found.unless(
        mail.transport != Transport::Smtp || mail.tls != Tls::None || here,
        "mail.tls",
        format!("mails to {} would cross the network in clear text", mail.host),
        "write \"starttls\" or \"implicit\"; none is for a server on this machine",
    );
    let is_place = |via: &String| {
        via.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
    };
    found.unless(
        mail.via.as_ref().is_none_or(is_place),
        "mail.via",
        "it is no place to connect to",
        "write \"127.0.0.1:2525\", or \"none\" to connect to mail.host itself",
    );
    found.unless(
        mail.subject_prefix.as_ref().is_none_or(|prefix| prefix.len() <= 40 && !prefix.chars().any(char::is_control)),
        "mail.subject_prefix",
        "it is too long for a subject line, or has control characters",
        "write a word such as \"[staging]\"",
    );
    found.positive("mail.timeout", mail.timeout);
    found.positive("mail.retry_min", mail.retry_min);
    found.unless(
        mail.retry_max >= mail.retry_min,
        "mail.retry_max",
        "it is below mail.retry_min",
        "write a longer duration",
    );
    found.unless(
        mail.heartbeat_every.is_none_or(|every| every >= Duration::from_secs(60)),
        "mail.heartbeat_every",
        "a sign of life more than once a minute is a flood",
        "write \"24h\", or \"none\"",
    );
}
