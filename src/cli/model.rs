//! `soakd model`: models by themselves. Writes synthetic ones, shows what is in a file, prints logits.
//!
//! The only command that asks the engine directly: nothing here soaks, so no worker stands between.

use super::{CannotStart, Done, Format, Outcome};
use crate::engine::gguf::{self, Value};
use crate::engine::weights::Model;
use crate::engine::{Backend, Feed, LoadOptions, Variant, load, synth};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Write a synthetic model, look into a file, or print logits.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd model synth small --variant q5_k_m --out small.gguf
  soakd model inspect small.gguf
  soakd model logits small.gguf --tokens 1,17,300 --backend cpu | jq '.logits | length'")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write a synthetic model as a GGUF file that any llama engine reads.
    Synth(SynthArgs),
    /// List metadata, tensors, types and bytes of a GGUF file or a synthetic model.
    Inspect(InspectArgs),
    /// Feed tokens and print the logits of the last position as JSON.
    Logits(LogitsArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd model synth tiny --out tiny.gguf
  soakd model synth 8b --variant hybrid --seed 7 --out /tmp/8b.gguf

The same shape, variant and seed always give the same bytes, here and generated on a GPU.")]
struct SynthArgs {
    /// tiny, small, 8b or 22b
    shape: String,
    /// q2_k, q4_k, q5_k_m, q6_k, q8_0 or hybrid
    #[arg(long, default_value_t = Variant::Q4_K)]
    variant: Variant,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write; a file that is there is replaced only with --force
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd model inspect SmolLM2-135M-Instruct.Q4_1.gguf
  soakd model inspect synthetic:22b --variant hybrid
  soakd model inspect model.gguf --format json | jq '.tensors[] | select(.type == \"Q6_K\") | .name'")]
struct InspectArgs {
    /// A GGUF file, or synthetic:NAME
    model: String,
    /// Of a synthetic model
    #[arg(long, default_value_t = Variant::Q4_K)]
    variant: Variant,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd model logits model.gguf --tokens 1,17,300
  soakd model logits synthetic:tiny --tokens 1,2 --backend cuda

Prints {\"logits\": [...]}: one number for each token of the vocabulary, for the position after the last token.")]
struct LogitsArgs {
    /// A GGUF file, or synthetic:NAME
    model: String,
    /// Token ids to feed, first to last
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// cpu, cuda, or cuda:N for the N-th device
    #[arg(long, default_value = "cpu", value_parser = parse_backend)]
    backend: Backend,
    /// CPU threads; 0: one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Of a synthetic model
    #[arg(long, default_value_t = Variant::Q4_K)]
    variant: Variant,
    /// Of a synthetic model
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn parse_backend(text: &str) -> Result<Backend, String> {
    match text {
        "cpu" => Ok(Backend::Cpu),
        "cuda" => Ok(Backend::Cuda { device: 0 }),
        other => other
            .strip_prefix("cuda:")
            .and_then(|ordinal| ordinal.parse().ok())
            .map(|device| Backend::Cuda { device })
            .ok_or_else(|| format!("{other:?} is none of cpu, cuda and cuda:N")),
    }
}

/// Does what the subcommand says.
pub fn execute(args: &Args) -> Done {
    match &args.what {
        What::Synth(args) => synth(args),
        What::Inspect(args) => inspect(args),
        What::Logits(args) => logits(args),
    }
}

fn synth(args: &SynthArgs) -> Done {
    let shape = args.shape.strip_prefix("synthetic:").unwrap_or(&args.shape);
    let model = Model::synthetic(shape, args.variant, args.seed).map_err(CannotStart::because)?;
    let shown = args.out.display();
    if args.out.exists() && !args.force {
        return Err(CannotStart(format!("{shown} is there already; choose another name, or replace it with --force")));
    }
    write_then_rename(&args.out, |out| {
        synth::write_gguf(shape, args.variant, args.seed, out).map_err(CannotStart::because)
    })?;
    println!(
        "{shown}: {} as {}, {} in {} tensors",
        model.name,
        args.variant,
        mb(model.weight_bytes()),
        model.tensors.len()
    );
    Ok(Outcome::Passed)
}

/// Writes beside the goal and renames, so that a full disk or a Ctrl-C leaves no half model under the final name.
fn write_then_rename(
    goal: &Path,
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), CannotStart>,
) -> Result<(), CannotStart> {
    let mut partial = goal.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let fault = |error: std::io::Error| {
        CannotStart(format!("{}: cannot be written: {error}; choose another folder with --out", goal.display()))
    };
    let file = std::fs::File::create(&partial).map_err(fault)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    let written = write(&mut out).and_then(|()| out.flush().map_err(fault));
    let renamed = written.and_then(|()| std::fs::rename(&partial, goal).map_err(fault));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&partial); // the first error is the one to tell
    }
    renamed
}

