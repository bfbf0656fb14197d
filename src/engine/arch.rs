//! The llama architecture: its dimensions, its rotary embedding, and which tensors it is made of.
//!
//! Read from GGUF metadata, or given by a synthetic shape. What a back end does with the tensors is its own business;
//! that all of them are there, with the right shapes, is checked here once.

use super::EngineError;
use super::gguf::{Header, Value};

/// Dimensions of a llama model.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Transformer blocks.
    pub layers: usize,
    /// Model width (embedding length).
    pub width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Floats of one head.
    pub head_width: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest context that the model was made for, tokens.
    pub context_tokens: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_epsilon: f32,
    /// Rotary embedding.
    pub rope: Rope,
}

/// Rotary position embedding over the first `width` floats of each head, in interleaved pairs (2i, 2i + 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Floats of a head that are rotated; even.
    pub width: usize,
    /// Angle of pair i at position p is `p × frequencies[i]`, radians; `width / 2` of them, all scaling applied.
    pub frequencies: Vec<f64>,
    /// Factor on sine and cosine (1 but for YaRN).
    pub magnitude: f64,
}

/// How a file scales its rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// How much longer the context became.
        factor: f64,
    },
    /// YaRN: high frequencies as trained, low ones interpolated, a ramp between.
    Yarn {
        /// How much longer the context became.
        factor: f64,
        /// Context that the model was trained for, tokens.
        original_context: f64,
    },
}

impl Rope {
    /// Frequencies for `width` rotated floats. `factors` (from `rope_freqs.weight`, one a pair) divide them first.
    #[must_use]
    pub fn new(width: usize, base: f64, scaling: RopeScaling, factors: Option<&[f32]>) -> Rope {
        let pairs = width / 2;
        let trained = |i: usize| {
            let frequency = base.powf(-2.0 * i as f64 / width as f64);
            factors.map_or(frequency, |factors| frequency / f64::from(factors[i]))
        };
        let (frequencies, magnitude) = match scaling {
            RopeScaling::None => ((0..pairs).map(trained).collect(), 1.0),
            RopeScaling::Linear { factor } => ((0..pairs).map(|i| trained(i) / factor).collect(), 1.0),
            RopeScaling::Yarn { factor, original_context } => {
                // The pair that turns `turns` times over the original context (YaRN, section 3.2; as in llama.cpp).
                let pair = |turns: f64| {
                    width as f64 * (original_context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let low = pair(32.0).floor().max(0.0);
                let high = pair(1.0).ceil().min(width as f64 - 1.0);
                let mix = |i: usize| 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let frequency = |i: usize| trained(i) / factor * (1.0 - mix(i)) + trained(i) * mix(i);
                ((0..pairs).map(frequency).collect(), 1.0 + 0.1 * factor.ln())
            }
        };
        Rope { width, frequencies, magnitude }
    }
}

impl Architecture {
    /// Floats of all key heads (and of all value heads) of one token.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Floats of all query heads of one token.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Every tensor that a model of this architecture has, in the order in which a token meets them: name, row length,
    /// rows. `output.weight` is last, and a model whose embeddings are tied lacks it.
    #[must_use]
    pub fn tensors(&self) -> Vec<Expected> {
        let mut all = vec![Expected::matrix("token_embd.weight", self.width, self.vocab)];
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            all.push(Expected::norm(name("attn_norm"), self.width));
            all.push(Expected::matrix(name("attn_q"), self.width, self.q_width()));
            all.push(Expected::matrix(name("attn_k"), self.width, self.kv_width()));
            all.push(Expected::matrix(name("attn_v"), self.width, self.kv_width()));
            all.push(Expected::matrix(name("attn_output"), self.q_width(), self.width));
            all.push(Expected::norm(name("ffn_norm"), self.width));
            all.push(Expected::matrix(name("ffn_gate"), self.width, self.feed_forward));
            all.push(Expected::matrix(name("ffn_up"), self.width, self.feed_forward));
            all.push(Expected::matrix(name("ffn_down"), self.feed_forward, self.width));
        }
        all.push(Expected::norm("output_norm.weight", self.width));
        all.push(Expected::matrix("output.weight", self.width, self.vocab));
        all
    }

    /// Reads and checks the metadata of a file. `rope_factors` are the contents of its `rope_freqs.weight`, if any.
    pub fn from_header(path: &str, header: &Header, rope_factors: Option<&[f32]>) -> Result<Self, EngineError> {
        let keys = Keys { path, header };
        keys.require_llama()?;
        let layers = keys.count("llama.block_count", 1, 4096)?;
        let width = keys.count("llama.embedding_length", 1, 1 << 20)?;
        let feed_forward = keys.count("llama.feed_forward_length", 1, 1 << 22)?;
        let heads = keys.count("llama.attention.head_count", 1, 1 << 16)?;
        let kv_heads = keys.optional_count("llama.attention.head_count_kv", 1, heads)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let reason = format!("{kv_heads} key/value heads do not divide {heads} query heads; the file is damaged");
            return Err(keys.fault("llama.attention.head_count_kv", reason));
        }
        let head_width = keys.head_width(width, heads)?;
        let vocab =
            header.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1).copied()).ok_or_else(|| {
                EngineError::Model {
                    path: path.into(),
                    what: "tensor token_embd.weight".into(),
                    reason: "is missing or no matrix; this is no whole llama model".into(),
                }
            })?;
        let context_tokens = keys.optional_count("llama.context_length", 1, 1 << 30)?.unwrap_or(2048);
        let norm_epsilon = keys.float("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5) as f32;
        if !(norm_epsilon > 0.0 && norm_epsilon < 1.0) {
            let reason = format!("{norm_epsilon} is no sensible epsilon (0 to 1); the file is damaged");
            return Err(keys.fault("llama.attention.layer_norm_rms_epsilon", reason));
        }
        let rope = keys.rope(head_width, context_tokens, rope_factors)?;
        Ok(Architecture {
            layers,
            width,
            feed_forward,
            heads,
            kv_heads,
            head_width,
            vocab: vocab as usize,
            context_tokens,
            norm_epsilon,
            rope,
        })
    }
}

