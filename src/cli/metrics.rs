//! `soakd metrics`: the newest run's figures in OpenMetrics form, once (for a textfile) or over HTTP on a loopback address.
//! Reads the database only, so it costs the run nothing and can be asked after the run too.

use super::{CannotStart, Done, Outcome};
use crate::clock;
use crate::config;
use crate::report::metrics::{Family, Form, Kind, render};
use crate::store::sql::{Limits, Reader, Rows};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One answer's queries may take this long together.
const QUERIES_MS_MAX: i64 = 5_000;
/// A client that does not ask, or does not read, is let go.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Print the newest run's figures in OpenMetrics form, or serve them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd metrics                                         once
  soakd metrics --textfile /var/lib/node_exporter/soakd.prom
                                                        for the node exporter's textfile collector
  soakd metrics --listen 127.0.0.1:9464                 http://127.0.0.1:9464/metrics, until stopped")]
pub struct Args {
    /// The configuration, for the database's path
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database [default: as configured]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Serve on this loopback address
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Leave them in this file, in the form that the node exporter reads
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
}

/// Prints or serves.
pub fn execute(args: &Args) -> Done {
    let config = config::load(args.config.as_deref()).map_err(CannotStart::because)?;
    let database = args.db.clone().unwrap_or(config.run.database);
    if let Some(path) = &args.textfile {
        leave_textfile(&database, path).map_err(CannotStart)?;
        return Ok(Outcome::Passed);
    }
    let Some(address) = args.listen else {
        let text = exposition(&database).map_err(CannotStart)?;
        let mut out = std::io::stdout();
        return match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CannotStart(format!("the figures cannot be written to stdout: {error}")))
            }
            _ => Ok(Outcome::Passed), // a closed pipe leaves nobody to tell
        };
    };
    if !address.ip().is_loopback() {
        return Err(CannotStart(format!(
            "--listen {address}: these figures are for this machine; listen on 127.0.0.1 and let a scraper here pass them on"
        )));
    }
    let listener = TcpListener::bind(address).map_err(|e| CannotStart(format!("--listen {address}: {e}")))?;
    let local = listener.local_addr().map_err(CannotStart::because)?;
    let _ = writeln!(std::io::stdout(), "soakd metrics: http://{local}/metrics");
    for stream in listener.incoming().flatten() {
        let _ = answer(stream, &database); // a client that goes away is its own affair
    }
    Ok(Outcome::Passed)
}

fn answer(mut stream: TcpStream, database: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let (mut request, mut buffer) = (Vec::new(), [0u8; 4_096]);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        if count == 0 || request.len() > 64 << 10 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&request);
    let (status, kind, body) = match line.split(' ').nth(1) {
        Some("/metrics") => match exposition(database) {
            Ok(text) => ("200 OK", CONTENT_TYPE, text),
            Err(why) => ("503 Service Unavailable", "text/plain; charset=utf-8", format!("{why}\n")),
        },
        _ => ("404 Not Found", "text/plain; charset=utf-8", "the figures are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// All figures of the newest run, as they are served.
fn exposition(database: &Path) -> Result<String, String> {
    families(database).map(|families| render(&families, Form::OpenMetrics))
}

/// Leaves the newest run's figures in a file for the node exporter. It is there whole or not at all: who reads it meanwhile
/// sees the one before.
pub fn leave_textfile(database: &Path, path: &Path) -> Result<(), String> {
    let text = render(&families(database)?, Form::Prometheus);
    let odd = |what: &str, error: std::io::Error| format!("metrics.textfile {}: {what}: {error}", path.display());
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id())); // the collector reads *.prom only
    let beside = PathBuf::from(beside);
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| odd("it cannot be written", error))?;
    std::fs::rename(&beside, path).map_err(|error| {
        let _ = std::fs::remove_file(&beside); // what could not be moved is of no use
        odd("it cannot be put in its place", error)
    })
}

/// All figures of the newest run.
fn families(database: &Path) -> Result<Vec<Family>, String> {
    let reader = Reader::open(database).map_err(|e| e.to_string())?;
    let until = clock::now().mono.plus(QUERIES_MS_MAX);
    let now_ms = clock::now().wall.0;
    let run = |sql: &str| -> Result<Rows, String> {
        let limits = Limits { rows_max: 2_000, expired: Box::new(move || clock::now().mono >= until) };
        reader.query_rows(sql, &[(":now", json!(now_ms))], limits).map_err(|e| e.to_string())
    };
    let mut families = Vec::new();
    for query in QUERIES {
        let mut family = Family::new(query.name, query.kind, query.help);
        let rows = run(&format!("WITH r AS (SELECT * FROM run ORDER BY run_id DESC LIMIT 1) {}", query.sql))?;
        for row in rows.rows {
            let cells = rows.columns.iter().map(String::as_str).zip(&row);
            let (value, labels): (Vec<_>, Vec<_>) = cells.partition(|(name, _)| *name == "value");
            let labels = labels.into_iter().map(|(name, cell)| (name.to_owned(), text(cell)));
            if let Some(value) = value.first().and_then(|(_, cell)| cell.as_f64()) {
                family.samples.push((labels.collect(), value));
            }
        }
        families.push(family);
    }
    Ok(families)
}

