//! The series under watch: points go in as they are read, findings come out once a minute and at the end.
//!
//! Which series count towards the verdict is decided here. RssAnon + VmSwap, the engine's own count and VRAM are what a
//! leak cannot hide from, so they are judged. RSS holds the page cache's share of mapped weights, which the kernel
//! takes and gives as it likes; it is followed and shown, and judges nothing. The canary is followed and judges nothing.

use crate::analysis::{Detector, Params};
use crate::model::finding::{Finding, Shape, Steps, Verdict};
use crate::model::sample::{DeviceReading, ProcessReading, Role, WorkReading};
use crate::model::series::{Point, SeriesKey, SeriesKind};
use crate::model::time::UnixMillis;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};

/// Points that may wait for the past: a dozen series for two hours. More than that and the past is waited for.
const WAITING_MAX: usize = 100_000;

/// What an earlier supervisor saw of the same run, and whether it is here yet.
#[derive(Debug)]
enum Past {
    /// All of it.
    Known,
    /// It is being read back, which takes a while after two days; what comes in meanwhile waits.
    Awaited { from: Receiver<Result<Watch, String>>, waiting: Vec<(SeriesKey, bool, Point)> },
    /// It could not be read back, and why.
    Lost(String),
}

/// One series.
#[derive(Debug)]
struct Tracked {
    detector: Detector,
    judged: bool,
    bytes: f64,
    /// The least of the present segment: what caches that fill rise from.
    floor: f64,
    segment: Option<u32>,
    per_request: PerRequest,
    finding: Option<Finding>,
    /// Its alarm rang, and that was told.
    told: bool,
}

/// The straight line of memory over requests in the present segment. Whether there is a leak is the detector's to say; how much
/// a request takes, once there is one, is the slope: what the memory breathes does not bend a line that long.
#[derive(Debug, Clone, Copy, Default)]
struct PerRequest {
    n: f64,
    requests_mean: f64,
    bytes_mean: f64,
    requests_squares: f64,
    products: f64,
}

impl PerRequest {
    /// By Welford's way, which loses no digits however large the numbers grow.
    fn push(&mut self, requests: f64, bytes: f64) {
        self.n += 1.0;
        let ahead = requests - self.requests_mean;
        self.requests_mean += ahead / self.n;
        self.bytes_mean += (bytes - self.bytes_mean) / self.n;
        self.requests_squares += ahead * (requests - self.requests_mean);
        self.products += ahead * (bytes - self.bytes_mean);
    }

    fn slope(&self) -> Option<f64> {
        (self.requests_squares > 0.0).then(|| self.products / self.requests_squares)
    }
}

/// What one look said of one series.
#[derive(Debug, Clone)]
pub struct Look {
    /// Which.
    pub key: SeriesKey,
    /// Whether it counts towards the verdict.
    pub judged: bool,
    /// What.
    pub finding: Finding,
    /// It rang the alarm just now.
    pub rang: bool,
    /// The last value seen, bytes.
    pub bytes: f64,
    /// The command, for a role of a target.
    pub name: Option<String>,
}

/// All series of a run.
#[derive(Debug)]
pub struct Watch {
    params: Params,
    past: Past,
    pace: Pace,
    series: BTreeMap<SeriesKey, Tracked>,
    /// Names of the target's roles, by ordinal.
    roles: BTreeMap<u32, String>,
    /// What the target's caches may take by design, bytes.
    known_caches: f64,
}

/// How much faster than the clock the detectors' time goes. 1 but for a drill, whose two days are over in minutes; findings
/// are given back in the clock's own time, with drift over the run's own horizon.
#[derive(Debug, Clone, Copy)]
struct Pace {
    factor: f64,
    origin_unix_s: Option<f64>,
}

impl Pace {
    fn detectors(&mut self, unix_s: f64) -> f64 {
        let origin = *self.origin_unix_s.get_or_insert(unix_s);
        origin + (unix_s - origin) * self.factor
    }

