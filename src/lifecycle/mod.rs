//! State machines of a run and of a worker.
