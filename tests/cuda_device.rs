//! The CUDA back end on a real device, held against float64 and against the CPU's definitions.
//!
//! Without a driver there is nothing to run: every test then checks instead that the engine says so plainly. Inputs are
//! drawn afresh each run; the seed is printed with a failure, and `SOAKD_TEST_SEED` repeats it.

use soakd::engine::block::{BlockType, dequantize};
use soakd::engine::cuda::{self, CudaEngine, CudaOptions, Path, Tuning, tiles};
use soakd::engine::gguf::{Planned, Value, write};
use soakd::engine::synth::{Generator, mix};
use soakd::engine::weights::Model;
use soakd::engine::{Engine, EngineError, Feed, Next, Variant, greedy, hash_logits};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: what one allocates is free memory that another sees go.
static ALONE: Mutex<()> = Mutex::new(());

/// The first device, for this test alone while the guard lives, or `None` after checking that the engine's refusal is a clear one.
fn device() -> Option<(u32, MutexGuard<'static, ()>)> {
    match cuda::devices() {
        Ok(all) if !all.is_empty() => Some((0, ALONE.lock().unwrap_or_else(PoisonError::into_inner))),
        Ok(_) => None,
        Err(EngineError::Request(reason)) => {
            assert!(reason.contains("--backend cpu"), "no way out is named: {reason}");
            None
        }
        Err(other) => panic!("a machine with a driver whose devices cannot be listed: {other}"),
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SOAKD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        since.as_nanos() as u64
    });
    println!("SOAKD_TEST_SEED={seed}");
    seed
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn tokens(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Dimensions of a model made for a test.
#[derive(Debug, Clone, Copy)]
struct Dims {
    layers: usize,
    width: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    vocab: usize,
    tied: bool,
}

/// A model file of these dimensions; `ty` gives a tensor's type by its name.
fn model(dims: Dims, seed: u64, ty: impl Fn(&str) -> BlockType) -> Model {
    let Dims { layers, width, feed_forward, heads, kv_heads, head_width, vocab, tied } = dims;
    let mut shapes = vec![("token_embd.weight".to_string(), width, vocab)];
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        shapes.push((name("attn_norm"), width, 1));
        shapes.push((name("attn_q"), width, heads * head_width));
        shapes.push((name("attn_k"), width, kv_heads * head_width));
        shapes.push((name("attn_v"), width, kv_heads * head_width));
        shapes.push((name("attn_output"), heads * head_width, width));
        shapes.push((name("ffn_norm"), width, 1));
        shapes.push((name("ffn_gate"), width, feed_forward));
        shapes.push((name("ffn_up"), width, feed_forward));
        shapes.push((name("ffn_down"), feed_forward, width));
    }
    shapes.push(("output_norm.weight".into(), width, 1));
    if !tied {
        shapes.push(("output.weight".into(), width, vocab));
    }
    let tensors: Vec<(Planned, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, cols, rows)| {
            let norm = name.ends_with("_norm.weight");
            let ty = if norm { BlockType::F32 } else { ty(&name) };
            let mut bytes = vec![0; rows * ty.row_bytes(cols as u64).expect("whole blocks") as usize];
            // Every row block with scales of its own: the generator's are one for all.
            for (index, chunk) in bytes.chunks_mut(ty.block_bytes() * 64).enumerate() {
                Generator::new(seed.wrapping_add(index as u64), &name, ty, cols + 16 * (index % 7), layers)
                    .fill(0, chunk);
            }
            let dims = if norm { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
            (Planned { name, ty, dims }, bytes)
        })
        .collect();
    let count = |n: usize| Value::Unsigned(n as u64);
    let metadata = [
        ("general.architecture", Value::Text("llama".into())),
        ("general.name", Value::Text("test".into())),
        ("llama.block_count", count(layers)),
        ("llama.embedding_length", count(width)),
        ("llama.feed_forward_length", count(feed_forward)),
        ("llama.attention.head_count", count(heads)),
        ("llama.attention.head_count_kv", count(kv_heads)),
        ("llama.attention.key_length", count(head_width)),
        ("llama.attention.value_length", count(head_width)),
        ("llama.rope.dimension_count", count(head_width)),
        ("llama.rope.freq_base", Value::Float(10000.0)),
        ("llama.context_length", count(512)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.gguf");
    std::fs::write(&path, write(&metadata, &tensors).expect("a GGUF file")).expect("written");
    Model::from_file(&path).expect("a model")
}

/// Logits after `tokens`, in float64 from the dequantised weights.
fn reference(model: &Model, tokens: &[u32]) -> Vec<f64> {
    let arch = &model.arch;
    let floats = |name: &str| -> Vec<f64> {
        let tensor = model.tensor(name).expect("a tensor");
        model.floats(tensor).into_iter().map(f64::from).collect()
    };
    let multiply = |w: &[f64], x: &[f64]| -> Vec<f64> {
        w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |h: &[f64], gain: &[f64]| -> Vec<f64> {
        let square = h.iter().map(|x| x * x).sum::<f64>() / h.len() as f64;
        let scale = 1.0 / (square + f64::from(arch.norm_epsilon)).sqrt();
        h.iter().zip(gain).map(|(x, g)| x * scale * g).collect()
    };
    let table = floats("token_embd.weight");
    let mut states: Vec<Vec<f64>> =
        tokens.iter().map(|&t| table[t as usize * arch.width..][..arch.width].to_vec()).collect();
    let hw = arch.head_width;
    for layer in 0..arch.layers {
        let part = |part: &str| floats(&format!("blk.{layer}.{part}.weight"));
        let (gain, q, k, v, out) =
            (part("attn_norm"), part("attn_q"), part("attn_k"), part("attn_v"), part("attn_output"));
        let (gain2, gate, up, down) = (part("ffn_norm"), part("ffn_gate"), part("ffn_up"), part("ffn_down"));
        let rotate = |x: &mut [f64], position: usize| {
            for head in x.chunks_exact_mut(hw) {
                for (i, &frequency) in arch.rope.frequencies.iter().enumerate() {
                    let (s, c) = (position as f64 * frequency).sin_cos();
                    let (a, b) = (head[2 * i], head[2 * i + 1]);
                    (head[2 * i], head[2 * i + 1]) = (a * c - b * s, a * s + b * c);
                }
            }
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, state) in states.iter_mut().enumerate() {
            let x = norm(state, &gain);
            let (mut query, mut key) = (multiply(&q, &x), multiply(&k, &x));
            rotate(&mut query, position);
            rotate(&mut key, position);
            keys.push(key);
            values.push(multiply(&v, &x));
            let mut attended = vec![0.0; query.len()];
            for (head, (query, attended)) in query.chunks_exact(hw).zip(attended.chunks_exact_mut(hw)).enumerate() {
                let at = head / (arch.heads / arch.kv_heads) * hw;
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|key| {
                        query.iter().zip(&key[at..at + hw]).map(|(a, b)| a * b).sum::<f64>() / (hw as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&values) {
                    let value: &Vec<f64> = value;
                    for (o, v) in attended.iter_mut().zip(&value[at..at + hw]) {
                        *o += weight / total * v;
                    }
                }
            }
            for (h, o) in state.iter_mut().zip(multiply(&out, &attended)) {
                *h += o;
            }
            let x = norm(state, &gain2);
            let inner: Vec<f64> =
                multiply(&gate, &x).iter().zip(multiply(&up, &x)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            for (h, o) in state.iter_mut().zip(multiply(&down, &inner)) {
                *h += o;
            }
        }
    }
    let head: Vec<f64> = model.floats(model.head()).into_iter().map(f64::from).collect();
    multiply(&head, &norm(states.last().expect("a token"), &floats("output_norm.weight")))
}

fn relative_error(ours: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(ours.len(), exact.len());
    let difference: f64 = ours.iter().zip(exact).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

fn engine(model: &Model, slots: usize, path: Path) -> CudaEngine {
    let options = CudaOptions {
        device: 0,
        slots,
        context_tokens: 512.min(model.arch.context_tokens),
        path: Some(path),
        tuning: Tuning::default(),
    };
    CudaEngine::new(model, options).unwrap_or_else(|error| panic!("{}: {error}", path.name()))
}

fn step(engine: &mut dyn Engine, feeds: &[(usize, Vec<u32>)]) -> Vec<Next> {
    let batch: Vec<Feed<'_>> = feeds.iter().map(|(slot, tokens)| Feed { slot: *slot, tokens }).collect();
    let mut out = Vec::new();
    engine.step(&batch, &mut out).expect("a step");
    out
}

/// Shapes that the persistent kernel takes, awkward ones first.
fn persistent_dims() -> Vec<Dims> {
    let base = Dims {
        layers: 3,
        width: 512,
        feed_forward: 768,
        heads: 4,
        kv_heads: 2,
        head_width: 128,
        vocab: 1003,
        tied: false,
    };
    vec![
        base,
        Dims { layers: 1, width: 256, feed_forward: 256, heads: 2, kv_heads: 1, vocab: 17, ..base },
        Dims { layers: 1, width: 2304, feed_forward: 2560, heads: 8, kv_heads: 1, vocab: 700, tied: true, ..base },
        Dims { layers: 1, width: 4096, feed_forward: 2816, heads: 10, kv_heads: 5, vocab: 1500, ..base },
    ]
}

const TILED: [BlockType; 6] =
    [BlockType::Q2_K, BlockType::Q3_K, BlockType::Q4_K, BlockType::Q5_K, BlockType::Q6_K, BlockType::Q8_0];

/// Another type for every tensor, gate and up the same.
fn mixed(types: &'static [BlockType], offset: usize) -> impl Fn(&str) -> BlockType {
    move |name: &str| {
        let name = name.replace("ffn_up", "ffn_gate");
        types[(name.bytes().map(usize::from).sum::<usize>() + offset) % types.len()]
    }
}

#[test]
fn every_type_is_dequantised_bit_for_bit_as_on_the_cpu() {
    let Some((device, _alone)) = device() else { return };
    let seed = seed();
    for ty in BlockType::ALL {
        let (rows, cols) = (37, if ty.block_weights() == 1 { 1003 } else { ty.block_weights() * 11 });
        let mut bytes = vec![0; rows * ty.row_bytes(cols as u64).expect("whole blocks") as usize];
        Generator::new(seed, "blk.0.ffn_up.weight", ty, cols, 4).fill(0, &mut bytes);
        let mut expected = vec![0.0; rows * cols];
        dequantize(ty, &bytes, &mut expected);
        let got = cuda::check::dequantize(device, ty, rows, cols, &bytes).expect("dequantised");
        let differ = got.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differ, 0, "{ty}: {differ} of {} differ", expected.len());
    }
}

#[test]
fn the_device_packs_the_tiles_that_the_host_packs() {
    let Some((device, _alone)) = device() else { return };
    let seed = seed();
    for ty in TILED {
        for (rows, supers, stride, offset) in
            [(128, 2, 1, 0), (200, 3, 1, 0), (64, 1, 2, 0), (192, 2, 2, 1), (17, 1, 1, 0)]
        {
            let cols = supers * 256;
            let mut bytes = vec![0; rows * ty.row_bytes(cols as u64).expect("whole blocks") as usize];
            Generator::new(seed, "blk.0.ffn_up.weight", ty, cols, 4).fill(0, &mut bytes);
            let expected = tiles::pack(ty, rows, cols, &bytes, stride, offset);
            let got = cuda::check::pack(device, ty, rows, cols, &bytes, stride, offset).expect("packed");
            // The other half of an interleaved matrix is not this call's to write.
            let size = tiles::tile_bytes(ty);
            for (index, (a, b)) in got.chunks(size).zip(expected.chunks(size)).enumerate() {
                let group = index / supers;
                assert!(group % stride != offset || a == b, "{ty} {rows}x{cols} stride {stride}: tile {index} differs");
            }
        }
    }
}

/// Logits of prompts of several lengths, then of decoded tokens, against float64.
fn logits_agree(model: &Model, path: Path, tolerance: f64, seed: u64, what: &str) {
    let mut random = Random(seed);
    let vocab = model.arch.vocab;
    let mut engine = engine(model, 3, path);
    let mut streams: Vec<Vec<u32>> = vec![random.tokens(1, vocab), random.tokens(37, vocab), random.tokens(5, vocab)];
    let prompts: Vec<(usize, Vec<u32>)> = streams.iter().cloned().enumerate().collect();
    step(&mut engine, &prompts);
    for round in 0..2 {
        for (slot, stream) in streams.iter().enumerate() {
            let logits = engine.logits(slot).expect("logits");
            let error = relative_error(&logits, &reference(model, stream));
            println!("{what} {} stream {slot} round {round}: {error:.2e}", path.name());
            assert!(error < tolerance, "{what} {} stream {slot} round {round}: {error:.2e}", path.name());
        }
        let more: Vec<(usize, Vec<u32>)> = (0..3).map(|slot| (slot, random.tokens(1, vocab))).collect();
        let out = step(&mut engine, &more);
        for (slot, tokens) in more {
            streams[slot].extend(tokens);
        }
        for next in out {
            let logits = engine.logits(next.slot).expect("logits");
            assert_eq!(
                (next.token, next.logits_hash),
                (greedy(&logits), hash_logits(&logits)),
                "{what} {}",
                path.name()
            );
        }
    }
}

#[test]
fn plain_logits_are_those_of_float64_for_every_type_and_odd_shapes() {
    let Some(_alone) = device() else { return };
    let seed = seed();
    let small = Dims {
        layers: 2,
        width: 256,
        feed_forward: 512,
        heads: 4,
        kv_heads: 1,
        head_width: 64,
        vocab: 301,
        tied: false,
    };
    for ty in BlockType::ALL {
        logits_agree(&model(small, seed, |_| ty), Path::Plain, 1e-4, seed, ty.name());
    }
    let odd = Dims { width: 576, feed_forward: 1536, heads: 9, kv_heads: 3, vocab: 1009, tied: true, ..small };
    let types = &[
        BlockType::Q4_1,
        BlockType::Q8_0,
        BlockType::F16,
        BlockType::Q5_0,
        BlockType::Q4_0,
        BlockType::Q5_1,
        BlockType::BF16,
    ];
    logits_agree(&model(odd, seed, mixed(types, seed as usize % 7)), Path::Plain, 1e-4, seed, "width 576, mixed");
    let floats = Dims { width: 36, feed_forward: 52, heads: 3, kv_heads: 3, head_width: 12, vocab: 31, ..small };
    logits_agree(&model(floats, seed, |_| BlockType::F16), Path::Plain, 1e-4, seed, "width 36");
    let synthetic = Model::synthetic("tiny", Variant::Hybrid, seed).expect("a shape");
    logits_agree(&synthetic, Path::Plain, 1e-4, seed, "synthetic:tiny");
}

#[test]
fn persistent_logits_are_those_of_float64_for_every_type_and_awkward_shapes() {
    let Some(_alone) = device() else { return };
    if cuda::devices().expect("devices")[0].compute < (9, 0) {
        return;
    }
    let seed = seed();
    for ty in TILED {
        logits_agree(&model(persistent_dims()[0], seed, |_| ty), Path::Persistent, 2e-3, seed, ty.name());
    }
    for (index, dims) in persistent_dims().into_iter().enumerate() {
        let model = model(dims, seed, mixed(&TILED, seed as usize % 6 + index));
        logits_agree(&model, Path::Persistent, 2e-3, seed, &format!("shape {index}, mixed"));
    }
}

/// Decodes one stream alone, then among changing company in other slots: tokens and hashes must be the same.
fn company_changes_nothing(model: &Model, path: Path, seed: u64) {
    let mut random = Random(seed);
    let vocab = model.arch.vocab;
    let prompt = random.tokens(21, vocab);
    let mut alone = engine(model, 16, path);
    let mut expected = step(&mut alone, &[(0, prompt.clone())]);
    for _ in 0..12 {
        let last = expected.last().expect("a token").token;
        expected.extend(step(&mut alone, &[(0, vec![last])]));
    }
    for (rep, slot) in [(0, 0), (1, 11), (2, 5)] {
        let mut engine = engine(model, 16, path);
        let mut active: Vec<(usize, u32)> = Vec::new();
        let mut got: Vec<Next> = Vec::new();
        for round in 0..13 {
            let mut feeds: Vec<(usize, Vec<u32>)> = Vec::new();
            let mine = if round == 0 { prompt.clone() } else { vec![got[round - 1].token] };
            for (slot, token) in &active {
                feeds.push((*slot, vec![*token]));
            }
            for other in 0..16 {
                let joins = other != slot && !active.iter().any(|(slot, _)| *slot == other) && random.below(3) == 0;
                if joins && round != 4 {
                    engine.reset(other);
                    let length = 1 + random.below(40);
                    feeds.push((other, random.tokens(length, vocab)));
                }
            }
            let at = random.below(feeds.len() + 1);
            feeds.insert(at, (slot, mine));
            let out = step(&mut engine, &feeds);
            got.push(*out.iter().find(|next| next.slot == slot).expect("mine"));
            active = out
                .iter()
                .filter(|next| next.slot != slot && random.below(4) != 0)
                .map(|next| (next.slot, next.token))
                .collect();
            if round == 8 {
                active.truncate(1);
            }
        }
        for (round, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let same = (got.token, got.logits_hash) == (expected.token, expected.logits_hash);
            assert!(same, "{} rep {rep} slot {slot} round {round}: {got:?}, alone {expected:?}", path.name());
        }
    }
}

#[test]
fn a_stream_has_the_same_bits_in_any_company() {
    let Some(_alone) = device() else { return };
    let seed = seed();
    let dims = persistent_dims();
    company_changes_nothing(&model(dims[0], seed, mixed(&TILED, 1)), Path::Plain, seed);
    if cuda::devices().expect("devices")[0].compute >= (9, 0) {
        company_changes_nothing(&model(dims[0], seed, mixed(&TILED, 1)), Path::Persistent, seed);
        company_changes_nothing(&model(dims[3], seed, mixed(&TILED, 2)), Path::Persistent, seed);
    }
}

#[test]
fn what_does_not_fit_is_named_with_what_was_free() {
    let Some(_alone) = device() else { return };
    let mut model = Model::synthetic("tiny", Variant::Q4_K, 1).expect("a shape");
    model.arch.context_tokens = 1 << 30;
    let options = CudaOptions {
        device: 0,
        slots: 4,
        context_tokens: 1 << 28,
        path: Some(Path::Plain),
        tuning: Tuning::default(),
    };
    match CudaEngine::new(&model, options).map(|_| ()) {
        Err(EngineError::Memory { what, needed_bytes, free_bytes }) => {
            assert!(what.contains("on CUDA device 0"), "{what}");
            assert!(needed_bytes > free_bytes && free_bytes > 0, "{needed_bytes} {free_bytes}");
        }
        other => panic!("a cache of terabytes was allocated or refused oddly: {other:?}"),
    }
}

#[test]
fn every_byte_allocated_is_counted_and_freed() {
    let Some(_alone) = device() else { return };
    let model = Model::synthetic("tiny", Variant::Q4_K, 1).expect("a shape");
    let mut engine = engine(&model, 2, Path::Plain);
    let held = engine.held().device_bytes.expect("device bytes");
    let (free, _) = engine.device_memory().expect("memory");
    for _ in 0..20 {
        step(&mut engine, &[(0, vec![1]), (1, vec![2, 3])]);
    }
    assert_eq!(engine.held().device_bytes, Some(held), "the loop allocates");
    let (free_after, _) = engine.device_memory().expect("memory");
    assert_eq!(free, free_after, "the device's free memory changed during the loop");
    assert!(held > model.weight_bytes(), "{held} bytes held, weights alone are {}", model.weight_bytes());
}

/// In a process of its own: the device is lost to it afterwards.
#[test]
fn a_fault_on_the_device_is_a_typed_error_with_the_drivers_number() {
    let Some((device, _alone)) = device() else { return };
    if std::env::var_os("SOAKD_TEST_FAULT").is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
        let name = "a_fault_on_the_device_is_a_typed_error_with_the_drivers_number";
        let out = child.args(["--exact", name]).env("SOAKD_TEST_FAULT", "1").output().expect("a child");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        return;
    }
    match cuda::check::fault(device) {
        Err(EngineError::Device { operation, code, name }) => {
            assert_eq!((code, name.as_str()), (700, "CUDA_ERROR_ILLEGAL_ADDRESS"), "{operation}");
        }
        other => panic!("an illegal address gave {other:?}"),
    }
}

/// Sixteen columns of types whose stages are large: the ring is at its shallowest.
#[test]
fn a_shallow_ring_gives_the_same_bits_in_any_company() {
    let Some(_alone) = device() else { return };
    if cuda::devices().expect("devices")[0].compute < (9, 0) {
        return;
    }
    let seed = seed();
    let dims = Dims { layers: 2, width: 2048, feed_forward: 7168, heads: 16, kv_heads: 4, ..persistent_dims()[0] };
    for ty in [BlockType::Q6_K, BlockType::Q8_0] {
        let model = model(dims, seed, |_| ty);
        company_changes_nothing(&model, Path::Persistent, seed);
    }
}
