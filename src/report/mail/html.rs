//! A mail as HTML: one column, real headings and tables with captions for a screen reader, system colours in a phone's
//! dark mode, nothing fetched from anywhere.
//!
//! The severity is a word and not only a colour. Where a mail reader drops `<style>`, the document falls back to its own
//! black on white, which reads too.

use super::words::is_of_figures;
use super::{Block, Document};
use crate::model::alert::Severity;
use crate::model::mail::{MailKind, NOTE_MARK, PLOT_CID, PLOT_CLOSE, PLOT_OPEN, Table};
use std::fmt::Write as _;

/// Contrast of every pair is at least 4.5:1 (WCAG AA), in both schemes.
const STYLE: &str = "\
:root{color-scheme:light dark;supported-color-schemes:light dark}\
body{margin:0;padding:16px;background:#ffffff;color:#1a1a1a;font:16px/1.5 -apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}\
main{max-width:720px;margin:0 auto}\
h1{font-size:22px;line-height:1.3;margin:8px 0 16px}\
h2{font-size:17px;margin:28px 0 8px;border-bottom:1px solid #d0d0d0;padding-bottom:4px}\
p,ul,ol,pre,table{margin:8px 0}\
.badge{display:inline-block;padding:2px 10px;border-radius:4px;color:#ffffff;font-weight:700;font-size:14px}\
.page{background:#b3261e}.ticket{background:#7a4f00}.info{background:#0b57a4}.resolved{background:#1b6b35}\
.note{border-left:4px solid #7a4f00;padding:4px 12px;background:#fff6e0}\
table{border-collapse:collapse;width:100%}\
caption{text-align:left;padding:0 0 6px;color:#555555}\
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;font-weight:400}\
th[scope=row]{color:#555555;white-space:nowrap}\
.facts th[scope=row]{width:32%;white-space:normal;overflow-wrap:anywhere}\
thead th{border-bottom:1px solid #d0d0d0;color:#555555}\
.figures td{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.figures thead th{text-align:right}.figures .words,.figures thead .words{text-align:left;white-space:normal}.figures thead th:first-child{text-align:left}\
.wide{overflow-x:auto}\
pre{background:#f3f3f3;padding:10px;overflow-x:auto;font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;\
white-space:pre-wrap;overflow-wrap:anywhere}\
img{max-width:100%;height:auto;border-radius:4px;background:#ffffff}\
figcaption,footer{color:#555555;font-size:14px}figure{margin:16px 0}footer{margin-top:32px}\
a{color:#0b57a4}\
@media (prefers-color-scheme:dark){\
body{background:#121212;color:#e6e6e6}h2,thead th{border-color:#444444}\
caption,th[scope=row],thead th,figcaption,footer{color:#b0b0b0}\
pre{background:#222222}a{color:#8ab8ff}.note{background:#33280a;border-color:#e0a100}}";

/// The HTML part.
pub(super) fn html(document: &Document) -> String {
    let title = format!("{}: {}", document.badge, document.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"supported-color-schemes\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{NOTE_MARK}\n",
        escape(&title)
    );
    let _ = writeln!(out, "<p><span class=\"badge {}\">{}</span></p>", class(document), document.badge);
    let _ = writeln!(out, "<h1>{}</h1>", escape(&document.title));
    facts(&mut out, "", &document.head);
    for block in &document.lead {
        push(&mut out, block);
    }
    if let Some(alt) = &document.plot_alt {
        let alt = escape(alt);
        let _ = writeln!(
            out,
            "{PLOT_OPEN}<figure><img src=\"cid:{PLOT_CID}\" alt=\"{alt}\" width=\"560\">\
             <figcaption>{alt}</figcaption></figure>{PLOT_CLOSE}"
        );
    }
    for (heading, blocks) in &document.sections {
        let _ = writeln!(out, "<h2>{}</h2>", escape(heading));
        for block in blocks {
            push(&mut out, block);
        }
    }
    let _ = write!(out, "<footer><p>{}</p></footer>\n</main>\n</body>\n</html>\n", escape(&document.foot));
    out
}

fn class(document: &Document) -> &'static str {
    match (document.kind, document.severity) {
        (MailKind::Resolved, _) => "resolved",
        (MailKind::Digest | MailKind::Test, _) | (_, Severity::Info) => "info",
        (_, Severity::Ticket) => "ticket",
        (_, Severity::Page) => "page",
    }
}

fn push(out: &mut String, block: &Block) {
    match block {
        Block::Prose(text) => {
            let _ = writeln!(out, "<p>{}</p>", prose(text));
        }
        Block::Bullets(items) => list(out, "ul", "", items),
        Block::Steps { first: 1, items } => list(out, "ol", "", items),
        Block::Steps { first, items } => list(out, "ol", &format!(" start=\"{first}\""), items),
        Block::Code(code) => {
            let _ = writeln!(out, "<pre><code>{}</code></pre>", escape(code));
        }
        Block::Facts(rows) => facts(out, "", rows),
        Block::Table(t) => table(out, t),
        Block::Links(links) => links_list(out, links),
    }
}

fn list(out: &mut String, tag: &str, start: &str, items: &[String]) {
    let _ = writeln!(out, "<{tag}{start}>");
    for item in items {
        let _ = writeln!(out, "<li>{}</li>", prose(item));
    }
    let _ = writeln!(out, "</{tag}>");
}

fn facts(out: &mut String, caption: &str, rows: &[(String, String)]) {
    let _ = writeln!(out, "<table class=\"facts\">");
    if !caption.is_empty() {
        let _ = writeln!(out, "<caption>{}</caption>", escape(caption));
    }
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    let _ = writeln!(out, "</table>");
}

fn table(out: &mut String, t: &Table) {
    let _ = write!(
        out,
        "<div class=\"wide\"><table class=\"figures\">\n<caption>{}</caption>\n<thead><tr>",
        escape(&t.caption)
    );
    let class = |column| if is_of_figures(t, column) { "" } else { " class=\"words\"" };
    for (i, c) in t.columns.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(i), escape(c));
    }
    let _ = writeln!(out, "</tr></thead>\n<tbody>");
    for row in &t.rows {
        let _ = write!(out, "<tr>");
        for (i, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match i {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ => write!(out, "<td{}>{cell}</td>", class(i)),
            };
        }
        let _ = writeln!(out, "</tr>");
    }
    let _ = writeln!(out, "</tbody>\n</table></div>");
}

fn links_list(out: &mut String, links: &[(String, String)]) {
    let _ = writeln!(out, "<ul>");
    for (what, target) in links {
        let (what, target) = (escape(what), escape(target));
        let _ = if target.starts_with("https://") || target.starts_with("http://") {
            writeln!(out, "<li><a href=\"{target}\">{what}</a></li>")
        } else {
            writeln!(out, "<li>{what}: <code>{target}</code></li>")
        };
    }
    let _ = writeln!(out, "</ul>");
}

/// Text in which backticks hold what is to be typed. One without its partner stays as it is.
pub(super) fn prose(s: &str) -> String {
    let (mut out, mut rest) = (String::new(), s);
    while let Some((before, code, after)) = rest.split_once('`').and_then(|(before, tail)| {
        let (code, after) = tail.split_once('`')?;
        Some((before, code, after))
    }) {
        out.push_str(&format!("{}<code>{}</code>", escape(before), escape(code)));
        rest = after;
    }
    out + &escape(rest)
}

/// Text that cannot become markup, in an element or in a quoted attribute.
fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
