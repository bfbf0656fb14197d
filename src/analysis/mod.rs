//! Samples to findings: the drift regression and its verdict.
