//! From a plan to a loaded engine: which back end, and what to do when it is not there. The engine itself does the rest.

use super::process::Opened;
use super::protocol::LoadPlan;
use crate::engine::{self, Backend, EngineError, LoadOptions, Variant};

/// Opens the model of `plan`. `auto` takes the GPU if there is one that works and says why if it does not; `cuda` takes
/// the GPU or fails, unless the plan allows the CPU.
pub fn open(plan: &LoadPlan) -> Result<Opened, EngineError> {
    let gpu = Backend::Cuda { device: plan.device };
    match plan.backend.as_str() {
        "cpu" => load(plan, Backend::Cpu, None),
        "cuda" => match load(plan, gpu, None) {
            Err(error) if plan.fallback_to_cpu => load(plan, Backend::Cpu, Some(error.to_string())),
            opened => opened,
        },
        _ => match load(plan, gpu, None) {
            // There is a driver and it failed: that is news. That there is no GPU at all is what `auto` is for.
            Err(error @ EngineError::Device { .. }) => load(plan, Backend::Cpu, Some(error.to_string())),
            Err(EngineError::Request(_)) => load(plan, Backend::Cpu, None),
            opened => opened,
        },
    }
}

fn load(plan: &LoadPlan, backend: Backend, fallback: Option<String>) -> Result<Opened, EngineError> {
    let variant = Variant::ALL
        .into_iter()
        .find(|variant| variant.name() == plan.variant)
        .ok_or_else(|| EngineError::Request(format!("unknown variant {:?}", plan.variant)))?;
    let options = LoadOptions {
        model: plan.model.clone(),
        backend,
        variant,
        slots: plan.streams.max(1),
        context_tokens: (plan.context_tokens > 0).then_some(plan.context_tokens),
        threads: plan.threads,
        seed: plan.seed,
    };
    let engine = engine::load(&options)?;
    let backend = match backend {
        Backend::Cpu => "cpu",
        Backend::Cuda { .. } => "cuda",
    };
    Ok(Opened { engine, backend: backend.to_owned(), fallback })
}
