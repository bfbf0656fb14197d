//! Reads `unix_s,bytes[,segment[,requests]]` line by line, so that a file of any size fits. What cannot be read ends in a
//! message with file, line and remedy; what can be mended is mended, counted and said.

use super::CannotStart;
use crate::model::series::Point;
use crate::report::scale::duration;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What was mended on the way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Data rows read.
    pub rows: u64,
    /// Rows whose bytes were empty, NaN or infinite: treated as gaps.
    pub unusable: u64,
    /// Rows that carried the same time as the row before.
    pub duplicates: u64,
    /// Rows whose time lay before the row above them.
    pub backward: u64,
    /// True if the rows had to be sorted by time.
    pub sorted: bool,
    /// Minutes that the detector set aside because none near them was like them.
    pub outliers: u64,
    /// Seconds that it set aside as no part of the level: excursions that came back, and loading.
    pub aside_s: u64,
}

impl Notes {
    /// One sentence for each thing that a reader should know.
    pub fn sentences(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.unusable > 0 {
            let rows = if self.unusable == 1 { ("row", "was taken as a gap") } else { ("rows", "were taken as gaps") };
            out.push(format!("{} {} without a finite number of bytes {}", self.unusable, rows.0, rows.1));
        }
        if self.duplicates > 0 {
            let rows = if self.duplicates == 1 { "row repeats" } else { "rows repeat" };
            out.push(format!("{} {rows} the time of the row before; all count", self.duplicates));
        }
        if self.outliers > 0 {
            let minutes =
                if self.outliers == 1 { "minute stood alone and was" } else { "minutes stood alone and were" };
            out.push(format!("{} {minutes} set aside as outliers", self.outliers));
        }
        if self.aside_s > 0 {
            let long = duration(self.aside_s as f64);
            out.push(format!("{long} were set aside as no part of the level: what came and went, or loaded"));
        }
        if self.sorted {
            out.push(format!("{} rows were out of order; the file was sorted by time", self.backward));
        } else if self.backward > 0 {
            out.push(match self.backward {
                1 => "the clock stepped back once; the step was taken out".into(),
                times => format!("the clock stepped back {times} times; the steps were taken out"),
            });
        }
        out
    }
}

/// Later than any time of a record, seconds: the year 5138. Milliseconds since 1973 are.
const LATEST_UNIX_S: f64 = 1e11;
/// Rows out of order beyond this share of all are a shuffled file, not a clock that stepped.
const SHUFFLED_SHARE: f64 = 0.001;
/// ... and at least this many.
const SHUFFLED_MIN: u64 = 8;
/// Rows that are sorted in memory at most (about 640 MB of points).
const SORT_ROWS_MAX: u64 = 20_000_000;

impl Notes {
    /// True if the file is no record in order of time with a clock that stepped now and then, but one that was shuffled.
    pub fn shuffled(&self) -> bool {
        self.backward >= SHUFFLED_MIN && self.backward as f64 > SHUFFLED_SHARE * self.rows as f64
    }
}

/// As [`read`], but sorted by time first; for files that [`Notes::shuffled`] speaks of.
pub fn read_sorted(path: &Path, order: &Notes, take: &mut dyn FnMut(Point)) -> Result<Notes, CannotStart> {
    if order.rows > SORT_ROWS_MAX {
        return Err(CannotStart(format!(
            "{}: {} rows are out of order and the file is too large to sort here; sort it by time first, for example \
             with sort -t, -k1,1n",
            path.display(),
            order.backward
        )));
    }
    let mut points = Vec::with_capacity(order.rows as usize);
    read(path, &mut |point| points.push(point))?;
    points.sort_by(|a, b| a.unix_s.total_cmp(&b.unix_s));
    points.into_iter().for_each(take);
    Ok(Notes { sorted: true, ..order.clone() })
}

/// Which field of a row holds what.
struct Columns {
    unix_s: usize,
    bytes: usize,
    segment: Option<usize>,
    requests: Option<usize>,
}

/// Streams the points of the file at `path` into `take`, in the order of the file.
pub fn read(path: &Path, take: &mut dyn FnMut(Point)) -> Result<Notes, CannotStart> {
    let fail = |line: u64, what: String| CannotStart(format!("{}:{line}: {what}", path.display()));
    let file = File::open(path)
        .map_err(|e| CannotStart(format!("cannot read {}: {e}; give the path of a CSV file", path.display())))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    let mut number = 0_u64;
    let mut columns: Option<Columns> = None;
    let mut notes = Notes::default();
    let mut last_unix_s = f64::NEG_INFINITY;
    loop {
        line.clear();
        let got = reader.take_line(&mut line).map_err(|e| fail(number + 1, format!("cannot read on: {e}")))?;
        if got == 0 {
            break;
        }
        number += 1;
        let text = std::str::from_utf8(&line)
            .map_err(|_| fail(number, "this line is not text; is it really a CSV file?".into()))?
            .trim_start_matches('\u{feff}')
            .trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let Some(columns) = &columns else {
            columns = Some(header(text).map_err(|what| fail(number, what))?);
            continue;
        };
        let point = row(text, columns).map_err(|what| fail(number, what))?;
        notes.rows += 1;
        let Some(point) = point else {
            notes.unusable += 1;
            continue;
        };
        if point.unix_s == last_unix_s {
            notes.duplicates += 1;
        } else if point.unix_s < last_unix_s {
            notes.backward += 1;
        }
        last_unix_s = point.unix_s;
        take(point);
    }
    if columns.is_none() {
        return Err(CannotStart(format!(
            "{} is empty; it needs the header unix_s,bytes[,segment[,requests]] and rows",
            path.display()
        )));
    }
    if notes.rows == 0 {
        return Err(CannotStart(format!("{} has a header but no rows; nothing can be said", path.display())));
    }
    Ok(notes)
}

