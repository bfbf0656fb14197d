//! Facts to text, HTML and plots. Pure: everything that is said comes in as plain facts, the time included.

pub mod fleet;
pub mod mail;
pub mod plot;
pub mod png;
pub mod scale;
pub mod scene;
pub mod svg;
pub mod term;

#[cfg(test)]
mod plot_tests;