fn inspect(args: &InspectArgs) -> Done {
    // A file is shown even if its model cannot be run: then the reason stands where the summary would.
    let header = if args.model.starts_with("synthetic:") {
        None
    } else {
        Some(gguf::File::open(Path::new(&args.model)).map_err(CannotStart::because)?.header)
    };
    let model = Model::open(&args.model, args.variant, 1);
    if header.is_none()
        && let Err(error) = &model
    {
        return Err(CannotStart::because(error));
    }
    match args.format {
        Format::Json => println!("{}", inspect_json(header.as_ref(), model.as_ref())),
        Format::Text => print!("{}", inspect_text(header.as_ref(), model.as_ref())),
    }
    Ok(if model.is_ok() { Outcome::Passed } else { Outcome::Failed })
}

/// Tensors of the file, or of the synthetic model: name, type, dimensions, bytes.
fn tensors<E>(header: Option<&gguf::Header>, model: Result<&Model, &E>) -> Vec<(String, &'static str, Vec<u64>, u64)> {
    match (header, model) {
        (Some(header), _) => {
            header.tensors.iter().map(|t| (t.name.clone(), t.ty.name(), t.dims.clone(), t.bytes as u64)).collect()
        }
        (None, Ok(model)) => {
            let dims = |cols: usize, rows: usize| vec![cols as u64, rows as u64];
            model.tensors.iter().map(|t| (t.name.clone(), t.ty.name(), dims(t.cols, t.rows), t.bytes as u64)).collect()
        }
        (None, Err(_)) => Vec::new(),
    }
}

fn inspect_json<E: std::fmt::Display>(header: Option<&gguf::Header>, model: Result<&Model, &E>) -> serde_json::Value {
    use serde_json::{Map, json};
    let metadata: Map<String, serde_json::Value> = header
        .map_or(&[][..], |header| &header.metadata)
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Unsigned(n) => json!(n),
                Value::Signed(n) => json!(n),
                Value::Float(x) => json!(x),
                Value::Bool(b) => json!(b),
                Value::Text(text) => json!(text),
                Value::Array { count, .. } => json!({ "array_of": count }),
            };
            (key.clone(), value)
        })
        .collect();
    let tensors: Vec<_> = tensors(header, model)
        .into_iter()
        .map(|(name, ty, dims, bytes)| json!({ "name": name, "type": ty, "dims": dims, "bytes": bytes }))
        .collect();
    let mut all = json!({ "metadata": metadata, "tensors": tensors });
    match model {
        Ok(model) => {
            let arch = &model.arch;
            all["model"] = json!({
                "name": model.name, "layers": arch.layers, "width": arch.width, "feed_forward": arch.feed_forward,
                "heads": arch.heads, "kv_heads": arch.kv_heads, "head_width": arch.head_width, "vocab": arch.vocab,
                "context_tokens": arch.context_tokens, "types": model.types(),
                "weight_bytes": model.weight_bytes(), "weight_bytes_per_token": model.weight_bytes_per_token(),
            });
        }
        Err(error) => all["cannot_run"] = json!(error.to_string()),
    }
    all
}

fn inspect_text<E: std::fmt::Display>(header: Option<&gguf::Header>, model: Result<&Model, &E>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    if let Some(header) = header {
        let _ = writeln!(text, "GGUF version {}, {} keys", header.version, header.metadata.len());
        for (key, value) in &header.metadata {
            let _ = writeln!(text, "  {key} = {}", value_text(value));
        }
    }
    let tensors = tensors(header, model);
    let _ = writeln!(text, "{} tensors", tensors.len());
    let longest = tensors.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, ty, dims, bytes) in tensors {
        let shape: Vec<String> = dims.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "  {name:longest$}  {ty:5} {:>15} {bytes:>13} bytes", shape.join(" × "));
    }
    let _ = match model {
        Ok(model) => {
            let arch = &model.arch;
            writeln!(
                text,
                "{}\n  {} layers, width {}, feed-forward {}, {} heads of {} ({} key/value heads), vocabulary {}, context {}\n  \
                 {}\n  {} of weights, {} read to decode one token",
                model.name,
                arch.layers,
                arch.width,
                arch.feed_forward,
                arch.heads,
                arch.head_width,
                arch.kv_heads,
                arch.vocab,
                arch.context_tokens,
                model.types(),
                mb(model.weight_bytes()),
                mb(model.weight_bytes_per_token()),
            )
        }
        Err(error) => writeln!(text, "cannot be run: {error}"),
    };
    text
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Array { count, .. } => format!("[{count} values]"),
        Value::Text(text) => {
            let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
            if line.chars().count() < text.chars().count() { format!("{line}…") } else { line }
        }
    }
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn logits(args: &LogitsArgs) -> Done {
    let mut engine = load(&LoadOptions {
        model: args.model.clone(),
        backend: args.backend,
        variant: args.variant,
        slots: 1,
        context_tokens: None,
        threads: args.threads,
        seed: args.seed,
    })
    .map_err(CannotStart::because)?;
    let mut next = Vec::new();
    engine.step(&[Feed { slot: 0, tokens: &args.tokens }], &mut next).map_err(CannotStart::because)?;
    let logits = engine.logits(0).map_err(CannotStart::because)?;
    println!("{}", serde_json::json!({ "logits": logits }));
    Ok(Outcome::Passed)
}
