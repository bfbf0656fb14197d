//! Pictures of made-up series: what they must show, and that nothing odd in the data breaks them.

use super::plot::{Mark, Panel, Picture, Tolerance, sentence};
use crate::model::event::EventSeverity;
use crate::model::finding::{Finding, Shape, Verdict};
use crate::model::series::Point;

const HOUR_S: f64 = 3_600.0;
const TOLERANCE: Tolerance = Tolerance { bytes: 50e6, horizon_s: 48.0 * HOUR_S };

fn finding(drift: f64, lo: f64, hi: f64, verdict: Verdict) -> Finding {
    Finding {
        verdict,
        shape: if drift > 20e6 { Shape::Linear } else { Shape::None },
        drift_bytes: drift,
        drift_ci95_bytes: [lo, hi],
        slope_bytes_per_hour: drift / 48.0,
        minimum_detectable_drift_bytes: 14e6,
        samples: 2_880,
        span_s: 48.0 * HOUR_S,
        alarmed: verdict == Verdict::Outside,
        ..Finding::default()
    }
}

/// 48 h at a sample a minute: a ramp of `drift`, a breath of the day, some noise, a restart half way if asked.
fn points(drift: f64, restart: bool) -> Vec<Point> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..2_880)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let noise = (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5;
            let t = f64::from(i) * 60.0;
            let second = restart && i >= 1_440;
            let grown = drift * (if second { t - 86_400.0 } else { t }) / TOLERANCE.horizon_s;
            let day = 1.5e6 * (t / 86_400.0 * std::f64::consts::TAU).sin();
            Point {
                unix_s: 1_764_000_000.0 + t,
                bytes: 812e6 + grown + day + noise * 4e6 + if second { 3e6 } else { 0.0 },
                segment: u32::from(second),
                requests: None,
            }
        })
        .collect()
}

fn picture(drift: f64, verdict: Verdict, restart: bool) -> Picture {
    let f = finding(drift, drift - 6e6, drift + 6e6, verdict);
    let mut picture =
        Picture::of(Panel::of_points("worker-0.anon_swap", &points(drift, restart), Some(f), Some(TOLERANCE)));
    if restart {
        picture.marks.push(Mark {
            unix_s: 1_764_086_400.0,
            severity: EventSeverity::Error,
            label: "worker-0 died: signal 9 <killed>".into(),
        });
    }
    picture
}

#[test]
fn the_caption_says_what_the_finding_says() {
    let f = finding(83e6, 77e6, 89e6, Verdict::Outside);
    assert_eq!(
        sentence(&f, Some(TOLERANCE)),
        "outside tolerance (linear): +83.0 MB over 48 h, 95 % interval +77.0 MB to +89.0 MB"
    );
}

#[test]
fn svg_shows_samples_fit_band_tolerance_and_the_crash() {
    let svg = picture(83e6, Verdict::Outside, true).svg();
    for class in ["i-sample", "i-envelope", "i-fit", "i-band", "i-tolerance", "i-error"] {
        assert!(svg.contains(&format!("{class}\"")), "{class} is missing");
    }
    assert!(svg.contains(r#"role="img""#) && svg.contains("outside tolerance"), "a screen reader hears the verdict");
    assert!(svg.contains("&lt;killed&gt;") && !svg.contains("<killed>"), "what a process printed is escaped");
    assert_eq!(svg.matches("l i-fit").count(), 3, "two incarnations, each with its line, and the legend's");
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
}

#[test]
fn png_is_the_same_picture_byte_for_byte_and_small_enough_for_a_mail() {
    let once = picture(2e6, Verdict::Within, false).png(2).expect("drawn");
    let again = picture(2e6, Verdict::Within, false).png(2).expect("drawn");
    assert_eq!(once, again);
    assert!(once.len() < 200_000, "{} bytes", once.len());
    let side = |at: usize| u32::from_be_bytes(once[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((side(16), side(20)), (1_520, 594), "the header's width and height");
}

#[test]
fn odd_data_draws_without_nonsense() {
    let at = |unix_s: f64, bytes: f64| Point { unix_s, bytes, segment: 0, requests: None };
    let cases: [(&str, Vec<Point>); 5] = [
        ("no samples", vec![]),
        ("one sample", vec![at(5.0, 1e9)]),
        ("two at one moment", vec![at(5.0, 1e9), at(5.0, 2e9)]),
        ("all the same", (0..100).map(|i| at(f64::from(i), 1e9)).collect()),
        ("one wild reading", (0..100).map(|i| at(f64::from(i), if i == 50 { 1e15 } else { 1e6 })).collect()),
    ];
    for (what, points) in cases {
        for f in [None, Some(finding(f64::MAX, f64::MIN, f64::MAX, Verdict::Inconclusive))] {
            let picture = Picture::of(Panel::of_points("x", &points, f, Some(TOLERANCE)));
            let svg = picture.svg();
            let nonsense = ["NaN", " inf", "linf", "Minf"].into_iter().find(|word| svg.contains(word));
            assert_eq!(nonsense, None, "{what}: {svg}");
            assert!(picture.png(1).is_ok(), "{what}");
        }
    }
}

/// Writes the pictures where `SOAKD_PLOT_DIR` says, to be looked at.
#[test]
fn pictures_to_look_at() {
    let Some(dir) = std::env::var_os("SOAKD_PLOT_DIR").map(std::path::PathBuf::from) else { return };
    for (name, picture) in
        [("leak", picture(83e6, Verdict::Outside, true)), ("flat", picture(2e6, Verdict::Within, false))]
    {
        std::fs::write(dir.join(format!("{name}.png")), picture.png(2).expect("drawn")).expect("written");
        std::fs::write(dir.join(format!("{name}.svg")), picture.svg()).expect("written");
    }
}

#[test]
fn a_leak_is_stated_per_request_and_what_is_no_leak_is_not() {
    let each = |verdict| {
        let found = Finding { slope_bytes_per_request: Some(20_044.6), ..finding(83e6, 77e6, 89e6, verdict) };
        sentence(&found, Some(TOLERANCE)).ends_with(", 20045 bytes a request")
    };
    assert!(each(Verdict::Outside));
    assert!(!each(Verdict::Inconclusive) && !each(Verdict::Within));
}
