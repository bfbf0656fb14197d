//! Facts to text, HTML and plots.
