//! The roofline of decoding, as a picture and as text. A token of a stream needs all weights read once, and streams that
//! step together share that read. So tokens a second stay below what memory reads in a second times the tokens that a
//! gigabyte of weights serves: a straight line where both axes are logarithmic. How far a point lies below it is what
//! launches, small matrices, attention and arithmetic cost. There is no flat roof: the arithmetic's own ceiling was not
//! measured.

use super::scale;
use super::scene::{Anchor, Draw, Frame, Ink, Scene};
use crate::model::bench::BenchFacts;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 470.0;
/// Room for the figures left of the plot, the words above, the figures below.
const MARGINS: (f64, f64, f64, f64) = (64.0, 74.0, 150.0, 52.0);
/// Baselines of labels are at least so far apart, or they cannot be read.
const LABEL_APART: f64 = 14.0;
/// Columns of the text's bars; the whole of it is the roof.
const BAR: usize = 40;

/// A measurement under the roof.
#[derive(Debug, Clone, PartialEq)]
pub struct Spot {
    /// `q4_k`, or `q4_k × 8`.
    pub name: String,
    /// Of a load test: streams that share a read.
    pub streams: Option<i64>,
    /// Tokens that one gigabyte of weights serves.
    pub tokens_per_gb: f64,
    /// All streams together.
    pub tokens_per_s: f64,
    /// Which bench.
    pub bench_id: i64,
}

/// The roof and what lies under it.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    /// Where it was measured.
    pub place: String,
    /// The fastest read of memory in that bench.
    pub read_gb_per_s: f64,
    /// Variants at one stream, fastest first; then the closed loop by streams.
    pub spots: Vec<Spot>,
}

impl Roofline {
    /// From a bench, and a load test of the same model on the same kind of device. `None` if the ceiling was not measured.
    #[must_use]
    pub fn of(bench: &BenchFacts, load: Option<&BenchFacts>) -> Option<Roofline> {
        let read_gb_per_s = bench.read_bytes_per_s.filter(|rate| *rate > 0.0)? / 1e9;
        let gb = |variant: &str| {
            let found = bench.variants.iter().find(|v| v.variant == variant);
            found.map(|v| v.weight_bytes_per_token / 1e9).filter(|gb| *gb > 0.0)
        };
        let of_variants = bench.variants.iter().filter_map(|v| {
            Some(Spot {
                name: v.variant.clone(),
                streams: None,
                tokens_per_gb: 1.0 / gb(&v.variant)?,
                tokens_per_s: v.tokens_per_s,
                bench_id: bench.bench_id,
            })
        });
        let alike = load.filter(|load| load.model == bench.model && load.device == bench.device);
        let closed = alike.into_iter().flat_map(|load| load.points.iter().map(move |point| (load, point)));
        let of_load = closed.filter(|(_, point)| point.arrivals == "closed").filter_map(|(load, point)| {
            Some(Spot {
                name: format!("{} × {}", point.variant, point.streams),
                streams: Some(point.streams),
                tokens_per_gb: point.streams as f64 / gb(&point.variant)?,
                tokens_per_s: point.tokens_per_s,
                bench_id: load.bench_id,
            })
        });
        let spots: Vec<Spot> = of_variants.chain(of_load).filter(|spot| spot.tokens_per_s > 0.0).collect();
        let place = format!("{} on {}", bench.model, bench.device.as_deref().unwrap_or("the CPU"));
        (!spots.is_empty()).then_some(Roofline { place, read_gb_per_s, spots })
    }

    /// What share of the roof a measurement reaches.
    #[must_use]
    pub fn share(&self, spot: &Spot) -> f64 {
        spot.tokens_per_s / (self.read_gb_per_s * spot.tokens_per_gb)
    }