fn text(cell: &Value) -> String {
    cell.as_str().map_or_else(|| if cell.is_null() { String::new() } else { cell.to_string() }, str::to_owned)
}

/// One metric: the column `value` is its value, the others are its labels.
struct Query {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    sql: &'static str,
}

/// Who a process is, as elsewhere.
macro_rules! process {
    () => {
        "CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process, \
         coalesce(p.name, '') AS command"
    };
}
/// The living processes of the run; when it is over, the last life of each.
macro_rules! lives {
    () => {
        " FROM r JOIN process AS p ON p.run_id = r.run_id AND (p.ended_unix_ms IS NULL OR r.ended_unix_ms IS NOT NULL) AND p.process_id = \
         (SELECT max(process_id) FROM process AS q WHERE q.run_id = p.run_id AND q.role = p.role AND q.ordinal = p.ordinal)"
    };
}
/// What was written last, by a clock that may have been stepped back since.
macro_rules! not_ahead {
    () => {
        "unix_ms <= coalesce(r.ended_unix_ms, :now)"
    };
}
/// Their newest samples.
macro_rules! newest {
    () => {
        concat!(
            lives!(),
            " JOIN process_sample AS s ON s.process_id = p.process_id AND s.unix_ms = \
             (SELECT max(unix_ms) FROM process_sample AS l WHERE l.process_id = p.process_id AND l.",
            not_ahead!(),
            ")"
        )
    };
}
/// The newest finding of every series.
macro_rules! finding {
    ($column:literal) => {
        concat!(
            "SELECT s.name AS series, CASE s.judged WHEN 1 THEN 'true' ELSE 'false' END AS judged, f.",
            $column,
            " AS value FROM r JOIN series AS s ON s.run_id = r.run_id JOIN finding AS f ON f.finding_id = (SELECT max(l.finding_id) \
             FROM finding AS l WHERE l.series_id = s.series_id) WHERE abs(f.",
            $column,
            ") < 9000000000000000000 AND f.drift_lo_bytes > -9000000000000000000" // known
        )
    };
}

