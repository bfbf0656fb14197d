//! The model: does it open, does its context hold a prompt and its answer, do its weights fit into memory.

use super::Findings;
use crate::config::{Backend, Config};
use crate::engine::EngineError;
use crate::engine::recipe::Variant;
use crate::engine::weights::Model;
use crate::probe::cgroup;
use crate::probe::host;
use std::path::Path;

const CHECK: &str = "model";

/// The configured model's header and tensor table; no weight is read.
pub(in crate::cli) fn open(config: &Config) -> Result<Model, EngineError> {
    let wanted = &config.model;
    let variant = Variant::ALL.into_iter().find(|variant| variant.name() == wanted.variant.as_str());
    let variant = variant.expect("configuration and engine name the same variants");
    Model::open(&wanted.model, variant, config.run.seed.unsigned_abs())
}

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let wanted = &config.model;
    let model = match open(config) {
        Ok(model) => model,
        Err(error) => {
            let remedy = "give a llama-architecture GGUF file or synthetic:small; `soakd model inspect FILE` shows what is in one";
            return findings.blocker(CHECK, error.to_string(), remedy);
        }
    };
    let (context, has) = (config.model.context(), model.arch.context_tokens as i64);
    if context > has {
        let what = format!("{}: a context of {context} tokens is wanted, and it was made for {has}", wanted.model);
        findings.blocker(CHECK, what, "lower model.prompt_tokens, model.answer_tokens or model.context_tokens");
    }
    let megabytes = model.weight_bytes() / 1_000_000;
    findings.ok(CHECK, format!("{}: {}, {megabytes} MB of weights", wanted.model, model.types()));
    if wanted.backend != Backend::Cuda {
        memory(model.weight_bytes(), findings);
    }
}

/// Weights on the CPU live in memory (generated) or in the page cache (mapped): both must fit.
fn memory(weight_bytes: u64, findings: &mut Findings) {
    let available = host::read(Path::new("/")).memory_available_bytes;
    let group = cgroup::read(&cgroup::own());
    let limit = group.present().and_then(|group| Some(group.memory_max_bytes? - group.memory_current_bytes?));
    let Some(free) = available.into_iter().chain(limit).min() else {
        return findings.warning("memory", "the free memory cannot be read", "watch it yourself");
    };
    let needed = i64::try_from(weight_bytes).unwrap_or(i64::MAX);
    let facts = format!("{} MB available, the weights take {} MB on the CPU", free / 1_000_000, needed / 1_000_000);
    if free < needed {
        findings.blocker("memory", facts, "choose a smaller model or variant, or free some memory");
    } else {
        findings.ok("memory", facts);
    }
}