/// The longest line that is read; a longer one is no row of ours.
const LINE_BYTES_MAX: u64 = 4096;

trait TakeLine {
    fn take_line(&mut self, line: &mut Vec<u8>) -> std::io::Result<usize>;
}

impl<R: BufRead> TakeLine for R {
    /// One line, bounded, so that a file without line ends cannot fill memory.
    fn take_line(&mut self, line: &mut Vec<u8>) -> std::io::Result<usize> {
        let got = std::io::Read::take(&mut *self, LINE_BYTES_MAX).read_until(b'\n', line)?;
        if got as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            return Err(std::io::Error::other(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(got)
    }
}

fn header(text: &str) -> Result<Columns, String> {
    let names: Vec<String> = text.split(',').map(|s| s.trim().trim_matches('"').to_ascii_lowercase()).collect();
    let at = |name: &str| names.iter().position(|n| n == name);
    let need = |name: &str| {
        at(name).ok_or_else(|| {
            format!(
                "the header lacks the column {name} (found: {text}); it should read unix_s,bytes[,segment[,requests]]"
            )
        })
    };
    Ok(Columns { unix_s: need("unix_s")?, bytes: need("bytes")?, segment: at("segment"), requests: at("requests") })
}

/// One row; `None` where the reading is missing (empty, NaN or infinite), which is a gap.
fn row(text: &str, columns: &Columns) -> Result<Option<Point>, String> {
    let mut fields = [""; 16];
    let mut count = 0;
    for field in text.split(',') {
        if count == fields.len() {
            return Err("more than 16 fields; is it really a CSV file of ours?".into());
        }
        fields[count] = field.trim().trim_matches('"');
        count += 1;
    }
    let get = |index: usize, name: &str| {
        if index < count { Ok(fields[index]) } else { Err(format!("the row ends before its column {name}")) }
    };
    let unix_s = number(get(columns.unix_s, "unix_s")?, "unix_s")?;
    let unix_s = unix_s.filter(|t| t.is_finite()).ok_or("unix_s is empty or not finite; every row needs its time")?;
    if unix_s < 0.0 {
        return Err(format!("unix_s is {unix_s}, before 1970; it must be seconds since the epoch"));
    }
    if unix_s > LATEST_UNIX_S {
        return Err(format!(
            "unix_s is {unix_s}, thousands of years ahead; it must be seconds since the epoch. If it is milliseconds, divide it by 1000"
        ));
    }
    let bytes = number(get(columns.bytes, "bytes")?, "bytes")?.filter(|b| b.is_finite());
    let segment = match columns.segment {
        Some(index) => number(get(index, "segment")?, "segment")?.unwrap_or(0.0),
        None => 0.0,
    };
    let requests = match columns.requests {
        Some(index) => number(get(index, "requests")?, "requests")?.filter(|r| r.is_finite()),
        None => None,
    };
    Ok(bytes.map(|bytes| Point { unix_s, bytes, segment: segment as u32, requests }))
}

/// `None` for an empty field.
fn number(field: &str, name: &str) -> Result<Option<f64>, String> {
    if field.is_empty() {
        return Ok(None);
    }
    field.parse().map(Some).map_err(|_| format!("{name} is '{field}', which is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// What reading `bytes` gives, with the path taken out of the message.
    fn reading(bytes: &[u8]) -> (Vec<Point>, Result<Notes, String>) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("it takes the bytes");
        let mut points = Vec::new();
        let notes = read(file.path(), &mut |p| points.push(p))
            .map_err(|e| e.0.replace(&file.path().display().to_string(), "F"));
        (points, notes)
    }

    #[test]
    fn what_cannot_be_read_is_said_with_line_and_remedy() {
        let cases: [(&str, &str, &[&str]); 15] = [
            ("nothing at all", "", &["F is empty", "unix_s,bytes"]),
            ("no rows", "unix_s,bytes\n", &["no rows"]),
            ("only comments", "# a\n\n", &["F is empty"]),
            ("a missing column", "unix_s,rss\n1,2\n", &["F:1:", "lacks the column bytes", "unix_s,bytes"]),
            ("no header", "1,2\n3,4\n", &["F:1:", "lacks the column unix_s"]),
            ("text for bytes", "unix_s,bytes\n1,2\n2,many\n", &["F:3:", "'many'", "not a number"]),
            ("text for time", "unix_s,bytes\n2026-01-01,2\n", &["F:2:", "'2026-01-01'"]),
            ("milliseconds", "unix_s,bytes\n1750000000000,2\n", &["F:2:", "thousands of years", "divide it by 1000"]),
            ("a negative time", "unix_s,bytes\n-5,2\n", &["F:2:", "before 1970"]),
            ("a time that is not finite", "unix_s,bytes\nNaN,2\n", &["F:2:", "needs its time"]),
            ("no time", "unix_s,bytes\n,2\n", &["F:2:", "needs its time"]),
            ("a short row", "unix_s,bytes\n1\n", &["F:2:", "ends before its column bytes"]),
            ("another separator", "unix_s;bytes\n1;2\n", &["F:1:", "lacks the column"]),
            ("text for a segment", "unix_s,bytes,segment\n1,2,x\n", &["F:2:", "segment is 'x'"]),
            ("too many fields", "unix_s,bytes\n1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8\n", &["F:2:", "16 fields"]),
        ];
        for (what, text, says) in cases {
            let error = reading(text.as_bytes()).1.expect_err(what);
            for part in says {
                assert!(error.contains(part), "{what}: {error} lacks {part}");
            }
        }
    }

    #[test]
    fn what_is_no_text_or_has_no_line_ends_is_refused_without_filling_memory() {
        let error = reading(b"unix_s,bytes\n1,2\n\xff\xfe\x00\n").1.expect_err("not text");
        assert!(error.contains("F:3:") && error.contains("not text"), "{error}");
        let error = reading(&vec![b'7'; 1 << 20]).1.expect_err("a megabyte on one line");
        assert!(error.contains("F:1:") && error.contains("longer than"), "{error}");
    }

    #[test]
    fn what_can_be_mended_is_mended_and_said() {
        let text =
            "\u{feff}bytes , Unix_S,requests\r\n5,10,1\n\n# a remark\nNaN,20,\n,30,2\ninf,40,2\n6,40,3\n7,40,4\n8,35,5";
        let (points, notes) = reading(text.as_bytes());
        let notes = notes.expect("it can be read");
        assert_eq!(
            points.iter().map(|p| (p.unix_s, p.bytes)).collect::<Vec<_>>(),
            [(10.0, 5.0), (40.0, 6.0), (40.0, 7.0), (35.0, 8.0)]
        );
        assert_eq!(points[3].requests, Some(5.0));
        assert_eq!((notes.rows, notes.unusable, notes.duplicates, notes.backward), (7, 3, 1, 1));
        assert_eq!(notes.sentences().len(), 3, "{:?}", notes.sentences());
    }

    #[test]
    fn a_shuffled_file_is_sorted_and_a_clock_that_steps_is_not() {
        let rows = |order: &[u32]| {
            let mut text = String::from("unix_s,bytes\n");
            order.iter().for_each(|t| text.push_str(&format!("{t},{}\n", t * 2)));
            text
        };
        let shuffled: Vec<u32> = (0..100).map(|i| (i * 37) % 100).collect();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(rows(&shuffled).as_bytes()).expect("it takes the bytes");
        let notes = read(file.path(), &mut |_| {}).expect("readable");
        assert!(notes.shuffled());
        let mut times = Vec::new();
        let notes = read_sorted(file.path(), &notes, &mut |p| times.push(p.unix_s)).expect("sortable");
        assert!(notes.sorted && times.is_sorted() && times.len() == 100);
        let stepped: Vec<u32> = (0..50).chain(20..70).collect();
        assert!(!reading(rows(&stepped).as_bytes()).1.expect("readable").shuffled());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), headed in any::<bool>()) {
            let mut all = if headed { b"unix_s,bytes,segment,requests\n".to_vec() } else { Vec::new() };
            all.extend(bytes);
            let (points, _) = reading(&all);
            prop_assert!(points.iter().all(|p| p.unix_s.is_finite() && p.bytes.is_finite()));
        }

        #[test]
        fn no_row_makes_it_panic_and_an_error_names_its_line(
            rows in prop::collection::vec("[-+0-9.eEnaif, \"]{0,24}", 1..12),
        ) {
            let text = format!("unix_s,bytes,segment,requests\n{}\n", rows.join("\n"));
            if let Err(error) = reading(text.as_bytes()).1 {
                prop_assert!(error.starts_with("F:") || error.contains("no rows"), "{}", error);
            }
        }

        #[test]
        fn what_was_written_is_read(values in prop::collection::vec((0.0..4e9_f64, 0.0..1e13_f64, 0_u32..9), 1..40)) {
            let mut text = String::from("unix_s,bytes,segment\n");
            values.iter().for_each(|(t, b, s)| text.push_str(&format!("{t},{b},{s}\n")));
            let (points, notes) = reading(text.as_bytes());
            prop_assert_eq!(notes.expect("well-formed").rows, values.len() as u64);
            let read: Vec<(f64, f64, u32)> = points.iter().map(|p| (p.unix_s, p.bytes, p.segment)).collect();
            prop_assert_eq!(read, values);
        }
    }
}