const QUERIES: &[Query] = &[
    Query {
        name: "soakd_run",
        kind: Kind::Info,
        help: "The newest run",
        sql: "SELECT run_id, host, model, variant, backend, state, coalesce(verdict, 'none') AS verdict, 1 AS value FROM r",
    },
    Query {
        name: "soakd_verdict",
        kind: Kind::Gauge,
        help: "1 for the verdict of the run, 0 for the others; none while it goes on",
        sql: "SELECT v.column1 AS verdict, v.column1 = coalesce(r.verdict, 'none') AS value FROM r, \
              (VALUES ('within'), ('outside'), ('inconclusive'), ('none')) AS v",
    },
    Query {
        name: "soakd_crashes",
        kind: Kind::Counter,
        help: "Times that what soaks died unasked, OOM kills included",
        sql: "SELECT count(*) AS value FROM r JOIN event AS e ON e.run_id = r.run_id AND e.kind IN ('worker_crash', 'worker_oom')",
    },
    Query {
        name: "soakd_hangs",
        kind: Kind::Counter,
        help: "Times that what soaks made no progress and was killed",
        sql: "SELECT count(*) AS value FROM r JOIN event AS e ON e.run_id = r.run_id AND e.kind = 'worker_hang'",
    },
    Query {
        name: "soakd_series",
        kind: Kind::Info,
        help: "What is said of each series now",
        sql: "SELECT s.name AS series, CASE s.judged WHEN 1 THEN 'true' ELSE 'false' END AS judged, f.verdict, f.shape, 1 AS value \
              FROM r JOIN series AS s ON s.run_id = r.run_id JOIN finding AS f ON f.finding_id = (SELECT max(l.finding_id) \
              FROM finding AS l WHERE l.series_id = s.series_id)",
    },
    Query {
        name: "soakd_run_elapsed_seconds",
        kind: Kind::Gauge,
        help: "Time since the start of the run, gaps taken off",
        sql: "SELECT (coalesce(ended_unix_ms, :now) - started_unix_ms - coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap AS g \
              WHERE g.run_id = r.run_id), 0) - coalesce((SELECT sum(detail ->> '$.by_ms') FROM event AS s WHERE s.run_id = r.run_id \
              AND s.kind = 'clock_step'), 0)) / 1000.0 AS value FROM r",
    },
    Query {
        name: "soakd_run_planned_seconds",
        kind: Kind::Gauge,
        help: "How long the run is to be",
        sql: "SELECT duration_ms / 1000.0 AS value FROM r",
    },
    Query {
        name: "soakd_anon_swap_bytes",
        kind: Kind::Gauge,
        help: "RssAnon and VmSwap of a process, or of the tree of a target",
        sql: concat!("SELECT ", process!(), ", s.rss_anon_bytes + coalesce(s.swap_bytes, 0) AS value", newest!()),
    },
    Query {
        name: "soakd_vram_bytes",
        kind: Kind::Gauge,
        help: "VRAM of a process, or of the tree of a target",
        sql: concat!("SELECT ", process!(), ", s.vram_bytes AS value", newest!()),
    },
    Query {
        name: "soakd_cgroup_bytes",
        kind: Kind::Gauge,
        help: "memory.current of the control group that a target has to itself, page cache included",
        sql: concat!("SELECT ", process!(), ", s.cgroup_bytes AS value", newest!()),
    },
    Query {
        name: "soakd_rss_bytes",
        kind: Kind::Gauge,
        help: "VmRSS of a process, or of the tree of a target",
        sql: concat!("SELECT ", process!(), ", s.rss_bytes AS value", newest!()),
    },
    Query {
        name: "soakd_cpu_seconds",
        kind: Kind::Counter,
        help: "CPU time of a process; of supervisor, probe and mailer: what soakd itself costs",
        sql: concat!("SELECT ", process!(), ", s.cpu_ms / 1000.0 AS value", newest!()),
    },
    Query {
        name: "soakd_drift_bytes",
        kind: Kind::Gauge,
        help: "Drift of a series over the horizon, best estimate",
        sql: finding!("drift_bytes"),
    },
    Query {
        name: "soakd_drift_low_bytes",
        kind: Kind::Gauge,
        help: "Lower end of the drift's 95 % interval",
        sql: finding!("drift_lo_bytes"),
    },
    Query {
        name: "soakd_drift_high_bytes",
        kind: Kind::Gauge,
        help: "Upper end of the drift's 95 % interval",
        sql: finding!("drift_hi_bytes"),
    },
    Query {
        name: "soakd_can_see_bytes",
        kind: Kind::Gauge,
        help: "The smallest drift over the horizon that could be told by now",
        sql: finding!("minimum_detectable_drift_bytes"),
    },
    Query {
        name: "soakd_tokens",
        kind: Kind::Counter,
        help: "Tokens decoded in the run",
        sql: "SELECT coalesce(sum((SELECT max(tokens) FROM work_sample AS w WHERE w.process_id = p.process_id)), 0) \
              AS value FROM r JOIN process AS p ON p.run_id = r.run_id AND p.role = 'worker'",
    },
    Query {
        name: "soakd_requests",
        kind: Kind::Counter,
        help: "Requests finished in the run",
        sql: "SELECT coalesce(sum((SELECT max(requests) FROM work_sample AS w WHERE w.process_id = p.process_id)), 0) \
              AS value FROM r JOIN process AS p ON p.run_id = r.run_id AND p.role = 'worker'",
    },
    Query {
        name: "soakd_request_failures",
        kind: Kind::Counter,
        help: "Requests to the target that failed, empty answers among them",
        sql: "SELECT coalesce(sum((SELECT max(failures) FROM work_sample AS w WHERE w.process_id = p.process_id)), 0) \
              AS value FROM r JOIN process AS p ON p.run_id = r.run_id AND p.role = 'worker'",
    },
    Query {
        name: "soakd_latency_p95_seconds",
        kind: Kind::Gauge,
        help: "95th percentile of the newest minute: token to token, request to first token, request to last",
        sql: concat!(
            "SELECT ",
            process!(),
            ", l.kind, l.p95_us / 1e6 AS value",
            lives!(),
            " JOIN latency AS l ON l.process_id = p.process_id AND l.unix_ms = \
             (SELECT max(unix_ms) FROM latency AS n WHERE n.process_id = p.process_id AND n.kind = l.kind AND n.",
            not_ahead!(),
            ")"
        ),
    },
    Query {
        name: "soakd_events",
        kind: Kind::Counter,
        help: "Events of the run that are not part of a normal one, by kind",
        sql: "SELECT e.kind, count(*) AS value FROM r JOIN event AS e ON e.run_id = r.run_id WHERE e.severity <> 'info' GROUP BY e.kind",
    },
    Query {
        name: "soakd_alerts_firing",
        kind: Kind::Gauge,
        help: "Alerts that fire now",
        sql: "SELECT a.rule, a.severity, count(*) AS value FROM r JOIN alert AS a ON a.run_id = r.run_id WHERE a.state = 'firing' \
              GROUP BY a.rule, a.severity",
    },
    Query {
        name: "soakd_mails",
        kind: Kind::Gauge,
        help: "Mails in the outbox, by state",
        sql: "SELECT state, count(*) AS value FROM outbox GROUP BY state",
    },
];
