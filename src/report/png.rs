//! A scene as PNG, for mails: drawn by plotters at twice the size it is delivered in and averaged down, with the font
//! that is compiled in, so that a server without fonts draws the same picture, byte for byte.

use super::scene::{Anchor, Draw, Frame, Ink, Scene};
use plotters::backend::{BitMapBackend, DrawingBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, RGBAColor, TextStyle, register_font};
use std::sync::Once;

/// Inter Medium, cut down to the letters that plots use. Licence: `assets/fonts/OFL.txt`.
static FONT: &[u8] = include_bytes!("../../assets/fonts/Inter-Medium-subset.otf");
const FAMILY: &str = "soakd-plot";
/// Inter's ascent plus descent over its em: plotters scales fonts by the former, we by the latter.
const LINE_PER_EM: f64 = 1.21;
/// Averaging 2 × 2 pixels hides the steps of plotters' whole-pixel polygons.
const OVERSAMPLING: u32 = 2;
/// Larger pictures than this (logical pixels, either way) are not for mails.
const SIDE_MAX: f64 = 4_000.0;

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PngError {
    /// plotters refused; says what.
    #[error("drawing the plot: {0}")]
    Draw(String),
    /// The encoder refused; says what.
    #[error("encoding the plot: {0}")]
    Encode(String),
}

/// PNG bytes of `scene` in the light palette, `scale` device pixels a logical one (2 for sharp screens).
pub fn encode(scene: &Scene, scale: u32) -> Result<Vec<u8>, PngError> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // The font is compiled in and tested; a family that is missing shows as an error when text is drawn.
        let _ = register_font(FAMILY, FontStyle::Normal, FONT);
    });
    let scale = scale.clamp(1, 4);
    let fine = f64::from(scale * OVERSAMPLING);
    let (width, height) = (logical(scene.width) * scale, logical(scene.height) * scale);
    let (fine_width, fine_height) = (width * OVERSAMPLING, height * OVERSAMPLING);
    let mut canvas = vec![255u8; fine_width as usize * fine_height as usize * 3];
    {
        let mut backend = BitMapBackend::with_buffer(&mut canvas, (fine_width, fine_height));
        let clip = Clip { left: 0.0, top: 0.0, right: scene.width, bottom: scene.height };
        for item in &scene.items {
            draw(&mut backend, item, fine, clip)?;
        }
        backend.present().map_err(|e| PngError::Draw(e.to_string()))?;
    }
    write(&halve(&canvas, width, height), width, height)
}

fn logical(side: f64) -> u32 {
    side.clamp(1.0, SIDE_MAX).round() as u32
}

#[derive(Clone, Copy)]
struct Clip {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

type Backend<'a> = BitMapBackend<'a>;

fn draw(backend: &mut Backend<'_>, item: &Draw, fine: f64, clip: Clip) -> Result<(), PngError> {
    match item {
        Draw::Plot { frame: Frame { left, top, width, height, .. }, items } => {
            let clip = Clip { left: *left, top: *top, right: left + width, bottom: top + height };
            items.iter().try_for_each(|item| draw(backend, item, fine, clip))
        }
        Draw::Axes { items } => items.iter().try_for_each(|item| draw(backend, item, fine, clip)),
        Draw::Line { points, ink, width, dashed } => {
            let pieces = if *dashed { dashes(points) } else { vec![points.clone()] };
            for piece in pieces {
                for pair in piece.windows(2) {
                    if let Some((a, b)) = clip_segment(pair[0], pair[1], clip) {
                        stroke(backend, a, b, *width, *ink, fine)?;
                    }
                }
            }
            Ok(())
        }
        Draw::Area { points, ink, .. } => fill(backend, &clip_polygon(points, clip), *ink, fine),
        Draw::Text { x, y, text: words, anchor, ink, size, .. } => {
            text(backend, (*x, *y), words, *anchor, *ink, *size * fine, fine)
        }
    }
}

/// A segment as the rectangle that it covers: plotters' own wide lines break at sharp corners.
fn stroke(
    backend: &mut Backend<'_>,
    a: (f64, f64),
    b: (f64, f64),
    width: f64,
    ink: Ink,
    fine: f64,
) -> Result<(), PngError> {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx.hypot(dy);
    if length < 1e-9 {
        return Ok(());
    }
    let half = width / 2.0;
    // A little longer than it is, so that neighbours meet at corners.
    let (ux, uy) = (dx / length * half, dy / length * half);
    let reach = 0.6;
    let (ax, ay) = (a.0 - ux * reach, a.1 - uy * reach);
    let (bx, by) = (b.0 + ux * reach, b.1 + uy * reach);
    fill(backend, &[(ax - uy, ay + ux), (bx - uy, by + ux), (bx + uy, by - ux), (ax + uy, ay - ux)], ink, fine)
}

fn fill(backend: &mut Backend<'_>, points: &[(f64, f64)], ink: Ink, fine: f64) -> Result<(), PngError> {
    if points.len() < 3 {
        return Ok(());
    }
    let pixels = points.iter().map(|(x, y)| ((x * fine).round() as i32, (y * fine).round() as i32));
    backend.fill_polygon(pixels, &colour(ink)).map_err(|e| PngError::Draw(e.to_string()))
}

fn text(
    backend: &mut Backend<'_>,
    at: (f64, f64),
    words: &str,
    anchor: Anchor,
    ink: Ink,
    em: f64,
    fine: f64,
) -> Result<(), PngError> {
    let line = em * LINE_PER_EM;
    let horizontal = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let ink = colour(ink);
    let style = TextStyle::from((FAMILY, line)).color(&ink).pos(Pos::new(horizontal, VPos::Top));
    // plotters puts the baseline half a line below the point it is given.
    let point = ((at.0 * fine).round() as i32, (at.1 * fine - line / 2.0).round() as i32);
    backend.draw_text(words, &style, point).map_err(|e| PngError::Draw(e.to_string()))
}

fn colour(ink: Ink) -> RGBAColor {
    let (r, g, b, alpha) = ink.light();
    RGBAColor(r, g, b, alpha)
}

/// Dashes of 5 with gaps of 4 logical pixels, as in the SVG.
fn dashes(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let (mut out, mut along) = (Vec::new(), 0.0f64);
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        if length > 20.0 * SIDE_MAX || length <= 0.0 {
            continue;
        }
        let at = |s: f64| (a.0 + (b.0 - a.0) * s / length, a.1 + (b.1 - a.1) * s / length);
        let mut s = 0.0;
        while s < length {
            let phase = (along + s) % 9.0;
            let step = if phase < 5.0 { 5.0 - phase } else { 9.0 - phase }.max(1e-3).min(length - s).max(1e-6);
            if phase < 5.0 {
                out.push(vec![at(s), at(s + step)]);
            }
            s += step;
        }
        along += length;
    }
    out
}

