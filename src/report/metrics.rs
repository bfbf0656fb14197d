//! OpenMetrics text from plain figures. Which figures there are is the caller's business.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, within one run. Its samples' names end in `_total`.
    Counter,
    /// Labels that describe; its value is 1, and its samples' names end in `_info`.
    Info,
}

/// One metric with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Without suffix.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// One line for people.
    pub help: String,
    /// Labels and value.
    pub samples: Vec<(Vec<(String, String)>, f64)>,
}

impl Family {
    /// Without samples yet.
    #[must_use]
    pub fn new(name: &str, kind: Kind, help: &str) -> Self {
        Family { name: name.to_owned(), kind, help: help.to_owned(), samples: Vec::new() }
    }
}

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0, as served.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4, as files for its node exporter are read: there a counter's type is stated for the
    /// name with its suffix, and neither units nor an end are known.
    Prometheus,
}

/// The whole exposition. A family without samples is left out.
#[must_use]
pub fn render(families: &[Family], form: Form) -> String {
    let mut out = String::new();
    let open = form == Form::OpenMetrics;
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let (kind, suffix) = match family.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
            Kind::Info if open => ("info", "_info"),
            Kind::Info => ("gauge", "_info"),
        };
        let name = if open { family.name.clone() } else { format!("{}{suffix}", family.name) };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        // A unit may only be named if the name ends in it.
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| open && name.ends_with(&format!("_{unit}"))) {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
        // The older format knows no escaped quotes in a help line.
        let help = if open { escape(&family.help) } else { family.help.replace('\\', "\\\\").replace('\n', "\\n") };
        let _ = writeln!(out, "# HELP {name} {help}");
        for (labels, value) in &family.samples {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "{}{suffix}{labels} {}", family.name, number(*value));
        }
    }
    if open {
        out.push_str("# EOF\n");
    }
    out
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value}")
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::{Family, Form, Kind, render};

    #[test]
    fn the_text_is_what_the_standard_asks_for() {
        let mut counter = Family::new("soakd_cpu_seconds", Kind::Counter, "CPU \"time\"");
        counter.samples.push((vec![("process".into(), "a\"b\\c\nd".into())], 1.5));
        let mut info = Family::new("soakd_run", Kind::Info, "Run");
        info.samples.push((vec![("model".into(), "x".into())], 1.0));
        let none = Family::new("soakd_nothing", Kind::Gauge, "Nothing");
        let mut gauge = Family::new("soakd_drift_bytes", Kind::Gauge, "Drift");
        gauge.samples.push((vec![], f64::NEG_INFINITY));
        let families = [counter, info, none, gauge];
        assert_eq!(
            render(&families, Form::OpenMetrics),
            "# TYPE soakd_cpu_seconds counter\n# UNIT soakd_cpu_seconds seconds\n# HELP soakd_cpu_seconds CPU \\\"time\\\"\n\
             soakd_cpu_seconds_total{process=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             # TYPE soakd_run info\n# HELP soakd_run Run\nsoakd_run_info{model=\"x\"} 1\n\
             # TYPE soakd_drift_bytes gauge\n# UNIT soakd_drift_bytes bytes\n# HELP soakd_drift_bytes Drift\n\
             soakd_drift_bytes -Inf\n# EOF\n"
        );
        assert_eq!(
            render(&families, Form::Prometheus),
            "# TYPE soakd_cpu_seconds_total counter\n# HELP soakd_cpu_seconds_total CPU \"time\"\n\
             soakd_cpu_seconds_total{process=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             # TYPE soakd_run_info gauge\n# HELP soakd_run_info Run\nsoakd_run_info{model=\"x\"} 1\n\
             # TYPE soakd_drift_bytes gauge\n# HELP soakd_drift_bytes Drift\nsoakd_drift_bytes -Inf\n"
        );
    }
}
