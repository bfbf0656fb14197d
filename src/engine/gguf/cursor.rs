//! A reading position in the header of a GGUF file that cannot leave the file.

use super::{DAMAGED, Value};
use crate::engine::EngineError;

/// Arrays of arrays deeper than this are an attack on the stack, not a model.
const NESTING_MAX: u32 = 4;
/// Longest name of a key or tensor, bytes (GGUF's own limit for keys).
const NAME_BYTES_MAX: u64 = 65_535;

const TYPE_TEXT: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// Where the parser stands, and in which file, for messages.
pub(super) struct Cursor<'a> {
    path: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a str, bytes: &'a [u8], at: usize) -> Self {
        Cursor { path, bytes, at }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn fault(&self, what: &str, reason: String) -> EngineError {
        EngineError::Model { path: self.path.into(), what: what.into(), reason }
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// Refuses a count that could not be true even if each of its things had only `bytes_min` bytes.
    pub(super) fn plausible(&self, what: &str, count: u64, bytes_min: u64) -> Result<(), EngineError> {
        if count.checked_mul(bytes_min).is_some_and(|bytes| bytes <= self.left()) {
            return Ok(());
        }
        Err(self.fault(
            what,
            format!(
                "{count} of them do not fit into the {} bytes that are left of the file: it is truncated or damaged, \
                 download or convert it again",
                self.left()
            ),
        ))
    }

    fn take(&mut self, what: &str, count: u64) -> Result<&'a [u8], EngineError> {
        if count > self.left() {
            let reason = format!(
                "needs {count} bytes at offset {}, and the file ends after {} more: it is truncated, download it again",
                self.at,
                self.left()
            );
            return Err(self.fault(what, reason));
        }
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], EngineError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N as u64)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, EngineError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, EngineError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A name: a string of reasonable length without control characters.
    pub(super) fn text(&mut self, what: &str) -> Result<String, EngineError> {
        let length = self.u64(what)?;
        if length > NAME_BYTES_MAX {
            return Err(self.fault(what, format!("has a name of {length} bytes; {DAMAGED}")));
        }
        let name = String::from_utf8_lossy(self.take(what, length)?).into_owned();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(self.fault(what, format!("has the unreadable name {name:?}; {DAMAGED}")));
        }
        Ok(name)
    }

    /// All `count` keys with their values.
    pub(super) fn metadata(&mut self, count: u64) -> Result<Vec<(String, Value)>, EngineError> {
        let mut metadata = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for index in 0..count {
            let key = self.text(&format!("metadata key {index} of {count}"))?;
            let what = format!("metadata key {key}");
            if !seen.insert(key.clone()) {
                return Err(self.fault(&what, format!("stands twice in the file; {DAMAGED}")));
            }
            let kind = self.u32(&what)?;
            let value = self.value(&what, kind)?;
            metadata.push((key, value));
        }
        Ok(metadata)
    }

    fn value(&mut self, what: &str, kind: u32) -> Result<Value, EngineError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>(what)?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(what)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(what)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(what)?))),
            4 => Value::Unsigned(u64::from(self.u32(what)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(what)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(what)?))),
            7 => Value::Bool(self.array::<1>(what)?[0] != 0),
            TYPE_TEXT => {
                let length = self.u64(what)?;
                Value::Text(String::from_utf8_lossy(self.take(what, length)?).into_owned())
            }
            TYPE_ARRAY => {
                let element = self.u32(what)?;
                let count = self.u64(what)?;
                self.skip_array(what, element, count, NESTING_MAX)?;
                Value::Array { element, count }
            }
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            other => return Err(self.fault(what, format!("has the unknown value type {other}; {DAMAGED}"))),
        })
    }

    /// Walks over an array without keeping it.
    fn skip_array(&mut self, what: &str, element: u32, count: u64, nesting: u32) -> Result<(), EngineError> {
        let element_bytes = match element {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            TYPE_TEXT => {
                self.plausible(what, count, 8)?;
                for _ in 0..count {
                    let length = self.u64(what)?;
                    self.take(what, length)?;
                }
                return Ok(());
            }
            TYPE_ARRAY if nesting > 0 => {
                self.plausible(what, count, 12)?;
                for _ in 0..count {
                    let element = self.u32(what)?;
                    let count = self.u64(what)?;
                    self.skip_array(what, element, count, nesting - 1)?;
                }
                return Ok(());
            }
            TYPE_ARRAY => return Err(self.fault(what, format!("has arrays nested too deeply; {DAMAGED}"))),
            other => return Err(self.fault(what, format!("has an array of the unknown type {other}; {DAMAGED}"))),
        };
        self.plausible(what, count, element_bytes)?;
        self.take(what, count * element_bytes)?;
        Ok(())
    }
}
