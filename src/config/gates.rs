//! `[gates]`: by which bounds a run is judged. What the bounds mean is `report::gates`'.

use super::raw::Choice;
use serde::Serialize;
use std::collections::BTreeMap;

/// `[gates]`: the bounds that `soakd gate`, the report and the documents judge by.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Gates {
    /// Which profile that ships.
    pub profile: GateProfile,
    /// Figure to bound, such as `token_p95_ms` to `<= 40`; in place of the profile's bound on the same figure.
    pub bounds: BTreeMap<String, String>,
}

/// A set of gates that ships.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GateProfile {
    /// `roadmap` in the report of a run on a GPU, nothing in that of a run on a CPU.
    #[default]
    Auto,
    /// `gates/roadmap.toml`.
    Roadmap,
    /// Only one's own.
    None,
}

impl Choice for GateProfile {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", GateProfile::Auto), ("roadmap", GateProfile::Roadmap), ("none", GateProfile::None)];
}
