//! A model before a back end takes it: its architecture, and where the bytes of each tensor come from.
//!
//! A tensor is a view into a mapped file or a recipe for generating it. A back end takes what it needs: the CPU maps or
//! generates, CUDA copies or generates on the device.

use super::EngineError;
use super::arch::{Architecture, Expected};
use super::block::{BlockType, dequantize, quantize};
use super::gguf;
use super::recipe::Variant;
use super::synth::{self, Generator};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Where a tensor's bytes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// Bytes `start .. start + bytes` of the mapped file.
    Mapped {
        /// From the start of the file.
        start: usize,
    },
    /// Generated block by block.
    Generated(Generator),
    /// Held in memory.
    Memory(Arc<Vec<u8>>),
}

/// One tensor of a model: `rows` rows of `cols` weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its weights are stored.
    pub ty: BlockType,
    /// Weights in a row.
    pub cols: usize,
    /// Rows; 1 for a norm.
    pub rows: usize,
    /// Bytes of all rows.
    pub bytes: usize,
    /// Where they come from.
    pub origin: Origin,
}

/// An architecture with all its tensors.
#[derive(Debug, Clone)]
pub struct Model {
    /// The file's `general.name` or path, or `synthetic:NAME`.
    pub name: String,
    /// What errors call it: the path, or `synthetic:NAME`.
    pub path: String,
    /// Its dimensions.
    pub arch: Architecture,
    /// All tensors, in the order of [`Architecture::tensors`]; without `output.weight` if the embeddings are tied.
    pub tensors: Vec<Tensor>,
    file: Option<gguf::File>,
}

impl Model {
    /// Opens `model`: a path, or `synthetic:NAME` with the types of `variant` and the weights of `seed`.
    pub fn open(model: &str, variant: Variant, seed: u64) -> Result<Model, EngineError> {
        match model.strip_prefix("synthetic:") {
            Some(shape) => Model::synthetic(shape, variant, seed),
            None => Model::from_file(Path::new(model)),
        }
    }

    /// `model` with weights as floats: a file as it is, a synthetic shape drawn in singles.
    pub fn open_unquantised(model: &str, seed: u64) -> Result<Model, EngineError> {
        match model.strip_prefix("synthetic:") {
            Some(shape) => Model::generated(shape, seed, |_, _, _| BlockType::F32),
            None => Model::from_file(Path::new(model)),
        }
    }

    /// The same weights, quantised again as `variant` has them, in memory.
    #[must_use]
    pub fn requantised(&self, variant: Variant) -> Model {
        let tensors = self.tensors.iter().map(|tensor| {
            let ty = variant.block_type(&tensor.name, self.arch.layers, tensor.cols);
            let bytes = quantize(ty, &self.floats(tensor));
            Tensor { ty, bytes: bytes.len(), origin: Origin::Memory(Arc::new(bytes)), ..tensor.clone() }
        });
        Model { tensors: tensors.collect(), file: None, ..self.clone() }
    }

    /// A synthetic model.
    pub fn synthetic(shape: &str, variant: Variant, seed: u64) -> Result<Model, EngineError> {
        Model::generated(shape, seed, |name, layers, cols| variant.block_type(name, layers, cols))
    }

    /// A synthetic model with the types that `pick(name, layers, row length)` chooses.
    fn generated(shape: &str, seed: u64, pick: impl Fn(&str, usize, usize) -> BlockType) -> Result<Model, EngineError> {
        let arch = synth::shape(shape).ok_or_else(|| {
            let names: Vec<String> = synth::SHAPES.iter().map(|name| format!("synthetic:{name}")).collect();
            EngineError::Request(format!("no model is called synthetic:{shape}; there are {}", names.join(", ")))
        })?;
        let tensors = arch.tensors().into_iter().map(|expected| {
            let ty = pick(&expected.name, arch.layers, expected.cols);
            let bytes = expected.cols / ty.block_weights() * ty.block_bytes() * expected.rows;
            let generator = Generator::new(seed, &expected.name, ty, expected.cols, arch.layers);
            let Expected { name, cols, rows, .. } = expected;
            Tensor { name, ty, cols, rows, bytes, origin: Origin::Generated(generator) }
        });
        let tensors = tensors.collect();
        let name = format!("synthetic:{shape}");
        Ok(Model { path: name.clone(), name, arch, tensors, file: None })
    }

    /// A GGUF file.
    pub fn from_file(path: &Path) -> Result<Model, EngineError> {
        let file = gguf::File::open(path)?;
        let header = &file.header;
        let factors = header.tensor("rope_freqs.weight").map(|tensor| {
            let weights = tensor.bytes / tensor.ty.block_bytes() * tensor.ty.block_weights();
            let mut floats = vec![0.0; weights];
            dequantize(tensor.ty, file.bytes(tensor), &mut floats);
            floats
        });
        let arch = Architecture::from_header(&file.path, header, factors.as_deref())?;
        let tensors = take_tensors(&file, &arch)?;
        let name = match header.value("general.name") {
            Some(gguf::Value::Text(name)) if !name.is_empty() => name.clone(),
            _ => file.path.clone(),
        };
        Ok(Model { name, path: file.path.clone(), arch, tensors, file: Some(file) })
    }

