//! A mail as plain text: 76 columns, no markup that a reader would have to look past.

use super::words::is_of_figures;
use super::{Block, Document};
use crate::model::mail::Table;
use std::fmt::Write as _;

/// Width of prose. RFC 5322 asks for 78 at most; a quote mark may be added by a reply.
const COLUMNS: usize = 76;

/// The text part.
pub(super) fn text(document: &Document) -> String {
    let mut out = String::new();
    wrap(&mut out, &format!("{}: {}", document.badge, document.title), "", "");
    out.push('\n');
    facts(&mut out, &document.head);
    if !document.lead.is_empty() {
        out.push('\n');
        all(&mut out, &document.lead);
    }
    for (heading, blocks) in &document.sections {
        let _ = write!(out, "\n{}\n{}\n", heading.to_uppercase(), "-".repeat(heading.chars().count()));
        all(&mut out, blocks);
    }
    // "-- " on a line of its own is the signature mark: readers grey out what follows.
    let _ = write!(out, "\n-- \n{}\n", document.foot);
    out
}

/// One after the other, parted by a blank line.
fn all(out: &mut String, blocks: &[Block]) {
    for (i, block) in blocks.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        push(out, block);
    }
}

fn push(out: &mut String, block: &Block) {
    match block {
        Block::Prose(text) => wrap(out, text, "", ""),
        Block::Bullets(items) => items.iter().for_each(|item| wrap(out, item, "- ", "  ")),
        Block::Steps { first, items } => {
            items.iter().zip(*first..).for_each(|(item, n)| wrap(out, item, &format!("{n}. "), "   "));
        }
        Block::Code(code) => code.lines().for_each(|line| {
            let _ = writeln!(out, "    {line}");
        }),
        Block::Facts(rows) => facts(out, rows),
        Block::Table(t) => table(out, t),
        Block::Links(links) => links.iter().for_each(|(what, target)| {
            let _ = writeln!(out, "{what}: {target}");
        }),
    }
}

fn facts(out: &mut String, rows: &[(String, String)]) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(28);
    for (name, value) in rows {
        wrap(out, value, &format!("{:<width$}  ", format!("{name}:"), width = width + 1), "    ");
    }
}

fn table(out: &mut String, t: &Table) {
    wrap(out, &t.caption, "", "");
    let columns = t.columns.len();
    let width = |i: usize| {
        t.rows.iter().filter_map(|r| r.get(i)).chain(t.columns.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in std::iter::once(&t.columns).chain(&t.rows) {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(i, w)| {
                let cell = row.get(i).map_or("", String::as_str);
                // Figures are right-aligned so that they compare by eye, words begin where words begin.
                if is_of_figures(t, i) { format!("{cell:>w$}") } else { format!("{cell:<w$}") }
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

/// Writes `text` in lines of at most [`COLUMNS`]; a longer word stands alone.
fn wrap(out: &mut String, text: &str, first: &str, rest: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{}", line.trim_end());
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}
