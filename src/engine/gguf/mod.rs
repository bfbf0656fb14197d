//! GGUF, the container of quantized models: memory-mapped reading, and writing.
//!
//! The reader trusts nothing: every length is held against the bytes that are really there before anything is
//! allocated or skipped, and every fault is an [`EngineError`] that names the file, the key or tensor, and the remedy.
//! What the metadata mean is `arch`'s business.

mod cursor;
mod write;

pub use write::{Planned, Writer, write};

use super::EngineError;
use super::block::{BlockType, foreign_type_name};
use cursor::Cursor;
use std::path::Path;
use std::sync::Arc;

/// First bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Tensor data start on a multiple of this unless `general.alignment` says otherwise.
pub const ALIGNMENT_DEFAULT: u64 = 32;
/// Dimensions a tensor can have.
const DIMENSIONS_MAX: u32 = 4;

/// A metadata value. Arrays stay in the file (a vocabulary has 128 256 strings that nothing here reads).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the unsigned integer types.
    Unsigned(u64),
    /// Any of the signed integer types.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string; bytes that are no UTF-8 are replaced.
    Text(String),
    /// An array: what of, and how many.
    Array {
        /// Type of its elements, as GGUF numbers them.
        element: u32,
        /// How many.
        count: u64,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its weights are stored.
    pub ty: BlockType,
    /// Row length first (`ne[0]`), then rows, ...
    pub dims: Vec<u64>,
    /// Where its bytes start, from the start of the file.
    pub start: usize,
    /// How many bytes it has.
    pub bytes: usize,
}

/// What stands before the tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// In the order of the file.
    pub metadata: Vec<(String, Value)>,
    /// In the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of tensor data, bytes.
    pub alignment: u64,
    /// Where tensor data start, bytes from the start of the file.
    pub data_start: usize,
}

/// A mapped GGUF file.
#[derive(Debug, Clone)]
pub struct File {
    /// As it was asked for; errors name it.
    pub path: String,
    /// What it says about itself.
    pub header: Header,
    map: Arc<memmap2::Mmap>,
}

impl File {
    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<File, EngineError> {
        let shown = path.display().to_string();
        let fault = |reason: String| EngineError::File { path: shown.clone(), reason };
        let file = std::fs::File::open(path)
            .map_err(|error| fault(format!("cannot open the model: {error}; check the path and its permissions")))?;
        let facts = file.metadata().map_err(|error| fault(format!("cannot read its size: {error}")))?;
        if !facts.is_file() {
            return Err(fault("is no regular file; give the path of a .gguf file".into()));
        }
        if facts.len() == 0 {
            return Err(fault("is empty; download the model again".into()));
        }
        // SAFETY: the map is read-only and private to this process. If someone truncates the file while it is mapped,
        // reads fault with SIGBUS; only the worker maps models, and its death is recorded and survived.
        let map = unsafe { memmap2::Mmap::map(&file) }
            .map_err(|error| fault(format!("cannot map it into memory: {error}")))?;
        let header = parse(&shown, &map)?;
        Ok(File { path: shown, header, map: Arc::new(map) })
    }

    /// The whole file.
    #[must_use]
    pub fn map(&self) -> &Arc<memmap2::Mmap> {
        &self.map
    }

    /// Bytes of one of its tensors.
    #[must_use]
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map[tensor.start..tensor.start + tensor.bytes]
    }
}

impl Header {
    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Checks the header of a whole file in `bytes`; `path` is only for messages.
pub fn parse(path: &str, bytes: &[u8]) -> Result<Header, EngineError> {
    let not_gguf = |reason: String| EngineError::File { path: path.into(), reason };
    if bytes.len() < 4 || bytes[..4] != MAGIC {
        return Err(not_gguf(describe_foreign(bytes)));
    }
    let mut cursor = Cursor::new(path, bytes, 4);
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => {}
        0 | 1 => {
            return Err(not_gguf(format!(
                "is GGUF version {version}, and versions 2 and 3 are read; convert it again"
            )));
        }
        swapped if (1..=16).contains(&swapped.swap_bytes()) => {
            return Err(not_gguf(
                "is a big-endian GGUF file, and little-endian ones are read; convert it again".into(),
            ));
        }
        other => {
            return Err(not_gguf(format!("is GGUF version {other}, and versions 2 and 3 are read; a newer soakd may")));
        }
    }
    let tensor_count = cursor.u64("tensor count")?;
    let key_count = cursor.u64("metadata count")?;
    // The shortest tensor entry has 8 + 0 + 4 + 8 + 4 + 8 bytes, the shortest key 8 + 4 + 1.
    cursor.plausible("tensor count", tensor_count, 32)?;
    cursor.plausible("metadata count", key_count, 13)?;
    let metadata = cursor.metadata(key_count)?;
    let alignment = alignment(path, &metadata)?;
    let raw = read_tensor_table(&mut cursor, tensor_count)?;
    let data_start = (cursor.at() as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let tensors = place_tensors(path, raw, data_start, alignment, bytes.len() as u64)?;
    Ok(Header { version, metadata, tensors, alignment, data_start: data_start as usize })
}

/// Says what a file that is no GGUF looks like, as far as that is plain.
fn describe_foreign(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(64)];
    if head.starts_with(b"version https://git-lfs") {
        return "is a Git LFS pointer and not the model; run `git lfs pull`".into();
    }
    if head.starts_with(b"<") {
        return "is no GGUF file (it looks like a web page); download the model itself".into();
    }
    if head.starts_with(b"PK") {
        return "is no GGUF file (it is a zip archive); unpack it first".into();
    }
    let shown = &bytes[..bytes.len().min(4)];
    format!("is no GGUF file: it begins with {shown:02x?} where \"GGUF\" belongs; check the path, or convert the model")
}

