//! Facts to text, HTML and plots.

pub mod mail;
