//! A scene as SVG: classes for colour, so that one picture serves light, dark and paper; a title and a description for
//! those who listen. Plots are groups with their data ranges in attributes, for the report's script to zoom.

use super::scene::{Anchor, Draw, Frame, Ink, Scene};
use std::fmt::Write;

/// Subpixel steps of the data inside a plot: coordinates are whole numbers of 1/20 logical pixel, which keeps files
/// small and still resolves a sample a minute at a twentyfold zoom.
const STEPS: f64 = 20.0;

/// A file of its own, with its colours in it.
#[must_use]
pub fn document(scene: &Scene) -> String {
    let style = format!(
        "<style>{}@media(prefers-color-scheme:dark){{{}}}text{{font-family:Inter,system-ui,sans-serif}}</style>",
        colours(Ink::light),
        colours(Ink::dark)
    );
    element(scene, "plot", &style, true)
}

/// An element for a page that has [`colours`] in its style sheet. `id` makes its inner ids unique in the page.
#[must_use]
pub fn fragment(scene: &Scene, id: &str) -> String {
    element(scene, id, "", false)
}

/// Style rules for every ink: `stroke` for lines, `fill` for areas and texts.
#[must_use]
pub fn colours(palette: fn(Ink) -> (u8, u8, u8, f64)) -> String {
    Ink::ALL.into_iter().fold(String::new(), |mut css, ink| {
        let (r, g, b, alpha) = palette(ink);
        let class = ink.class();
        let opaque = if alpha < 1.0 { format!("/{alpha}") } else { String::new() };
        let _ = write!(css, ".{class}{{fill:rgb({r} {g} {b}{opaque})}}.l.{class}{{stroke:rgb({r} {g} {b}{opaque})}}");
        css
    }) + ".l{fill:none!important;stroke-linejoin:round}"
}

fn element(scene: &Scene, id: &str, style: &str, with_ground: bool) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let (w, h) = (scene.width, scene.height);
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>{style}"#,
        escape(&scene.title),
        escape(&scene.description)
    );
    if with_ground {
        let _ = write!(out, r#"<rect width="{w}" height="{h}" class="i-ground"/>"#);
    }
    let mut plots = 0;
    for item in &scene.items {
        draw(&mut out, item, id, &mut plots);
    }
    out.push_str("</svg>");
    out
}

fn draw(out: &mut String, item: &Draw, id: &str, plots: &mut u32) {
    match item {
        Draw::Plot { frame, items } => {
            *plots += 1;
            plot(out, frame, items, &format!("{id}-c{plots}"));
        }
        Draw::Axes { items } => {
            out.push_str(r#"<g class="axes">"#);
            for item in items {
                draw(out, item, id, plots);
            }
            out.push_str("</g>");
        }
        Draw::Text { x, y, text, anchor, ink, size, bold } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => r#" text-anchor="middle""#,
                Anchor::End => r#" text-anchor="end""#,
            };
            let weight = if *bold { r#" font-weight="600""# } else { "" };
            let _ = write!(
                out,
                r#"<text x="{}" y="{}" font-size="{size}"{anchor}{weight} class="{}">{}</text>"#,
                tenth(*x),
                tenth(*y),
                ink.class(),
                escape(text)
            );
        }
        Draw::Line { points, ink, width, dashed } => line(out, points, *ink, *width, *dashed, 1.0, ""),
        Draw::Area { points, ink, hint } => area(out, points, *ink, hint, 1.0),
    }
}

fn plot(out: &mut String, frame: &Frame, items: &[Draw], clip: &str) {
    let Frame { left, top, width, height, x, y, unit, timed } = frame;
    let _ = write!(
        out,
        r#"<clipPath id="{clip}"><rect x="{left}" y="{top}" width="{width}" height="{height}"/></clipPath><g class="plot" data-frame="{left} {top} {width} {height}" data-x="{} {}" data-y="{} {}" data-unit="{}" data-timed="{timed}" clip-path="url(#{clip})"><g class="data" transform="scale({})">"#,
        x.0,
        x.1,
        y.0,
        y.1,
        unit.as_str(),
        1.0 / STEPS
    );
    for item in items {
        match item {
            Draw::Line { points, ink, width, dashed } => {
                line(out, points, *ink, *width, *dashed, STEPS, r#" vector-effect="non-scaling-stroke""#);
            }
            Draw::Area { points, ink, hint } => area(out, points, *ink, hint, STEPS),
            Draw::Text { .. } | Draw::Plot { .. } | Draw::Axes { .. } => {} // texts would be stretched by a zoom: they belong outside
        }
    }
    out.push_str("</g></g>");
}

fn line(out: &mut String, points: &[(f64, f64)], ink: Ink, width: f64, dashed: bool, steps: f64, extra: &str) {
    let dash = if dashed { r#" stroke-dasharray="5 4""# } else { "" };
    let _ = write!(out, r#"<path class="l {}" stroke-width="{width}"{dash}{extra} d=""#, ink.class());
    path(out, points, steps);
    out.push_str(r#""/>"#);
}

fn area(out: &mut String, points: &[(f64, f64)], ink: Ink, hint: &str, steps: f64) {
    let _ = write!(out, r#"<path class="{}" d=""#, ink.class());
    path(out, points, steps);
    if hint.is_empty() {
        out.push_str(r#"z"/>"#);
    } else {
        let _ = write!(out, r#"z"><title>{}</title></path>"#, escape(hint));
    }
}

/// Relative moves in whole steps: about five bytes a point. Rounding is of the absolute position, so errors do not add up.
fn path(out: &mut String, points: &[(f64, f64)], steps: f64) {
    let exact = steps <= 1.0;
    let scale = if exact { 10.0 } else { steps };
    let mut last: Option<(i64, i64)> = None;
    for &(x, y) in points {
        let here = ((x * scale).round() as i64, (y * scale).round() as i64);
        let (dx, dy) = last.map_or(here, |(lx, ly)| (here.0 - lx, here.1 - ly));
        let command = match last {
            None => "M",
            Some(_) if dx == 0 && dy == 0 => continue,
            Some(_) => "l",
        };
        out.push_str(command);
        number(out, dx, exact);
        if exact || dy >= 0 {
            out.push(' ');
        }
        number(out, dy, exact);
        last = Some(here);
    }
}

fn number(out: &mut String, steps: i64, tenths: bool) {
    let _ = if tenths { write!(out, "{}", steps as f64 / 10.0) } else { write!(out, "{steps}") };
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Text for an element or an attribute in double quotes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_and_rounding_does_not_add_up() {
        let mut out = String::new();
        let points: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i) * 0.333, 1.0)).collect();
        path(&mut out, &points, STEPS);
        let moves: i64 = out
            .split(['M', 'l'])
            .filter(|p| !p.is_empty())
            .map(|p| p.split(' ').next().and_then(|n| n.parse::<i64>().ok()).expect("a number"))
            .sum();
        assert_eq!(moves, (99.0f64 * 0.333 * STEPS).round() as i64);
    }

    #[test]
    fn what_a_process_printed_cannot_break_out() {
        assert_eq!(escape("<script>\"&\u{1b}["), "&lt;script&gt;&quot;&amp;\u{fffd}[");
    }
}
