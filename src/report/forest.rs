//! The verdict as one picture: each series' drift with its 95 % interval, against the room that the tolerance leaves.

use super::scale::{Unit, bytes, signed_bytes, ticks};
use super::scene::{Anchor, Draw, Ink, Scene, text_width};
use crate::model::facts::{RunFacts, SeriesFacts};
use crate::model::finding::Finding;

const ROW: f64 = 26.0;
const HEAD: f64 = 24.0;
const FOOT: f64 = 22.0;

/// The picture, `width` logical pixels wide; `None` if no series has an interval yet.
#[must_use]
pub fn scene(facts: &RunFacts, width: f64) -> Option<Scene> {
    let rows: Vec<(&SeriesFacts, &Finding)> = facts
        .series
        .iter()
        .filter(|s| s.judged)
        .filter_map(|s| s.finding.as_ref().map(|f| (s, f)))
        .filter(|(_, f)| f.drift_ci95_bytes.iter().all(|b| b.is_finite()))
        .collect();
    let tolerance = facts.plan.tolerance_bytes as f64;
    if rows.is_empty() || tolerance <= 0.0 {
        return None;
    }
    // Wide enough for what is near the tolerance; what is far off ends in an arrow at the edge.
    let furthest = rows.iter().flat_map(|(_, f)| f.drift_ci95_bytes).fold(0.0f64, |m, b| m.max(b.abs()));
    let reach = (tolerance * 1.5).max(furthest * 1.08).min(tolerance * 6.0);
    let named = rows.iter().map(|(s, _)| text_width(&s.name, 13.0)).fold(60.0, f64::max) + 16.0;
    let told = 190.0;
    let (left, right) = (named, width - told);
    let x = |b: f64| left + (b.clamp(-reach, reach) + reach) / (2.0 * reach) * (right - left);
    let height = HEAD + ROW * rows.len() as f64 + FOOT;
    let bottom = height - FOOT;
    let mut items = ground(x, tolerance, reach, bottom);
    for (i, (series, finding)) in rows.iter().enumerate() {
        row(&mut items, series, finding, HEAD + ROW * (i as f64 + 0.5), (&x, reach, width));
    }
    let said: Vec<String> =
        rows.iter().map(|(s, f)| format!("{}: {}", s.name, super::plot::sentence(f, None))).collect();
    Some(Scene {
        width,
        height,
        title: format!("Drift of each memory series against the tolerance of ±{}", bytes(tolerance)),
        description: said.join(". "),
        items,
    })
}

fn ground(x: impl Fn(f64) -> f64, tolerance: f64, reach: f64, bottom: f64) -> Vec<Draw> {
    let label = |at: f64, y: f64, text: String, ink: Ink| Draw::Text {
        x: at,
        y,
        text,
        anchor: Anchor::Middle,
        ink,
        size: 11.0,
        bold: false,
    };
    let bar = |at: f64, ink: Ink, dashed: bool| Draw::Line {
        points: vec![(at, HEAD), (at, bottom)],
        ink,
        width: if dashed { 1.4 } else { 1.0 },
        dashed,
    };
    let (lo, hi) = (x(-tolerance), x(tolerance));
    let mut items = vec![Draw::Area {
        points: vec![(lo, HEAD), (hi, HEAD), (hi, bottom), (lo, bottom)],
        ink: Ink::Allowed,
        hint: format!("tolerance ±{}", bytes(tolerance)),
    }];
    let (values, step) = ticks(-reach, reach, 6);
    for value in values {
        items.push(bar(x(value), Ink::Grid, false));
        items.push(label(x(value), bottom + 16.0, Unit::Bytes.write(value, step), Ink::Dim));
    }
    for (at, sign) in [(lo, "−"), (hi, "+")] {
        items.push(bar(at, Ink::Tolerance, true));
        items.push(label(at, HEAD - 7.0, format!("{sign}{}", bytes(tolerance)), Ink::Tolerance));
    }
    items
}

fn row(
    items: &mut Vec<Draw>,
    series: &SeriesFacts,
    finding: &Finding,
    y: f64,
    (x, reach, width): (&impl Fn(f64) -> f64, f64, f64),
) {
    let ink = super::plot::verdict_ink(finding.verdict);
    let text = |at: f64, text: String, anchor: Anchor, ink: Ink| Draw::Text {
        x: at,
        y: y + 4.5,
        text,
        anchor,
        ink,
        size: 13.0,
        bold: false,
    };
    let [lo, hi] = finding.drift_ci95_bytes;
    items.push(text(0.0, series.name.clone(), Anchor::Start, Ink::Text));
    items.push(Draw::Line { points: vec![(x(lo), y), (x(hi).max(x(lo) + 1.0), y)], ink, width: 3.0, dashed: false });
    for (end, outward) in [(lo, -1.0), (hi, 1.0)] {
        let at = x(end);
        if end.abs() > reach {
            items.push(Draw::Area {
                points: vec![(at, y - 5.0), (at + outward * 8.0, y), (at, y + 5.0)],
                ink,
                hint: signed_bytes(end),
            });
        } else {
            items.push(Draw::Line { points: vec![(at, y - 5.0), (at, y + 5.0)], ink, width: 1.6, dashed: false });
        }
    }
    let at = x(finding.drift_bytes);
    items.push(Draw::Area {
        points: vec![(at - 5.0, y), (at, y - 5.0), (at + 5.0, y), (at, y + 5.0)],
        ink,
        hint: signed_bytes(finding.drift_bytes),
    });
    items.push(text(
        width,
        format!("{} {}", finding.verdict.as_str(), signed_bytes(finding.drift_bytes)),
        Anchor::End,
        ink,
    ));
}
