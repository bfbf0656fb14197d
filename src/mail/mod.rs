//! Outbox row to delivered, retry or permanent failure.
