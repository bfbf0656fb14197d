//! Facts to text, HTML and plots. Pure: everything that is said comes in as plain facts, the time included.

pub mod bench;
mod chart_rows;
pub mod docs;
mod docs_tables;
mod fits;
pub mod fleet;
pub mod forest;
pub mod gates;
pub mod html;
pub mod json;
pub mod mail;
pub mod metrics;
pub mod page;
pub mod plot;
pub mod png;
pub mod roofline;
pub mod scale;
pub mod scene;
pub mod svg;
pub mod term;
pub mod text;
pub mod words;

#[cfg(test)]
mod plot_tests;
