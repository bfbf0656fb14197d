//! The child process that does the inference, and its protocol.
