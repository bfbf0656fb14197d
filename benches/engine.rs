//! Decoding speed of the CPU engine beside candle's quantized llama, on the same file, in one run, interleaved.
//!
//! ```text
//! cargo bench --bench engine -- FILE.gguf [ROUNDS] [TOKENS]
//! ```
//! Without a file, `synthetic:small` is written to a temporary one. Each round decodes TOKENS tokens with soakd and the
//! same number with candle (which goes first alternates), after a warm-up, so that whatever else the machine does meets
//! both. Wall-clock and processor time are both shown: on a busy machine the second is the fairer one.

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use soakd::engine::cpu::Isa;
use soakd::engine::{Engine, Feed, LoadOptions, Variant, greedy, load, synth};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens that are fed as the prompt.
const PROMPT: [u32; 8] = [1, 17, 300, 5, 21, 2, 9, 4];

/// Something that decodes one token after another.
trait Decoder {
    fn restart(&mut self) -> u32;
    fn next(&mut self, token: u32) -> u32;
}

struct Candle {
    model: ModelWeights,
    position: usize,
}

impl Candle {
    fn open(path: &Path) -> Candle {
        let mut file = std::fs::File::open(path).expect("the model");
        let content = gguf_file::Content::read(&mut file).expect("GGUF");
        let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("a llama");
        Candle { model, position: 0 }
    }

    fn feed(&mut self, tokens: &[u32]) -> u32 {
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|tokens| tokens.unsqueeze(0)).expect("tokens");
        let logits = self.model.forward(&input, self.position).and_then(|logits| logits.flatten_all());
        self.position += tokens.len();
        greedy(&logits.and_then(|logits| logits.to_vec1()).expect("logits"))
    }
}

impl Decoder for Candle {
    fn restart(&mut self) -> u32 {
        self.model.clear_kv_cache();
        self.position = 0;
        self.feed(&PROMPT)
    }

    fn next(&mut self, token: u32) -> u32 {
        self.feed(&[token])
    }
}

struct Soakd(Box<dyn Engine>);

impl Soakd {
    fn feed(&mut self, tokens: &[u32]) -> u32 {
        let mut out = Vec::with_capacity(1);
        self.0.step(&[Feed { slot: 0, tokens }], &mut out).expect("a step");
        out[0].token
    }
}

impl Decoder for Soakd {
    fn restart(&mut self) -> u32 {
        self.0.reset(0);
        self.feed(&PROMPT)
    }

    fn next(&mut self, token: u32) -> u32 {
        self.feed(&[token])
    }
}

/// Wall-clock and processor seconds a token.
fn measure(decoder: &mut dyn Decoder, tokens: usize) -> (f64, f64) {
    let mut token = decoder.restart();
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    for _ in 0..tokens {
        token = decoder.next(token);
    }
    (wall.elapsed().as_secs_f64() / tokens as f64, (cpu_seconds() - cpu) / tokens as f64)
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("getrusage");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = args.next().map_or_else(|| small(folder.path()), PathBuf::from);
    let rounds = args.next().map_or(7, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let tokens = args.next().map_or(48, |tokens| tokens.parse().expect("TOKENS is a number"));

    let options = LoadOptions { model: path.display().to_string(), ..LoadOptions::default() };
    let mut soakd = Soakd(load(&options).expect("a model"));
    let mut candle = Candle::open(&path);
    let facts = soakd.0.facts().clone();
    println!("{}: {}", facts.name, facts.types);
    println!(
        "{:.1} MB read a token; {} on {} cores; {rounds} rounds of {tokens} tokens",
        facts.weight_bytes_per_token as f64 / 1e6,
        Isa::detected().name(),
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
    );
    measure(&mut soakd, 8);
    measure(&mut candle, 8);
    let (mut ours, mut theirs) = ((vec![], vec![]), (vec![], vec![]));
    let (mut wall_ratio, mut cpu_ratio) = (vec![], vec![]);
    for round in 0..rounds {
        let (a, b) = if round % 2 == 0 {
            let a = measure(&mut soakd, tokens);
            (a, measure(&mut candle, tokens))
        } else {
            let b = measure(&mut candle, tokens);
            (measure(&mut soakd, tokens), b)
        };
        println!(
            "round {round}: soakd {:7.1} tok/s ({:5.2} cpu ms), candle {:7.1} tok/s ({:5.2} cpu ms)",
            1.0 / a.0,
            a.1 * 1e3,
            1.0 / b.0,
            b.1 * 1e3
        );
        ours.0.push(a.0);
        ours.1.push(a.1);
        theirs.0.push(b.0);
        theirs.1.push(b.1);
        wall_ratio.push(b.0 / a.0);
        cpu_ratio.push(b.1 / a.1);
    }
    let speed = |seconds: &mut Vec<f64>| 1.0 / median(seconds);
    println!(
        "median: soakd {:.1} tok/s ({:.1} GB/s), candle {:.1} tok/s: {:.2} times as fast by the clock, {:.2} by processor time",
        speed(&mut ours.0),
        speed(&mut ours.0) * facts.weight_bytes_per_token as f64 / 1e9,
        speed(&mut theirs.0),
        median(&mut wall_ratio),
        median(&mut cpu_ratio)
    );
}

fn small(folder: &Path) -> PathBuf {
    let path = folder.join("small.gguf");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a temporary file"));
    synth::write_gguf("small", Variant::Q4_K, 1, &mut file).expect("a synthetic model");
    path
}