    /// A bar each: the whole width is the roof.
    #[must_use]
    pub fn text(&self) -> String {
        let named = self.spots.iter().map(|spot| spot.name.chars().count()).max().unwrap_or(0);
        let line = |spot: &Spot| {
            let share = self.share(spot);
            let full = ((share * BAR as f64).round() as usize).min(BAR);
            let (bar, room) = ("█".repeat(full), "·".repeat(BAR - full));
            let (said, roof) = (percent(share), self.read_gb_per_s * spot.tokens_per_gb);
            let name = &spot.name;
            format!("{name:named$} {bar}{room} {said} of {roof:.0} tokens/s [bench {}]", spot.bench_id)
        };
        self.spots.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The picture.
    #[must_use]
    pub fn scene(&self) -> Scene {
        let frame = self.frame();
        let mut items = self.heading();
        items.push(Draw::Axes { items: axes(&frame) });
        let mut inside = vec![self.roof(&frame, 1.0, Ink::Fit, false), self.roof(&frame, 0.5, Ink::Dim, true)];
        inside.push(line(self.spots.iter().filter(|s| s.streams.is_some()).map(|s| at(&frame, s)), Ink::Second));
        inside.extend(self.spots.iter().map(|spot| self.dot(&frame, spot)));
        items.push(Draw::Plot { frame, items: inside });
        items.extend(self.labels(&frame));
        Scene {
            width: WIDTH,
            height: HEIGHT,
            title: format!("Roofline: {}", self.place),
            description: self.said(),
            items,
        }
    }

    /// For those who listen.
    fn said(&self) -> String {
        let each = self.spots.iter().map(|spot| {
            format!("{}: {:.0} tokens/s, {} of the roof", spot.name, spot.tokens_per_s, percent(self.share(spot)))
        });
        format!("Read ceiling {:.1} GB/s. {}.", self.read_gb_per_s, each.collect::<Vec<_>>().join("; "))
    }

    fn frame(&self) -> Frame {
        let reach = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
        };
        let (left, right) = reach(&mut self.spots.iter().map(|spot| spot.tokens_per_gb));
        let (slowest, fastest) = reach(&mut self.spots.iter().map(|spot| spot.tokens_per_s));
        let (left, right) = (left / 1.5, right * 1.5);
        let (bottom, top) = (slowest / 2.0, fastest.max(self.read_gb_per_s * right) * 1.2);
        let (before, above, behind, below) = MARGINS;
        Frame {
            left: before,
            top: above,
            width: WIDTH - before - behind,
            height: HEIGHT - above - below,
            x: (left.log10(), right.log10()),
            y: (bottom.log10(), top.log10()),
            unit: scale::Unit::Plain,
            timed: false,
        }
    }

    fn heading(&self) -> Vec<Draw> {
        let (before, above, ..) = MARGINS;
        let ceiling = format!(
            "Roof: {:.1} GB/s, the fastest read of memory in this bench; dashed: half of it. Streams share a read.",
            self.read_gb_per_s
        );
        vec![
            text(before - 40.0, 26.0, format!("Roofline of decoding: {}", self.place), Anchor::Start, Ink::Text, 16.0),
            text(before - 40.0, 46.0, ceiling, Anchor::Start, Ink::Dim, 12.0),
            text(before - 40.0, above - 8.0, "tokens/s, all streams".into(), Anchor::Start, Ink::Dim, 12.0),
            text(
                WIDTH - MARGINS.2,
                HEIGHT - 12.0,
                "tokens that a GB of weights serves".into(),
                Anchor::End,
                Ink::Dim,
                12.0,
            ),
        ]
    }

    /// A line of slope one: `share` of the ceiling.
    fn roof(&self, frame: &Frame, share: f64, ink: Ink, dashed: bool) -> Draw {
        let y = |x: f64| x + (self.read_gb_per_s * share).log10();
        let points = vec![frame.at(frame.x.0, y(frame.x.0)), frame.at(frame.x.1, y(frame.x.1))];
        Draw::Line { points, ink, width: if dashed { 1.0 } else { 2.0 }, dashed }
    }

    fn dot(&self, frame: &Frame, spot: &Spot) -> Draw {
        let (x, y) = at(frame, spot);
        let corner = |i: i32| {
            let angle = f64::from(i) * std::f64::consts::TAU / 16.0;
            (x + 4.5 * angle.cos(), y + 4.5 * angle.sin())
        };
        let ink = if spot.streams.is_some() { Ink::Second } else { Ink::Sample };
        let share = percent(self.share(spot));
        let hint = format!("{}: {:.1} tokens/s, {share} of the roof", spot.name, spot.tokens_per_s);
        Draw::Area { points: (0..16).map(corner).collect(), ink, hint }
    }