    fn ours(&self, mut found: Finding) -> Finding {
        let origin = self.origin_unix_s.unwrap_or(0.0);
        let back = |unix_s: f64| origin + (unix_s - origin) / self.factor;
        found.slope_bytes_per_hour *= self.factor;
        found.span_s /= self.factor;
        found.crossing_unix_s = found.crossing_unix_s.map(|ends| ends.map(back));
        found.first_alarm_unix_s = found.first_alarm_unix_s.map(back);
        found.onset_unix_s = found.onset_unix_s.map(back);
        found.steps = found.steps.map(|steps| Steps { largest_unix_s: back(steps.largest_unix_s), ..steps });
        found
    }
}

/// Where a point of a process belongs.
#[derive(Debug, Clone, Copy)]
pub struct Whose {
    /// The process's role.
    pub role: Role,
    /// Which of them.
    pub ordinal: u32,
    /// Which incarnation.
    pub segment: u32,
    /// Requests finished in this incarnation, for a worker.
    pub requests: Option<f64>,
}

impl Watch {
    /// Nothing watched yet; every detector is made with `params`. `pace`: how many seconds a second counts as.
    #[must_use]
    pub fn new(params: Params, pace: Option<u32>) -> Watch {
        let pace = Pace { factor: f64::from(pace.unwrap_or(1).max(1)), origin_unix_s: None };
        Watch { params, past: Past::Known, pace, series: BTreeMap::new(), roles: BTreeMap::new(), known_caches: 0.0 }
    }

    /// The same for a target whose caches may take so much.
    #[must_use]
    pub fn with_known_caches(self, bytes: u64) -> Watch {
        Watch { known_caches: bytes as f64, ..self }
    }

    /// The same, behind a past that is being read back: what comes in is judged when that has come.
    #[must_use]
    pub fn awaiting(self, from: Receiver<Result<Watch, String>>) -> Watch {
        Watch { past: Past::Awaited { from, waiting: Vec::new() }, ..self }
    }

