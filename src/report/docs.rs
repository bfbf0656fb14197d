//! The documents: templates filled from facts. Every figure carries the run it comes from, and each document ends with the
//! queries that give its figures again; what was not measured says so. Templates are files that users can replace.

use super::gates::{self, METRICS};
use super::roofline::Roofline;
use super::scale::{bytes, moment};
use super::{docs_tables as tables, svg, text, words};
use crate::model::bench::{BenchFacts, Expectation};
use crate::model::facts::RunFacts;
use crate::model::gate::GateResult;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What there is to write about. A part that is missing was not measured.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The soak.
    pub run: Option<RunFacts>,
    /// Phase 1.
    pub bench: Option<BenchFacts>,
    /// Phase 2.
    pub load: Option<BenchFacts>,
    /// The gates on the soak, judged.
    pub gates: Vec<GateResult>,
    /// What was expected of variants.
    pub expectations: Vec<Expectation>,
}

impl Sources {
    /// What gates and figures are read from.
    #[must_use]
    pub fn evidence(&self) -> gates::Evidence<'_> {
        gates::Evidence { run: self.run.as_ref(), bench: self.bench.as_ref(), load: self.load.as_ref() }
    }
}

macro_rules! templates {
    ($($name:literal),* $(,)?) => {
        /// The documents that ship: file name and template.
        pub const TEMPLATES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../assets/docs/", $name)))),*];
    };
}

templates![
    "EXECUTIVE_SUMMARY.md",
    "FINAL_GPU_BENCHMARK_REPORT.md",
    "BENCHMARK_VISUAL_SUMMARY.txt",
    "Q2K_vs_Q4K_BENCHMARK_REPORT.md",
    "PERFORMANCE_SLA_SPECIFICATION.md",
    "OPERATOR_DEPLOYMENT_GUIDE.md",
    "PERFORMANCE_TRADE_OFF_ANALYSIS.md",
    "PRODUCTION_READINESS_ASSESSMENT.md",
    "PHASE_REPORTS.md",
];

/// The file beside the documents that [`picture`] makes.
pub const PICTURE: &str = "ROOFLINE.svg";

/// The roofline as SVG; `None` if no bench measured its ceiling.
#[must_use]
pub fn picture(sources: &Sources) -> Option<String> {
    roofline(sources).map(|roofline| svg::document(&roofline.scene()))
}

fn roofline(sources: &Sources) -> Option<Roofline> {
    Roofline::of(sources.bench.as_ref()?, sources.load.as_ref())
}

/// Why a document could not be written: its template is wrong. Names file and line.
#[derive(Debug, thiserror::Error)]
#[error("{name}{}: {what}", .line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct DocsError {
    /// Which template.
    pub name: String,
    /// Where, if known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

/// One document from its template.
pub fn render(name: &str, template: &str, sources: &Sources) -> Result<String, DocsError> {
    let wrong = |e: minijinja::Error| DocsError { name: name.to_owned(), line: e.line(), what: e.to_string() };
    let used = Arc::new(Mutex::new(BTreeSet::<&'static str>::new()));
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .map_err(wrong)?,
    );
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    figures(&mut environment, sources, &used);
    let rendered = environment.render_named_str(name, template, values(sources)).map_err(wrong)?;
    Ok(rendered)
}

/// `fig("token_p95_ms")` writes a figure with its run; `sources()` lists those that were written, with their queries.
fn figures(environment: &mut Environment<'_>, sources: &Sources, used: &Arc<Mutex<BTreeSet<&'static str>>>) {
    let (owned, listed) = (sources.clone(), sources.clone());
    let (noting, listing) = (Arc::clone(used), Arc::clone(used));
    environment.add_function("fig", move |name: String| -> Result<String, minijinja::Error> {
        let Some(metric) = METRICS.iter().find(|m| m.name == name) else {
            let known: Vec<&str> = METRICS.iter().map(|m| m.name).collect();
            let what = format!("there is no figure {name:?}; there are {}", known.join(", "));
            return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what));
        };
        let found = owned.evidence().find(metric, None);
        let Some(value) = found.value else { return Ok("not measured".into()) };
        noting.lock().unwrap_or_else(PoisonError::into_inner).insert(metric.name);
        Ok(format!("{} [{}]", gates::write(metric, value), found.source))
    });
    environment.add_function("sources", move || -> String {
        let used = listing.lock().unwrap_or_else(PoisonError::into_inner);
        if used.is_empty() {
            return "No figure was written above.".into();
        }
        let rows = METRICS.iter().filter(|m| used.contains(m.name)).map(|m| {
            let found = listed.evidence().find(m, None);
            format!("| {} | {} | `{}` |", m.meaning, found.source, found.query)
        });
        format!(
            "| Figure | From | Query for it, or for what it is computed from |\n|---|---|---|\n{}",
            rows.collect::<Vec<_>>().join("\n")
        )
    });
}

fn values(sources: &Sources) -> Value {
    let missing = || "not measured".to_owned();
    let run = sources.run.as_ref();
    let of_run = |say: fn(&RunFacts) -> String| run.map_or_else(missing, say);
    context! {
        standing => of_run(|r| words::standing_word(r.standing()).to_owned()),
        why => of_run(words::why),
        subject => of_run(words::subject),
        served => of_run(words::served),
        host => of_run(|r| r.plan.host.clone()),
        run_id => of_run(|r| r.run_id.to_string()),
        started => of_run(|r| moment(r.plan.started.seconds())),
        tolerance => of_run(|r| bytes(r.plan.tolerance_bytes as f64)),
        horizon => of_run(words::horizon),
        canary => of_run(text::canary),
        version => env!("CARGO_PKG_VERSION"),
        decision => tables::decision(sources),
        gate_table => tables::gates(&sources.gates),
        series_table => tables::series(run),
        death_list => tables::deaths(run),
        alert_list => tables::alerts(run),
        hardware => tables::hardware(sources),
        variant_table => tables::variants(sources),
        bandwidth_table => tables::bandwidth(sources),
        decision_matrix => tables::matrix(sources),
        hybrid => tables::hybrid(sources),
        load_table => tables::load(sources),
        roofline_plot => roofline(sources).map_or_else(missing, |_| format!("![Roofline of decoding]({PICTURE})")),
        roofline_chart => roofline(sources).map_or_else(missing, |roofline| roofline.text()),
        speed_chart => tables::speed_chart(sources),
        load_chart => tables::load_chart(sources),
        drift_chart => tables::drift_chart(run),
        config => of_run(|r| r.plan.config_toml.clone()),
    }
}