/// A tensor that an architecture asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Weights in a row: what the input's width must be.
    pub cols: usize,
    /// Rows: the output's width. 1 for a norm.
    pub rows: usize,
    /// A vector of RMSNorm weights and no matrix.
    pub is_norm: bool,
}

impl Expected {
    fn matrix(name: impl Into<String>, cols: usize, rows: usize) -> Self {
        Expected { name: name.into(), cols, rows, is_norm: false }
    }

    fn norm(name: impl Into<String>, cols: usize) -> Self {
        Expected { name: name.into(), cols, rows: 1, is_norm: true }
    }
}

/// Typed access to metadata, with errors that name the key.
struct Keys<'a> {
    path: &'a str,
    header: &'a Header,
}

impl Keys<'_> {
    fn fault(&self, key: &str, reason: String) -> EngineError {
        EngineError::Model { path: self.path.into(), what: format!("metadata key {key}"), reason }
    }

    fn require_llama(&self) -> Result<(), EngineError> {
        let key = "general.architecture";
        match self.header.value(key) {
            Some(Value::Text(name)) if name == "llama" => {}
            Some(other) => {
                let shown = if let Value::Text(name) = other { name.clone() } else { format!("{other:?}") };
                return Err(
                    self.fault(key, format!("is {shown:?}, and this engine runs \"llama\"; choose a llama model"))
                );
            }
            None => return Err(self.fault(key, "is missing; this is no model, or a damaged one".into())),
        }
        if let Some(parts) = self.optional_count("split.count", 0, usize::MAX)?.filter(|&parts| parts > 1) {
            let reason = format!("this file is one of {parts} parts; merge them with `llama-gguf-split --merge`");
            return Err(self.fault("split.count", reason));
        }
        if let Some(experts) = self.optional_count("llama.expert_count", 0, usize::MAX)?.filter(|&n| n > 0) {
            let reason = format!("the model is a mixture of {experts} experts, and this engine runs dense models");
            return Err(self.fault("llama.expert_count", reason));
        }
        Ok(())
    }

    fn optional_count(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>, EngineError> {
        let number = match self.header.value(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => *n,
            Some(Value::Signed(n)) if *n >= 0 => *n as u64,
            Some(Value::Array { .. }) => {
                return Err(self.fault(key, "differs from layer to layer, which this engine does not run".into()));
            }
            Some(other) => return Err(self.fault(key, format!("is {other:?} and no count; the file is damaged"))),
        };
        if number < min as u64 || number > max as u64 {
            return Err(self.fault(key, format!("is {number}, and {min} to {max} makes sense; the file is damaged")));
        }
        Ok(Some(number as usize))
    }

    fn count(&self, key: &str, min: usize, max: usize) -> Result<usize, EngineError> {
        self.optional_count(key, min, max)?
            .ok_or_else(|| self.fault(key, "is missing; the file is damaged or no whole model".into()))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.header.value(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.fault(key, format!("is {other:?} and no number; the file is damaged"))),
        }
    }

    fn head_width(&self, width: usize, heads: usize) -> Result<usize, EngineError> {
        let key_width = self.optional_count("llama.attention.key_length", 1, 4096)?;
        let value_width = self.optional_count("llama.attention.value_length", 1, 4096)?;
        if let (Some(key), Some(value)) = (key_width, value_width)
            && key != value
        {
            let reason = format!("is {value} where keys have {key}; this engine runs models where they are equal");
            return Err(self.fault("llama.attention.value_length", reason));
        }
        let head_width = match key_width.or(value_width) {
            Some(given) => given,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                let reason = format!("{heads} heads do not divide the width {width}; the file is damaged");
                return Err(self.fault("llama.attention.head_count", reason));
            }
        };
        if !head_width.is_multiple_of(2) {
            return Err(self.fault("llama.attention.key_length", format!("a head of {head_width} floats is odd")));
        }
        Ok(head_width)
    }

    fn rope(&self, head_width: usize, context: usize, factors: Option<&[f32]>) -> Result<Rope, EngineError> {
        let width = self.optional_count("llama.rope.dimension_count", 2, head_width)?.unwrap_or(head_width);
        if !width.is_multiple_of(2) {
            return Err(self.fault("llama.rope.dimension_count", format!("is {width}, which is odd")));
        }
        let base = self.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        if base <= 1.0 {
            return Err(self.fault("llama.rope.freq_base", format!("is {base}, and must be above 1")));
        }
        if let Some(factors) = factors
            && (factors.len() != width / 2 || factors.iter().any(|f| !f.is_finite() || *f <= 0.0))
        {
            return Err(EngineError::Model {
                path: self.path.into(),
                what: "tensor rope_freqs.weight".into(),
                reason: format!("must hold {} positive numbers; the file is damaged", width / 2),
            });
        }
        let scaling = self.rope_scaling(context)?;
        Ok(Rope::new(width, base, scaling, factors))
    }

    fn rope_scaling(&self, context: usize) -> Result<RopeScaling, EngineError> {
        let old = self.float("llama.rope.scale_linear")?;
        let factor = self.float("llama.rope.scaling.factor")?;
        let kind = match self.header.value("llama.rope.scaling.type") {
            None if factor.or(old).is_some() => "linear",
            None => "none",
            Some(Value::Text(kind)) => kind.as_str(),
            Some(other) => return Err(self.fault("llama.rope.scaling.type", format!("is {other:?} and no text"))),
        };
        let factor = factor.or(old).filter(|&factor| factor != 0.0).unwrap_or(1.0);
        if factor < 0.0 {
            return Err(self.fault("llama.rope.scaling.factor", format!("is {factor}, and must be positive")));
        }
        match kind {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => {
                let original = self.optional_count("llama.rope.scaling.original_context_length", 1, 1 << 30)?;
                Ok(RopeScaling::Yarn { factor, original_context: original.unwrap_or(context) as f64 })
            }
            other => {
                let reason = format!("is {other:?}, and this engine runs none, linear and yarn");
                Err(self.fault("llama.rope.scaling.type", reason))
            }
        }
    }
}
