//! Second stage: tables to [`Config`]. One function a section; a key that is not asked for here is unknown.

use super::error::ConfigError;
use super::gates::Gates;
use super::mail::{CREDENTIAL, Mail, Mailer};
use super::raw::{Document, beside};
use super::resolved::{Alerts, Burst, Canary, Churn, Config, Devices, Model, Probe, Run, Source, Worker};
use super::validate;
use crate::model::gate::Gate;
use std::path::{Path, PathBuf};

/// Text to configuration, or all that is wrong with it.
pub fn resolve(name: &str, text: &str, base: &Path) -> Result<Config, ConfigError> {
    let mut document = Document::parse(name, text)?;
    let config = Config {
        source: Source::Embedded,
        run: run(&mut document),
        model: model(&mut document, base),
        target: target(&mut document, base),
        churn: churn(&mut document),
        burst: burst(&mut document),
        worker: worker(&mut document),
        probe: probe(&mut document, base),
        canary: canary(&mut document),
        alerts: alerts(&mut document, base),
        mail: mail(&mut document, base),
        mailer: mailer(&mut document),
        gates: gates(&mut document),
        metrics: metrics(&mut document),
    };
    document.finish();
    if document.problems.is_empty() {
        document.problems = validate::problems(&config, |key| document.places.get(key).copied());
    }
    if document.problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError { source: name.to_owned(), problems: document.problems })
    }
}

/// `[mail]` of a text whose other sections may be wrong; `None` if it is wrong itself, or not there.
pub fn salvage_mail(text: &str, base: &Path) -> Option<Mail> {
    let mut document = Document::salvage(text);
    let mail = mail(&mut document, base);
    let there = !document.places.is_empty();
    (there && document.problems.is_empty() && validate::mail_is_possible(&mail)).then_some(mail)
}

fn run(document: &mut Document<'_>) -> Run {
    let (mut run, mut section) = (Run::default(), document.section("run"));
    section.duration("duration", &mut run.duration);
    section.duration("horizon", &mut run.horizon);
    section.bytes("tolerance", &mut run.tolerance_bytes);
    section.duration("sample_interval", &mut run.sample_interval);
    section.duration("look_every", &mut run.look_every);
    section.choice("scenario", &mut run.scenario);
    section.integer("seed", 0..=i64::MAX, &mut run.seed);
    section.path("database", &mut run.database);
    section.finish();
    run
}

fn model(document: &mut Document<'_>, base: &Path) -> Model {
    let (mut model, mut section) = (Model::default(), document.section("model"));
    section.text("model", &mut model.model);
    section.choice("backend", &mut model.backend);
    let mut devices = None;
    section.integers_or("devices", "all", 0..=63, &mut devices);
    if let Some(ordinals) = devices {
        model.devices = Devices::These(ordinals.into_iter().map(|ordinal| ordinal as u32).collect());
    }
    section.choice("variant", &mut model.variant);
    section.integer("streams", 1..=16, &mut model.streams);
    section.integer("prompts", 1..=4096, &mut model.prompts);
    section.integer("prompt_tokens", 1..=1_000_000, &mut model.prompt_tokens);
    section.integer("answer_tokens", 1..=1_000_000, &mut model.answer_tokens);
    section.integer_or("context_tokens", "auto", 2..=2_000_000, &mut model.context_tokens);
    section.integer_or("threads", "auto", 1..=1024, &mut model.threads);
    section.flag("fallback_to_cpu", &mut model.fallback_to_cpu);
    section.finish();
    if !model.model.starts_with("synthetic:") {
        model.model = beside(base, &model.model).to_string_lossy().into_owned();
    }
    model
}

fn target(document: &mut Document<'_>, base: &Path) -> super::Target {
    let (mut target, mut section) = (super::Target::default(), document.section("target"));
    section.texts("command", &mut target.command);
    section.integer_or("pid", "none", 1..=4_194_304, &mut target.pid);
    section.text_or_none("unit", &mut target.unit);
    section.text("load", &mut target.load);
    section.text_or_none("model", &mut target.model);
    section.number_or_none("rate_per_s", &mut target.rate_per_s);
    section.flag("golden", &mut target.golden);
    section.duration("stall", &mut target.stall);
    section.choice("lengths", &mut target.lengths);
    section.path_or_none("prompts_file", base, &mut target.prompts_file);
    section.path_or_none("ca_file", base, &mut target.ca_file);
    section.path_or_none("api_key_file", base, &mut target.api_key_file);
    section.duration("warm_up", &mut target.warm_up);
    section.bytes("known_caches", &mut target.known_caches);
    section.finish();
    target
}

