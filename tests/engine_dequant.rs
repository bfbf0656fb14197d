//! Every tensor type's dequantisation, bit for bit against candle's, over random bytes.

use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Result};
use proptest::prelude::*;
use soakd::engine::block::{BlockType, dequantize};

fn candle_type(ty: BlockType) -> GgmlDType {
    match ty {
        BlockType::F32 => GgmlDType::F32,
        BlockType::F16 => GgmlDType::F16,
        BlockType::BF16 => GgmlDType::BF16,
        BlockType::Q4_0 => GgmlDType::Q4_0,
        BlockType::Q4_1 => GgmlDType::Q4_1,
        BlockType::Q5_0 => GgmlDType::Q5_0,
        BlockType::Q5_1 => GgmlDType::Q5_1,
        BlockType::Q8_0 => GgmlDType::Q8_0,
        BlockType::Q2_K => GgmlDType::Q2K,
        BlockType::Q3_K => GgmlDType::Q3K,
        BlockType::Q4_K => GgmlDType::Q4K,
        BlockType::Q5_K => GgmlDType::Q5K,
        BlockType::Q6_K => GgmlDType::Q6K,
    }
}

fn candle_floats(ty: BlockType, bytes: &[u8]) -> Result<Vec<f32>> {
    let weights = bytes.len() / ty.block_bytes() * ty.block_weights();
    qtensor_from_ggml(candle_type(ty), bytes, vec![weights], &Device::Cpu)?
        .dequantize(&Device::Cpu)?
        .to_dtype(candle_core::DType::F32)?
        .to_vec1()
}

/// Any bytes at all: halves may be subnormal, infinite or not a number.
fn blocks(ty: BlockType) -> impl Strategy<Value = Vec<u8>> {
    (1_usize..4).prop_flat_map(move |blocks| prop::collection::vec(any::<u8>(), blocks * ty.block_bytes()))
}

fn check(ty: BlockType, bytes: &[u8]) {
    let expected = candle_floats(ty, bytes).unwrap();
    let mut got = vec![0.0; expected.len()];
    dequantize(ty, bytes, &mut got);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "{ty} weight {i}: {got:e} ({:08x}) for {expected:e} ({:08x})", got.to_bits(), expected.to_bits());
    }
}

macro_rules! bit_exact {
    ($($name:ident: $ty:ident;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $name(bytes in blocks(BlockType::$ty)) {
                    check(BlockType::$ty, &bytes);
                }
            )*
        }
    };
}

bit_exact! {
    f32_is_bit_exact: F32;
    f16_is_bit_exact: F16;
    bf16_is_bit_exact: BF16;
    q4_0_is_bit_exact: Q4_0;
    q4_1_is_bit_exact: Q4_1;
    q5_0_is_bit_exact: Q5_0;
    q5_1_is_bit_exact: Q5_1;
    q8_0_is_bit_exact: Q8_0;
    q2_k_is_bit_exact: Q2_K;
    q3_k_is_bit_exact: Q3_K;
    q4_k_is_bit_exact: Q4_K;
    q5_k_is_bit_exact: Q5_K;
    q6_k_is_bit_exact: Q6_K;
}

/// Root mean square error of the weights after a round trip.
fn error(weights: &[f32], back: &[f32]) -> f64 {
    let sum: f64 = weights.iter().zip(back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / weights.len() as f64).sqrt()
}

#[test]
fn quantising_loses_no_more_than_candle_does() {
    // Roughly normal weights: the mean of four uniform numbers.
    let uniform = |i: u64| (soakd::engine::synth::mix(i) >> 40) as f32 / 8_388_608.0 - 1.0;
    let weights: Vec<f32> = (0..16_384).map(|i| (0..4).map(|j| uniform(4 * i + j)).sum::<f32>() / 4.0).collect();
    let tensor = candle_core::Tensor::new(&weights[..], &Device::Cpu).unwrap();
    for ty in BlockType::ALL {
        let theirs = candle_core::quantized::QTensor::quantize(&tensor, candle_type(ty)).unwrap();
        let theirs = theirs.dequantize(&Device::Cpu).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        let theirs = error(&weights, &theirs.to_vec1::<f32>().unwrap());
        let mut back = vec![0.0; weights.len()];
        dequantize(ty, &soakd::engine::block::quantize(ty, &weights), &mut back);
        let ours = error(&weights, &back);
        println!("{ty}: {ours:.3e}, candle {theirs:.3e}");
        assert!(ours <= theirs * 1.05 + 1e-9, "{ty}: an error of {ours:e}, and candle's is {theirs:e}");
    }
}

#[test]
fn quantising_takes_zeros_and_constants() {
    for ty in BlockType::ALL {
        for value in [0.0, 0.5, -0.5] {
            let weights = vec![value; 512];
            let mut back = vec![f32::NAN; 512];
            dequantize(ty, &soakd::engine::block::quantize(ty, &weights), &mut back);
            assert!(error(&weights, &back) < 0.02, "{ty} of {value}: {:?}", &back[..4]);
        }
    }
}
