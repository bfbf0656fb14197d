//! Rows as a plain table: numbers to the right, no colours, no frames that a pipe would choke on.

use crate::store::sql::Rows;
use serde_json::Value;

/// A wider cell is cut with an ellipsis; `--format json` shows all of it.
const CELL_CHARS_MAX: usize = 80;

/// The table, with a line for every row.
#[must_use]
pub fn render(rows: &Rows) -> String {
    if rows.rows.is_empty() {
        return "(no rows)\n".into();
    }
    let body: Vec<Vec<String>> = rows.rows.iter().map(|cells| cells.iter().map(cell).collect()).collect();
    let width = |column: usize| {
        let cells = body.iter().map(|cells| cells[column].chars().count());
        cells.max().unwrap_or(0).max(rows.columns[column].chars().count())
    };
    let widths: Vec<usize> = (0..rows.columns.len()).map(width).collect();
    let right: Vec<bool> = (0..rows.columns.len()).map(|column| is_numeric(rows, column)).collect();
    let mut out = line(&rows.columns, &widths, &right);
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    out.push_str(&line(&rule, &widths, &right));
    for cells in &body {
        out.push_str(&line(cells, &widths, &right));
    }
    out
}

fn line(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let padded = cells
        .iter()
        .zip(widths)
        .zip(right)
        .map(|((text, width), right)| if *right { format!("{text:>width$}") } else { format!("{text:<width$}") });
    let line = padded.collect::<Vec<_>>().join("  ");
    format!("{}\n", line.trim_end())
}

fn is_numeric(rows: &Rows, column: usize) -> bool {
    rows.rows.iter().all(|cells| matches!(cells[column], Value::Number(_) | Value::Null))
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return "–".into(),
        // A line break or an escape sequence from someone's stderr must not leave its cell.
        Value::String(text) => text.replace('\n', " ⏎ ").replace(char::is_control, " "),
        other => other.to_string(),
    };
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_control_characters_stay_out() {
        let rows = Rows {
            columns: vec!["n".into(), "text".into()],
            rows: vec![vec![1.into(), "a\nb\u{1b}[31m".into()], vec![Value::Null, "x".repeat(200).into()]],
            truncated: false,
        };
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "1  a ⏎ b [31m");
        assert!(lines[3].starts_with("–  xxx") && lines[3].ends_with('…'), "{text}");
    }
}