fn metrics(document: &mut Document<'_>) -> super::Metrics {
    let (mut metrics, mut section) = (super::Metrics::default(), document.section("metrics"));
    section.path_or_none("textfile", Path::new(""), &mut metrics.textfile);
    section.finish();
    metrics
}

fn churn(document: &mut Document<'_>) -> Churn {
    let (mut churn, mut section) = (Churn::default(), document.section("churn"));
    section.duration("every", &mut churn.every);
    section.finish();
    churn
}

fn burst(document: &mut Document<'_>) -> Burst {
    let (mut burst, mut section) = (Burst::default(), document.section("burst"));
    section.duration("on", &mut burst.on);
    section.duration("off", &mut burst.off);
    section.finish();
    burst
}

fn worker(document: &mut Document<'_>) -> Worker {
    let (mut worker, mut section) = (Worker::default(), document.section("worker"));
    section.duration("heartbeat", &mut worker.heartbeat);
    section.duration("hang_after", &mut worker.hang_after);
    section.duration("start_timeout", &mut worker.start_timeout);
    section.duration("stop_timeout", &mut worker.stop_timeout);
    section.duration("backoff_min", &mut worker.backoff_min);
    section.duration("backoff_max", &mut worker.backoff_max);
    section.duration("healthy_after", &mut worker.healthy_after);
    section.integer("crash_loop_limit", 1..=1000, &mut worker.crash_loop_limit);
    section.finish();
    worker
}

fn probe(document: &mut Document<'_>, base: &Path) -> Probe {
    let (mut probe, mut section) = (Probe::default(), document.section("probe"));
    section.duration("hang_after", &mut probe.hang_after);
    section.duration("pss_every", &mut probe.pss_every);
    section.path_or_none("nvml_library", base, &mut probe.nvml_library);
    section.finish();
    probe
}

fn canary(document: &mut Document<'_>) -> Canary {
    let (mut canary, mut section) = (Canary::default(), document.section("canary"));
    section.flag("enabled", &mut canary.enabled);
    section.bytes("leak", &mut canary.leak_bytes);
    section.duration("found_within", &mut canary.found_within);
    section.finish();
    canary
}

fn alerts(document: &mut Document<'_>, base: &Path) -> Alerts {
    let (mut alerts, mut section) = (Alerts::default(), document.section("alerts"));
    section.flag("builtin", &mut alerts.builtin);
    let mut rules = Vec::new();
    section.texts("rules", &mut rules);
    alerts.rules = rules.iter().map(|rule| beside(base, rule)).collect();
    section.duration("evaluate_every", &mut alerts.evaluate_every);
    section.duration_or_none("token_p95_max", &mut alerts.token_p95_max);
    section.duration_or_none("first_token_p95_max", &mut alerts.first_token_p95_max);
    section.number_or_none("throughput_min", &mut alerts.throughput_min);
    section.finish();
    alerts
}

fn mail(document: &mut Document<'_>, base: &Path) -> Mail {
    let (mut mail, mut section) = (Mail::default(), document.section("mail"));
    section.choice("transport", &mut mail.transport);
    section.path("folder", &mut mail.folder);
    section.text("from", &mut mail.from);
    section.text("host", &mut mail.host);
    section.integer_or("port", "auto", 1..=65_535, &mut mail.port);
    section.text_or_none("via", &mut mail.via);
    section.choice("tls", &mut mail.tls);
    section.text_or_none("username", &mut mail.username);
    let mut password = None;
    section.text_or_none("password_file", &mut password);
    mail.password_file =
        password.map(|text| if text.starts_with(CREDENTIAL) { PathBuf::from(text) } else { beside(base, &text) });
    section.path_or_none("ca_file", base, &mut mail.ca_file);
    section.duration("timeout", &mut mail.timeout);
    section.duration("retry_min", &mut mail.retry_min);
    section.duration("retry_max", &mut mail.retry_max);
    section.text_or_none("subject_prefix", &mut mail.subject_prefix);
    section.duration_or_none("heartbeat_every", &mut mail.heartbeat_every);
    section.table_of_texts("routes", &mut mail.routes);
    section.finish();
    mail
}

fn gates(document: &mut Document<'_>) -> Gates {
    let (mut gates, mut section) = (Gates::default(), document.section("gates"));
    section.choice("profile", &mut gates.profile);
    section.table_of_words("bounds", &mut gates.bounds, |metric, bound| Gate::of_bound(metric, bound).map(drop));
    section.finish();
    gates
}

fn mailer(document: &mut Document<'_>) -> Mailer {
    let (mut mailer, mut section) = (Mailer::default(), document.section("mailer"));
    section.choice("runs_as", &mut mailer.runs_as);
    section.duration("supervisor_silent_after", &mut mailer.supervisor_silent_after);
    section.finish();
    mailer
}