/// Liang-Barsky: the part of a segment that lies in the rectangle.
fn clip_segment(a: (f64, f64), b: (f64, f64), c: Clip) -> Option<((f64, f64), (f64, f64))> {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let (mut from, mut to) = (0.0f64, 1.0f64);
    for (p, q) in [(-dx, a.0 - c.left), (dx, c.right - a.0), (-dy, a.1 - c.top), (dy, c.bottom - a.1)] {
        if p == 0.0 {
            if q < 0.0 {
                return None;
            }
        } else if p < 0.0 {
            from = from.max(q / p);
        } else {
            to = to.min(q / p);
        }
    }
    (from <= to).then_some(((a.0 + from * dx, a.1 + from * dy), (a.0 + to * dx, a.1 + to * dy)))
}

/// Sutherland-Hodgman against the four edges.
fn clip_polygon(points: &[(f64, f64)], c: Clip) -> Vec<(f64, f64)> {
    type Side = fn((f64, f64), Clip) -> f64;
    let sides: [Side; 4] = [|p, c| p.0 - c.left, |p, c| c.right - p.0, |p, c| p.1 - c.top, |p, c| c.bottom - p.1];
    sides.into_iter().fold(points.to_vec(), |points, inside| {
        let mut kept = Vec::with_capacity(points.len() + 4);
        for (i, &here) in points.iter().enumerate() {
            let before = points[(i + points.len() - 1) % points.len()];
            let (d0, d1) = (inside(before, c), inside(here, c));
            if (d0 < 0.0) != (d1 < 0.0) {
                let share = d0 / (d0 - d1);
                kept.push((before.0 + share * (here.0 - before.0), before.1 + share * (here.1 - before.1)));
            }
            if d1 >= 0.0 {
                kept.push(here);
            }
        }
        kept
    })
}

fn halve(canvas: &[u8], width: u32, height: u32) -> Vec<u8> {
    let (width, height) = (width as usize, height as usize);
    let stride = width * 2 * 3;
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let rows = [&canvas[y * 2 * stride..][..stride], &canvas[(y * 2 + 1) * stride..][..stride]];
        for x in 0..width {
            for channel in 0..3 {
                let at = x * 6 + channel;
                let sum: u32 = rows.iter().map(|r| u32::from(r[at]) + u32::from(r[at + 3])).sum();
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    out
}

fn write(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, PngError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let failed = |e: png::EncodingError| PngError::Encode(e.to_string());
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_keeps_what_is_inside() {
        let c = Clip { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };
        assert_eq!(clip_segment((-5.0, 5.0), (15.0, 5.0), c), Some(((0.0, 5.0), (10.0, 5.0))));
        assert_eq!(clip_segment((-5.0, -1.0), (15.0, -1.0), c), None);
        let square = clip_polygon(&[(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)], c);
        let (lo, hi) = square.iter().fold((f64::MAX, f64::MIN), |(lo, hi), p| (lo.min(p.0), hi.max(p.0)));
        assert_eq!((lo, hi), (0.0, 5.0));
        assert!(clip_polygon(&[(20.0, 20.0), (30.0, 20.0), (30.0, 30.0)], c).is_empty());
    }

    #[test]
    fn text_leaves_ink_with_the_embedded_font() {
        let item = Draw::Text {
            x: 2.0,
            y: 16.0,
            text: "±50 MB".into(),
            anchor: Anchor::Start,
            ink: Ink::Text,
            size: 14.0,
            bold: false,
        };
        let with = encode(
            &Scene { width: 60.0, height: 20.0, title: String::new(), description: String::new(), items: vec![item] },
            1,
        );
        let without = encode(
            &Scene { width: 60.0, height: 20.0, title: String::new(), description: String::new(), items: vec![] },
            1,
        );
        let (with, without) = (with.expect("drawn"), without.expect("drawn"));
        assert_eq!(&with[..8], b"\x89PNG\r\n\x1a\n");
        assert!(with.len() > without.len() + 100, "{} against {}", with.len(), without.len());
    }
}