    /// Whether nothing more is to come of the past.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        !matches!(self.past, Past::Awaited { .. })
    }

    /// Asks whether the past has come, and waits for nothing. True if it has just now, or never will.
    pub fn try_catch_up(&mut self) -> bool {
        let Past::Awaited { from, .. } = &self.past else { return false };
        match from.try_recv() {
            Ok(read) => self.catch_up(read),
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => self.catch_up(Err("its reader ended".to_owned())),
        }
        true
    }

    /// Why the past is not known, if it could not be read back, or is not yet.
    #[must_use]
    pub fn past_unknown(&self) -> Option<String> {
        match &self.past {
            Past::Known => None,
            Past::Awaited { .. } => {
                Some("what was seen before soakd was restarted was still being read back".to_owned())
            }
            Past::Lost(why) => Some(format!("what was seen before soakd was restarted could not be read back: {why}")),
        }
    }

    fn catch_up(&mut self, read: Result<Watch, String>) {
        let (series, pace, past) = match read {
            Ok(watch) => (watch.series, watch.pace, Past::Known),
            Err(why) => (BTreeMap::new(), self.pace, Past::Lost(why)),
        };
        (self.series, self.pace) = (series, pace);
        if let Past::Awaited { waiting, .. } = std::mem::replace(&mut self.past, past) {
            waiting.into_iter().for_each(|(key, judged, point)| self.push_point(key, judged, point));
        }
    }

    /// The alarm of a series, by its name, was told by an earlier supervisor: it is not told once more.
    pub fn already_told(&mut self, series: &str) {
        let tracked = self.series.iter_mut().find(|(key, _)| key.to_string() == series);
        tracked.into_iter().for_each(|(_, tracked)| tracked.told = true);
    }

    /// Says what a role of the target is called.
    pub fn name_role(&mut self, ordinal: u32, name: &str) {
        self.roles.insert(ordinal, name.to_owned());
    }

    /// Takes a reading of a process.
    pub fn process(&mut self, whose: Whose, at: UnixMillis, reading: &ProcessReading) {
        let anon_swap = reading.rss_anon_bytes.map(|anon| anon + reading.swap_bytes.unwrap_or(0));
        self.push(SeriesKind::AnonSwap, whose, at, anon_swap);
        // A detector holds some 2 MB and the supervisor must stay below 50: of what judges nothing, only the RSS that
        // people ask for first is followed. The samples of all of it are stored all the same.
        if !matches!(whose.role, Role::Probe | Role::Mailer | Role::Canary | Role::TargetChild) {
            self.push(SeriesKind::Rss, whose, at, reading.rss_bytes);
        }
        self.push(SeriesKind::ProcessVram, whose, at, reading.vram_bytes);
    }

    /// Takes what a worker counts of itself.
    pub fn work(&mut self, whose: Whose, at: UnixMillis, reading: &WorkReading) {
        let held = reading.held_device_bytes.unwrap_or(reading.held_host_bytes);
        if held == 0 {
            return; // a target of the user's: nobody counts for it
        }
        self.push(SeriesKind::EngineHeld, whose, at, Some(held));
    }

    /// Takes a reading of a GPU. Its segments are its worker's: a new process starts with an empty device.
    pub fn device(&mut self, ordinal: u32, segment: u32, at: UnixMillis, reading: &DeviceReading) {
        let Some(used) = reading.vram_used_bytes else { return };
        let key = SeriesKey { kind: SeriesKind::DeviceVram, role: None, ordinal };
        self.push_point(key, true, Point { unix_s: at.seconds(), bytes: used as f64, segment, requests: None });
    }

    fn push(&mut self, kind: SeriesKind, whose: Whose, at: UnixMillis, bytes: Option<i64>) {
        let Some(bytes) = bytes else { return };
        let shown_only =
            matches!(kind, SeriesKind::Rss | SeriesKind::Pss) || matches!(whose.role, Role::Canary | Role::TargetChild);
        let key = SeriesKey { kind, role: Some(whose.role), ordinal: whose.ordinal };
        let point =
            Point { unix_s: at.seconds(), bytes: bytes as f64, segment: whose.segment, requests: whose.requests };
        self.push_point(key, !shown_only, point);
    }

    fn push_point(&mut self, key: SeriesKey, judged: bool, point: Point) {
        if let Past::Awaited { from, waiting } = &mut self.past {
            waiting.push((key, judged, point));
            if waiting.len() >= WAITING_MAX {
                let read = from.recv().unwrap_or_else(|_| Err("its reader ended".to_owned()));
                self.catch_up(read);
            }
            return;
        }
        let params = Params { horizon_s: self.params.horizon_s * self.pace.factor, ..self.params };
        let point = Point { unix_s: self.pace.detectors(point.unix_s), ..point };
        let tracked = self.series.entry(key).or_insert_with(|| Tracked {
            detector: Detector::new(params),
            judged,
            bytes: 0.0,
            floor: f64::INFINITY,
            segment: None,
            per_request: PerRequest::default(),
            finding: None,
            told: false,
        });
        tracked.bytes = point.bytes;
        if tracked.segment.replace(point.segment) != Some(point.segment) {
            (tracked.floor, tracked.per_request) = (f64::INFINITY, PerRequest::default());
        }
        if let Some(requests) = point.requests {
            tracked.per_request.push(requests, point.bytes);
        }
        tracked.floor = tracked.floor.min(point.bytes);
        tracked.detector.push(point);
    }

    /// Looks at every series.
    pub fn look(&mut self) -> Vec<Look> {
        let mut looks = Vec::with_capacity(self.series.len());
        for (key, tracked) in &mut self.series {
            let mut finding = self.pace.ours(tracked.detector.look());
            excuse(*key, &mut finding, tracked.bytes - tracked.floor, self.known_caches);
            name_per_request(&mut finding, &tracked.per_request);
            if !finding.drift_is_known() {
                finding.minimum_detectable_drift_bytes = f64::INFINITY;
            }
            let rang = finding.alarmed && !tracked.told;
            tracked.told = finding.alarmed;
            tracked.finding = Some(finding.clone());
            let judged = counts(*key, tracked.judged, &finding);
            looks.push(Look { key: *key, judged, finding, rang, bytes: tracked.bytes, name: name(&self.roles, *key) });
        }
        looks
    }

    /// What the last look said, without looking again.
    #[must_use]
    pub fn last(&self) -> Vec<Look> {
        let look = |(key, tracked): (&SeriesKey, &Tracked)| {
            let finding = tracked.finding.clone()?;
            let (judged, name) = (counts(*key, tracked.judged, &finding), name(&self.roles, *key));
            Some(Look { key: *key, judged, finding, rang: false, bytes: tracked.bytes, name })
        };
        self.series.iter().filter_map(look).collect()
    }

    /// The newest value of a series, bytes.
    #[must_use]
    pub fn bytes(&self, key: &SeriesKey) -> Option<f64> {
        self.series.get(key).map(|tracked| tracked.bytes)
    }
}