    /// The mapped file, if the model is one.
    #[must_use]
    pub fn file(&self) -> Option<&gguf::File> {
        self.file.as_ref()
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The matrix that turns the last state into logits: `output.weight`, or the embeddings if they are tied.
    #[must_use]
    pub fn head(&self) -> &Tensor {
        self.tensors.last().filter(|tensor| tensor.name == "output.weight").unwrap_or(&self.tensors[0])
    }

    /// Bytes of a tensor: borrowed from the map, or generated now.
    #[must_use]
    pub fn bytes<'a>(&'a self, tensor: &'a Tensor) -> Cow<'a, [u8]> {
        match (&tensor.origin, &self.file) {
            (Origin::Mapped { start }, Some(file)) => Cow::Borrowed(&file.map()[*start..*start + tensor.bytes]),
            (Origin::Generated(generator), _) => {
                let mut bytes = vec![0; tensor.bytes];
                generator.fill(0, &mut bytes);
                Cow::Owned(bytes)
            }
            (Origin::Memory(bytes), _) => Cow::Borrowed(bytes),
            (Origin::Mapped { .. }, None) => unreachable!("only files have mapped tensors"),
        }
    }

    /// A small tensor as floats (norms).
    #[must_use]
    pub fn floats(&self, tensor: &Tensor) -> Vec<f32> {
        let mut floats = vec![0.0; tensor.cols * tensor.rows];
        dequantize(tensor.ty, &self.bytes(tensor), &mut floats);
        floats
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes as u64).sum()
    }

    /// Weight bytes read to decode one token at one stream: all but the embedding table, of which one row is read (the
    /// table of tied embeddings is read whole, as the head).
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> u64 {
        let table = &self.tensors[0];
        let tied = std::ptr::eq(self.head(), table);
        let row = (table.bytes / table.rows) as u64;
        self.weight_bytes() + row - if tied { 0 } else { table.bytes as u64 }
    }

    /// Types and how many tensors have each, such as `Q4_K: 193, F32: 65`; most frequent first.
    #[must_use]
    pub fn types(&self) -> String {
        let mut counts = BTreeMap::new();
        for tensor in &self.tensors {
            *counts.entry(tensor.ty).or_insert(0_usize) += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(ty, count)| (std::cmp::Reverse(count), ty));
        let shown: Vec<String> = counts.iter().map(|(ty, count)| format!("{ty}: {count}")).collect();
        shown.join(", ")
    }
}

/// Finds what `arch` asks for among the tensors of a file, and refuses what it does not know.
fn take_tensors(file: &gguf::File, arch: &Architecture) -> Result<Vec<Tensor>, EngineError> {
    let fault = |name: &str, reason: String| EngineError::Model {
        path: file.path.clone(),
        what: format!("tensor {name}"),
        reason,
    };
    let by_name: BTreeMap<&str, &gguf::TensorInfo> =
        file.header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    // Each layer needs nine tensors: a count that the table cannot hold is refused before anything is made of it.
    if arch.layers > file.header.tensors.len() {
        let reason = format!("is {}, and the file has only {} tensors", arch.layers, file.header.tensors.len());
        return Err(EngineError::Model {
            path: file.path.clone(),
            what: "metadata key llama.block_count".into(),
            reason,
        });
    }
    let expected = arch.tensors();
    for name in by_name.keys() {
        let ignored = *name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd");
        if !ignored && !expected.iter().any(|tensor| tensor.name == *name) {
            let reason = "is not part of the llama architecture that this engine runs, and leaving it out would change \
                          the tokens; choose another model";
            return Err(fault(name, reason.into()));
        }
    }
    let mut tensors = Vec::new();
    for Expected { name, cols, rows, is_norm } in expected {
        let Some(info) = by_name.get(name.as_str()) else {
            if name == "output.weight" {
                continue; // tied embeddings
            }
            return Err(fault(&name, "is missing; the file is damaged or no whole model".into()));
        };
        let wanted: Vec<u64> = if is_norm { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        let trimmed = trim(&info.dims);
        if trimmed != trim(&wanted) {
            let reason =
                format!("has the shape {:?} where the metadata ask for {wanted:?}; the file is damaged", info.dims);
            return Err(fault(&name, reason));
        }
        let origin = Origin::Mapped { start: info.start };
        tensors.push(Tensor { name, ty: info.ty, cols, rows, bytes: info.bytes, origin });
    }
    Ok(tensors)
}

/// Dimensions without trailing ones.
fn trim(dims: &[u64]) -> &[u64] {
    let used = dims.iter().rposition(|&dim| dim != 1).map_or(0, |last| last + 1);
    &dims[..used]
}