fn alignment(path: &str, metadata: &[(String, Value)]) -> Result<u64, EngineError> {
    let key = "general.alignment";
    match metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value) {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n >= 8 && *n <= 1 << 20 => Ok(*n),
        Some(other) => Err(EngineError::Model {
            path: path.into(),
            what: format!("metadata key {key}"),
            reason: format!(
                "{other:?} is no power of two between 8 and 1048576; the file is damaged, convert it again"
            ),
        }),
    }
}

/// A tensor as the table has it: name, dimensions, type number, offset from the start of the data.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

fn read_tensor_table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<RawTensor>, EngineError> {
    let mut tensors = Vec::new();
    for index in 0..count {
        let what = format!("tensor {index} of {count}");
        let name = cursor.text(&what)?;
        let what = format!("tensor {name}");
        let dimension_count = cursor.u32(&what)?;
        if !(1..=DIMENSIONS_MAX).contains(&dimension_count) {
            return Err(cursor.fault(
                &what,
                format!("has {dimension_count} dimensions, and 1 to {DIMENSIONS_MAX} can be; {DAMAGED}"),
            ));
        }
        let mut dims = Vec::with_capacity(dimension_count as usize);
        for _ in 0..dimension_count {
            dims.push(cursor.u64(&what)?);
        }
        let type_id = cursor.u32(&what)?;
        let offset = cursor.u64(&what)?;
        tensors.push(RawTensor { name, dims, type_id, offset });
    }
    Ok(tensors)
}

/// What to do about bytes that make no sense.
const DAMAGED: &str = "the file is damaged, download or convert it again";

fn place_tensors(
    path: &str,
    raw: Vec<RawTensor>,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<Vec<TensorInfo>, EngineError> {
    let mut seen = std::collections::HashSet::new();
    let mut tensors = Vec::new();
    for tensor in raw {
        let fault =
            |reason: String| EngineError::Model { path: path.into(), what: format!("tensor {}", tensor.name), reason };
        if !seen.insert(tensor.name.clone()) {
            return Err(fault(format!("stands twice in the file; {DAMAGED}")));
        }
        let ty = BlockType::from_gguf_id(tensor.type_id).ok_or_else(|| {
            let name = foreign_type_name(tensor.type_id).map_or(String::new(), |name| format!(" ({name})"));
            let known: Vec<&str> = BlockType::ALL.iter().map(|ty| ty.name()).collect();
            fault(format!(
                "has type {}{name}, which this engine does not run; requantize the model to one of {}",
                tensor.type_id,
                known.join(", ")
            ))
        })?;
        let rows = tensor.dims[1..].iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
        let row_bytes = ty.row_bytes(tensor.dims[0]);
        let Some(row_bytes) = row_bytes else {
            return Err(fault(format!(
                "has rows of {} weights, and a block of {ty} holds {}; {DAMAGED}",
                tensor.dims[0],
                ty.block_weights()
            )));
        };
        let bytes = rows.and_then(|rows| rows.checked_mul(row_bytes)).filter(|&bytes| bytes > 0);
        let Some(bytes) = bytes else {
            return Err(fault(format!("has the impossible shape {:?}; {DAMAGED}", tensor.dims)));
        };
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(fault(format!("starts at {}, no multiple of {alignment}; {DAMAGED}", tensor.offset)));
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => {
                tensors.push(TensorInfo {
                    name: tensor.name,
                    ty,
                    dims: tensor.dims,
                    start: start as usize,
                    bytes: bytes as usize,
                });
            }
            _ => {
                return Err(fault(format!(
                    "its {bytes} bytes at offset {} lie beyond the end of the file, which has {file_bytes} bytes: \
                     the file is truncated, download it again",
                    tensor.offset
                )));
            }
        }
    }
    Ok(tensors)
}