/// Growth of a target that its known caches explain is no finding yet: neither a leak, nor shown to be none. `risen`: bytes
/// above the least of this segment.
fn excuse(key: SeriesKey, finding: &mut Finding, risen: f64, known_caches: f64) {
    let targets = matches!(key.role, Some(Role::Worker | Role::TargetChild) | None);
    if targets && finding.drift_bytes > 0.0 && risen <= known_caches && finding.alarmed {
        if finding.verdict == Verdict::Outside {
            finding.verdict = Verdict::Inconclusive;
        }
        finding.alarmed = false;
        finding.first_alarm_unix_s = None;
        finding.crossing_unix_s = None;
        finding.onset_unix_s = None;
    }
}

/// A leak of what serves requests is stated per request too, whether it was told apart from one in time or, under an even
/// load, could not be.
fn name_per_request(finding: &mut Finding, line: &PerRequest) {
    let grows = finding.alarmed && matches!(finding.shape, Shape::PerRequest | Shape::Linear);
    if let Some(slope) = line.slope().filter(|_| grows) {
        finding.slope_bytes_per_request = Some(slope);
    }
}

/// Whether a finding counts. A role that leaks is a leak; one that is not sure yet (it may have lived for minutes) does not
/// hold up the verdict, for its memory is in the tree's series too.
fn counts(key: SeriesKey, judged: bool, finding: &Finding) -> bool {
    judged || (key.role == Some(Role::TargetChild) && finding.verdict == Verdict::Outside)
}

fn name(roles: &BTreeMap<u32, String>, key: SeriesKey) -> Option<String> {
    (key.role == Some(Role::TargetChild)).then(|| roles.get(&key.ordinal).cloned()).flatten()
}

/// A run's verdict, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// One sentence.
    pub reason: String,
}

/// The run's verdict from those of its series: outside if one is outside, within if all are within. `blind`: why the
/// detector cannot be trusted in this run, if it cannot.
#[must_use]
pub fn judge(looks: &[Look], params: Params, blind: Option<&str>) -> Judgement {
    let judged: Vec<&Look> = looks.iter().filter(|look| look.judged).collect();
    let worst = |verdict: Verdict| {
        let of_kind = judged.iter().copied().filter(move |look| look.finding.verdict == verdict);
        // Of equals, the worker is named first: it is what soaks.
        let rank = |look: &Look| u8::from(look.key.role == Some(Role::Worker));
        of_kind.max_by(|a, b| reach(&a.finding).total_cmp(&reach(&b.finding)).then(rank(a).cmp(&rank(b))))
    };
    let tolerance = megabytes(params.tolerance_bytes);
    let hours = params.horizon_s / 3_600.0;
    if let Some(look) = worst(Verdict::Outside) {
        let reason = format!("{}, which is outside ±{tolerance} over {hours:.3} h", words(look));
        return Judgement { verdict: Verdict::Outside, reason: trim_zeros(&reason) };
    }
    let inconclusive = |reason: String| Judgement { verdict: Verdict::Inconclusive, reason: trim_zeros(&reason) };
    if judged.is_empty() {
        return inconclusive("no memory series was measured".to_owned());
    }
    if let Some(look) = worst(Verdict::Inconclusive) {
        let others = judged.iter().filter(|look| look.finding.verdict == Verdict::Inconclusive).count() - 1;
        let more = if others > 0 { format!(" (and {others} more series)") } else { String::new() };
        let (what, seen) = (words(look), duration(look.finding.span_s));
        return inconclusive(if let Some(what_else) = look.finding.held_back(params.tolerance_bytes) {
            format!(
                "{what} after {seen}: that lies outside ±{tolerance}, but {what_else}{more}; a longer run says more"
            )
        } else if look.finding.drift_is_known() {
            format!(
                "{what} after {seen}: that neither fits ±{tolerance} nor lies outside it{more}; a longer run says more"
            )
        } else {
            format!("{what}{more}: {seen} are too short to tell; a longer run says more")
        });
    }
    if let Some(why) = blind {
        return inconclusive(format!("every series is within ±{tolerance}, but {why}"));
    }
    let look = worst(Verdict::Within).expect("all judged series are within, and there is one");
    let reason = format!(
        "all {} judged series are within ±{tolerance} over {hours:.3} h; widest: {}",
        judged.len(),
        words(look)
    );
    Judgement { verdict: Verdict::Within, reason: trim_zeros(&reason) }
}

