//! Text to raw to resolved configuration.
