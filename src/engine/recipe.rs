//! The six variants: which tensor of a model gets which type.
//!
//! | variant | embeddings and matrices | exceptions | bits a weight, 22B shape |
//! |---|---|---|---|
//! | `q2_k` | Q2_K | none | 2.63 |
//! | `q4_k` | Q4_K | none | 4.50 |
//! | `q5_k_m` | Q5_K | as llama.cpp's Q5_K_M: Q6_K for the head, and for `attn_v` and `ffn_down` in the layers below | 5.7 |
//! | `q6_k` | Q6_K | none | 6.56 |
//! | `q8_0` | Q8_0 | none | 8.50 |
//! | `hybrid` | Q4_K | Q2_K for `ffn_gate` and `ffn_up` of the middle three quarters of the layers; Q6_K for `attn_v` and the head | 3.84 |
//!
//! The uniform variants are uniform on purpose: bytes a token are then exactly weights × bits, and the figures can be
//! held beside other engines' pure-type figures. `q5_k_m` spends its extra bits where llama.cpp does: in the first and
//! last eighth of the layers and in every third between, where errors cost most.
//!
//! `hybrid` asks how much of Q2_K's speed can be had without Q2_K's damage. Gate and up hold half of all weights and
//! meet their errors again only behind a product and a sum over thousands of terms, so they give bytes away most
//! cheaply; the first and last eighth of the layers, where errors propagate through everything or reach the logits
//! undiluted, keep Q4_K; `attn_v` is small with grouped heads and goes straight into the residual stream, and the head
//! decides the token, so both get Q6_K.

use super::block::BlockType;

/// One of the six weight variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum Variant {
    /// Every matrix Q2_K.
    Q2_K,
    /// Every matrix Q4_K.
    Q4_K,
    /// Q5_K with Q6_K where llama.cpp's Q5_K_M has it.
    Q5_K_M,
    /// Every matrix Q6_K.
    Q6_K,
    /// Every matrix Q8_0.
    Q8_0,
    /// Q2_K where it hurts least, Q4_K elsewhere, Q6_K where it matters most.
    Hybrid,
}

impl Variant {
    /// All six, smallest type first, the mix last.
    pub const ALL: [Variant; 6] =
        [Variant::Q2_K, Variant::Q4_K, Variant::Q5_K_M, Variant::Q6_K, Variant::Q8_0, Variant::Hybrid];

    /// As it is typed on the command line and stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Q2_K => "q2_k",
            Variant::Q4_K => "q4_k",
            Variant::Q5_K_M => "q5_k_m",
            Variant::Q6_K => "q6_k",
            Variant::Q8_0 => "q8_0",
            Variant::Hybrid => "hybrid",
        }
    }

    /// The type of the tensor `name` in a model of `layers` layers whose rows have `cols` weights there. Where rows are
    /// no multiple of 256, a K type gives way to the nearest type with blocks of 32, and that to F16.
    #[must_use]
    pub fn block_type(self, name: &str, layers: usize, cols: usize) -> BlockType {
        if name.ends_with("_norm.weight") {
            return BlockType::F32;
        }
        fit(self.wanted(name, layers), cols)
    }

    fn wanted(self, name: &str, layers: usize) -> BlockType {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let is = |part: &str| name.ends_with(&format!(".{part}.weight"));
        let head = name == "output.weight";
        match self {
            Variant::Q2_K => BlockType::Q2_K,
            Variant::Q4_K => BlockType::Q4_K,
            Variant::Q6_K => BlockType::Q6_K,
            Variant::Q8_0 => BlockType::Q8_0,
            Variant::Q5_K_M => {
                let richer = layer.is_some_and(|layer| {
                    let eighth = layers / 8;
                    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
                });
                if head || (richer && (is("attn_v") || is("ffn_down"))) { BlockType::Q6_K } else { BlockType::Q5_K }
            }
            Variant::Hybrid => {
                let middle = layer.is_some_and(|layer| {
                    let edge = layers.div_ceil(8);
                    layer >= edge && layer + edge < layers
                });
                if head || is("attn_v") {
                    BlockType::Q6_K
                } else if middle && (is("ffn_gate") || is("ffn_up")) {
                    BlockType::Q2_K
                } else {
                    BlockType::Q4_K
                }
            }
        }
    }
}

/// `wanted`, or the nearest type whose blocks divide `cols`.
fn fit(wanted: BlockType, cols: usize) -> BlockType {
    if cols.is_multiple_of(wanted.block_weights()) {
        return wanted;
    }
    if !cols.is_multiple_of(32) {
        return BlockType::F16;
    }
    match wanted {
        BlockType::Q2_K | BlockType::Q3_K => BlockType::Q4_0,
        BlockType::Q4_K => BlockType::Q5_0,
        BlockType::Q5_K => BlockType::Q5_1,
        _ => BlockType::Q8_0,
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        Variant::ALL.into_iter().find(|variant| variant.name() == wanted).ok_or_else(|| {
            let names: Vec<&str> = Variant::ALL.iter().map(|variant| variant.name()).collect();
            format!("no variant is called {text:?}; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variants_have_the_bits_that_the_table_says() {
        let arch = crate::engine::synth::shape("22b").unwrap();
        for (variant, expected) in [
            (Variant::Q2_K, 2.625),
            (Variant::Q4_K, 4.5),
            (Variant::Q5_K_M, 5.7),
            (Variant::Q6_K, 6.5625),
            (Variant::Q8_0, 8.5),
            (Variant::Hybrid, 3.84),
        ] {
            let (mut bits, mut weights) = (0.0, 0.0);
            for tensor in arch.tensors().iter().filter(|tensor| !tensor.is_norm) {
                let count = (tensor.cols * tensor.rows) as f64;
                bits += count * variant.block_type(&tensor.name, arch.layers, tensor.cols).bits_per_weight();
                weights += count;
            }
            assert!((bits / weights - expected).abs() < 0.06, "{variant}: {} bits", bits / weights);
        }
    }

    #[test]
    fn a_row_that_is_no_multiple_of_256_falls_back_to_blocks_of_32() {
        for variant in Variant::ALL {
            for cols in [576, 96, 20] {
                let ty = variant.block_type("blk.3.ffn_up.weight", 8, cols);
                assert!(ty.row_bytes(cols as u64).is_some(), "{variant} at {cols}: {ty}");
            }
        }
    }
}