/// How far the interval reaches from zero.
fn reach(finding: &Finding) -> f64 {
    finding.drift_ci95_bytes[0].abs().max(finding.drift_ci95_bytes[1].abs())
}

impl Look {
    /// `worker-0.anon_swap`, `target_child-1.anon_swap (VLLM::EngineCore/1)`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} ({name})", self.key),
            None => self.key.to_string(),
        }
    }
}

fn words(look: &Look) -> String {
    let [lo, hi] = look.finding.drift_ci95_bytes;
    if !look.finding.drift_is_known() {
        return format!("the drift of {} is not known yet", look.title());
    }
    format!(
        "{} drifts by {} (95 % interval {} to {})",
        look.title(),
        signed_megabytes(look.finding.drift_bytes),
        signed_megabytes(lo),
        signed_megabytes(hi)
    )
}

/// `50 MB`, `1.2 MB`.
#[must_use]
pub fn megabytes(bytes: f64) -> String {
    let mb = bytes / 1e6;
    if mb.abs() >= 10.0 { format!("{mb:.0} MB") } else { format!("{mb:.1} MB") }
}

/// `+12 MB`, `-0.3 MB`.
#[must_use]
pub fn signed_megabytes(bytes: f64) -> String {
    format!("{}{}", if bytes < 0.0 { "-" } else { "+" }, megabytes(bytes.abs()))
}

/// `48 h`, `12 min`, `30 s`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if seconds >= 7_200.0 {
        format!("{:.1} h", seconds / 3_600.0)
    } else if seconds >= 120.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{seconds:.0} s")
    }
}