    /// Names with their share beside the plot, each at the height of its point or as near as there is room.
    fn labels(&self, frame: &Frame) -> Vec<Draw> {
        let mut placed: Vec<(f64, &Spot)> = self.spots.iter().map(|spot| (at(frame, spot).1, spot)).collect();
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = frame.top + 10.0;
        for (y, _) in &mut placed {
            *y = y.max(free);
            free = *y + LABEL_APART;
        }
        // What was pushed out below goes back up, and pushes what is above it.
        let mut limit = frame.top + frame.height;
        for (y, _) in placed.iter_mut().rev() {
            *y = y.min(limit);
            limit = *y - LABEL_APART;
        }
        let edge = frame.left + frame.width;
        let label = |(y, spot): &(f64, &Spot)| {
            let ink = if spot.streams.is_some() { Ink::Second } else { Ink::Sample };
            let (from, said) = (at(frame, spot), format!("{}: {}", spot.name, percent(self.share(spot))));
            let points = vec![(from.0 + 6.0, from.1), (edge + 4.0, *y - 4.0)];
            let leader = Draw::Line { points, ink: Ink::Grid, width: 1.0, dashed: false };
            [leader, text(edge + 8.0, *y, said, Anchor::Start, ink, 12.0)]
        };
        placed.iter().flat_map(label).collect()
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn at(frame: &Frame, spot: &Spot) -> (f64, f64) {
    frame.at(spot.tokens_per_gb.log10(), spot.tokens_per_s.log10())
}

fn line(points: impl Iterator<Item = (f64, f64)>, ink: Ink) -> Draw {
    Draw::Line { points: points.collect(), ink, width: 1.5, dashed: false }
}

fn text(x: f64, y: f64, text: String, anchor: Anchor, ink: Ink, size: f64) -> Draw {
    Draw::Text { x, y, text, anchor, ink, size, bold: size > 14.0 }
}

/// 1, 2 and 5 of each power of ten that the range reaches, as they are written.
fn round_values((lo, hi): (f64, f64)) -> Vec<(f64, String)> {
    let decades = lo.floor() as i32..=hi.ceil() as i32;
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)));
    let inside = all.filter(|value| (lo..=hi).contains(&value.log10()));
    inside
        .map(|value| (value.log10(), if value < 1.0 { format!("{value:.2}") } else { format!("{value:.0}") }))
        .collect()
}

fn axes(frame: &Frame) -> Vec<Draw> {
    let (right, bottom) = (frame.left + frame.width, frame.top + frame.height);
    let grid = |points: Vec<(f64, f64)>| Draw::Line { points, ink: Ink::Grid, width: 1.0, dashed: false };
    let mut items = Vec::new();
    for (value, said) in round_values(frame.x) {
        let (x, _) = frame.at(value, frame.y.0);
        items.push(grid(vec![(x, frame.top), (x, bottom)]));
        items.push(text(x, bottom + 18.0, said, Anchor::Middle, Ink::Dim, 12.0));
    }
    for (value, said) in round_values(frame.y) {
        let (_, y) = frame.at(frame.x.0, value);
        items.push(grid(vec![(frame.left, y), (right, y)]));
        items.push(text(frame.left - 8.0, y + 4.0, said, Anchor::End, Ink::Dim, 12.0));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roofline() -> Roofline {
        let spot = |name: &str, streams, tokens_per_gb, tokens_per_s| Spot {
            name: name.into(),
            streams,
            tokens_per_gb,
            tokens_per_s,
            bench_id: 1,
        };
        let spots = vec![
            spot("q2_k", None, 0.125, 375.0),
            spot("q4_k", None, 0.08, 120.0),
            spot("q4_k × 1", Some(1), 0.08, 120.0),
            spot("q4_k × 16", Some(16), 1.28, 960.0),
        ];
        Roofline { place: "a model on a card".into(), read_gb_per_s: 3000.0, spots }
    }

    #[test]
    fn the_share_is_of_what_memory_could_serve() {
        let roofline = roofline();
        let shares: Vec<f64> = roofline.spots.iter().map(|spot| roofline.share(spot)).collect();
        assert_eq!(shares, [1.0, 0.5, 0.5, 0.25]);
        let text = roofline.text();
        assert!(text.starts_with(&format!("q2_k      {} 100", "█".repeat(40))), "{text}");
        assert!(text.contains(&format!("{}{} 25", "█".repeat(10), "·".repeat(30))), "{text}");
    }

    #[test]
    fn a_point_on_the_roof_is_drawn_on_it_and_labels_do_not_cover_one_another() {
        let roofline = roofline();
        let frame = roofline.frame();
        let Draw::Line { points, .. } = roofline.roof(&frame, 1.0, Ink::Fit, false) else { panic!("a line") };
        let (from, to) = (points[0], points[1]);
        let (x, y) = at(&frame, &roofline.spots[0]);
        let there = from.1 + (x - from.0) / (to.0 - from.0) * (to.1 - from.1);
        assert!((y - there).abs() < 0.5, "{y} against {there}");
        let scene = roofline.scene();
        let mut baselines: Vec<f64> = scene
            .items
            .iter()
            .filter_map(|item| match item {
                Draw::Text { x, y, .. } if *x > frame.left + frame.width => Some(*y),
                _ => None,
            })
            .collect();
        baselines.sort_by(f64::total_cmp);
        assert_eq!(baselines.len(), 4);
        assert!(baselines.windows(2).all(|pair| pair[1] - pair[0] >= LABEL_APART - 1e-9), "{baselines:?}");
        assert!(baselines.iter().all(|y| (frame.top..=frame.top + frame.height).contains(y)), "{baselines:?}");
    }
}
