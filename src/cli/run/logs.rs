//! Where a run's log goes: journald with fields when systemd listens there, else stderr, past the progress bars.

use crate::cli::terminal::Lines;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. `SOAKD_LOG` says how much (`debug`, `warn`, ...); people see warnings anyway.
pub fn init(bars: Option<Lines>) {
    let filter = std::env::var("SOAKD_LOG").ok().and_then(|text| text.parse().ok());
    let filter: Targets = filter.unwrap_or_else(|| Targets::new().with_target("soakd", tracing::Level::INFO));
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        // `journalctl SOAKD_KIND=worker_crash`, `journalctl -t soakd SOAKD_RUN=3`.
        let journal = journal.with_field_prefix(Some("SOAKD".to_owned())).with_syslog_identifier("soakd".to_owned());
        let _ = tracing_subscriber::registry().with(filter).with(journal).try_init(); // set already: a test
        return;
    }
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // The fields are for the journal; to people the sentence says the same.
    let sentence = format::debug_fn(|to, field, value| match field.name() {
        "message" => write!(to, "{value:?}"),
        _ => Ok(()),
    });
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(colours).fmt_fields(sentence);
    let lines = lines.with_writer(PastBars(bars));
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// stderr, with the bars out of the way while a line is written.
struct PastBars(Option<Lines>);

impl<'a> MakeWriter<'a> for PastBars {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.as_ref())
    }
}

struct Line<'a>(Option<&'a Lines>);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0 {
            Some(bars) => bars.write_past(bytes),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