fn trim_zeros(text: &str) -> String {
    text.replace(".000 h", " h")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: SeriesKind, judged: bool, verdict: Verdict, drift: f64) -> Look {
        let finding = Finding {
            verdict,
            shape: Shape::None,
            drift_bytes: drift,
            drift_ci95_bytes: [drift - 1e6, drift + 1e6],
            minimum_detectable_drift_bytes: 1e6,
            samples: 10,
            span_s: 600.0,
            ..Finding::default()
        };
        let key = SeriesKey { kind: name, role: Some(Role::Worker), ordinal: 0 };
        Look { key, judged, finding, rang: false, bytes: 0.0, name: None }
    }

    #[test]
    fn growth_that_known_caches_explain_is_neither_a_leak_nor_none() {
        let key = SeriesKey { kind: SeriesKind::AnonSwap, role: Some(Role::Worker), ordinal: 0 };
        let ours = SeriesKey { role: Some(Role::Supervisor), ..key };
        let cases = [
            ("within the caches", key, 2e8, 5e8, 1e9, Verdict::Inconclusive),
            ("beyond them", key, 2e8, 1.2e9, 1e9, Verdict::Outside),
            ("no caches known", key, 2e8, 1.0, 0.0, Verdict::Outside),
            ("what falls fills no cache", key, -2e8, 0.0, 1e9, Verdict::Outside),
            ("soakd itself has none", ours, 2e8, 5e8, 1e9, Verdict::Outside),
        ];
        for (what, key, drift, risen, caches, expected) in cases {
            let mut finding = look(SeriesKind::AnonSwap, true, Verdict::Outside, drift).finding;
            finding.alarmed = true;
            excuse(key, &mut finding, risen, caches);
            assert_eq!((finding.verdict, finding.alarmed), (expected, expected == Verdict::Outside), "{what}");
        }
        // An alarm is no less excused where the interval is wide yet.
        let mut finding = look(SeriesKind::AnonSwap, true, Verdict::Inconclusive, 2e8).finding;
        finding.alarmed = true;
        excuse(key, &mut finding, 5e8, 1e9);
        assert_eq!((finding.verdict, finding.alarmed), (Verdict::Inconclusive, false));
    }

    #[test]
    fn a_leak_is_stated_per_request_by_the_present_segment() {
        let mut watch = Watch::new(Params::default(), None);
        let key = SeriesKey { kind: SeriesKind::AnonSwap, role: Some(Role::Worker), ordinal: 0 };
        for s in 0..4_000i64 {
            // Restarted after a thousand seconds; ten requests a second lose 20 000 bytes each, on memory that breathes.
            let (segment, since) = if s < 1_000 { (1, s) } else { (2, s - 1_000) };
            let requests = since * 10 + (s % 7);
            let breath = (s as f64 / 40.0).sin() * 5e6;
            let bytes = 9_000_000_000 + requests * 20_000 + breath as i64;
            let reading = ProcessReading { rss_anon_bytes: Some(bytes), ..ProcessReading::default() };
            let whose = Whose { role: Role::Worker, ordinal: 0, segment, requests: Some(requests as f64) };
            watch.process(whose, UnixMillis(1_790_000_000_000 + s * 1_000), &reading);
        }
        let mut finding = look(SeriesKind::AnonSwap, true, Verdict::Outside, 2e8).finding;
        let line = watch.series[&key].per_request;
        name_per_request(&mut finding, &line);
        assert_eq!(finding.slope_bytes_per_request, None, "nothing is named before it is found");
        (finding.alarmed, finding.shape) = (true, Shape::Linear);
        name_per_request(&mut finding, &line);
        let slope = finding.slope_bytes_per_request.expect("named");
        assert!((slope / 20_000.0 - 1.0).abs() < 0.02, "{slope}");
    }

    #[test]
    fn a_run_is_as_good_as_its_worst_judged_series() {
        use SeriesKind::{AnonSwap, EngineHeld, Rss};
        use Verdict::{Inconclusive, Outside, Within};
        #[allow(clippy::type_complexity)] // a table of cases
        let cases: Vec<(&str, Vec<Look>, Option<&str>, Verdict, &str)> = vec![
            ("nothing measured proves nothing", vec![], None, Inconclusive, "no memory series"),
            (
                "one leak is a leak",
                vec![look(EngineHeld, true, Within, 0.0), look(AnonSwap, true, Outside, 2e8)],
                None,
                Outside,
                "worker-0.anon_swap drifts by +200 MB",
            ),
            (
                "what is only shown does not judge",
                vec![look(Rss, false, Outside, 2e8), look(AnonSwap, true, Within, 0.0)],
                None,
                Within,
                "all 1 judged series",
            ),
            (
                "one doubt is a doubt",
                vec![look(EngineHeld, true, Inconclusive, 4.9e7), look(AnonSwap, true, Within, 0.0)],
                None,
                Inconclusive,
                "a longer run says more",
            ),
            (
                "what lies outside but may be a cache that fills is said so",
                vec![look(AnonSwap, true, Inconclusive, 2e8)],
                None,
                Inconclusive,
                "that lies outside ±50 MB, but a start that goes on, a cache that fills",
            ),
            (
                "a blind run cannot pass",
                vec![look(AnonSwap, true, Within, 0.0)],
                Some("the canary was missed"),
                Inconclusive,
                "the canary was missed",
            ),
            (
                "but it can fail",
                vec![look(AnonSwap, true, Outside, 2e8)],
                Some("the canary was missed"),
                Outside,
                "outside ±50 MB over 48 h",
            ),
        ];
        for (what, looks, blind, verdict, says) in cases {
            let judgement = judge(&looks, Params::default(), blind);
            assert_eq!(judgement.verdict, verdict, "{what}");
            assert!(judgement.reason.contains(says), "{what}: {}", judgement.reason);
        }
    }
}
