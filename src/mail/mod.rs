//! Outbox row to delivered, retry or permanent failure.
//!
//! [`Courier`] takes the rows in order, [`compose`] makes each a MIME message, a [`Carrier`] (a folder, SMTP, sendmail)
//! hands it over, and the [`Outcome`] says what to write back. Where the outbox lives, what a mail says and how its
//! picture is drawn are others' affairs: they come in through the [`Outbox`] trait.
//!
//! The promise: every mail reaches the server at least once, in the order of its route; a repeat happens only where the
//! server's answer was lost, and carries the same Message-ID.

mod backoff;
mod courier;
mod deaddisk;
mod deadman;
mod folder;
mod message;
mod outcome;
mod secret;
mod sendmail;
mod settings;
mod smtp;

pub use backoff::Backoff;
pub use courier::{Courier, Outbox, Retry, Round, Settled, Waiting};
pub use deaddisk::{DeadDisk, DiskWord};
pub use deadman::{Deadman, Pulse, Word};
pub use folder::Folder;
pub use message::{ComposeError, Parcel, compose};
pub use outcome::{Attempt, Outcome};
pub use secret::{Secret, SecretError};
pub use sendmail::Sendmail;
pub use settings::{Account, Routes, Security, SettingsError, Smtp as SmtpSettings, Timeouts};
pub use smtp::Smtp;

use std::future::Future;

/// Hands a mail over to whoever brings it on.
pub trait Carrier {
    /// Tries once. Never takes longer than the carrier's own time limits.
    fn send(&mut self, parcel: &Parcel) -> impl Future<Output = Attempt>;

    /// Called when nothing is left to send for now: ends what is kept open.
    fn rest(&mut self) -> impl Future<Output = ()>;
}

/// One of the three ways that can be configured.
pub enum AnyCarrier {
    /// Files in a folder.
    Folder(Folder),
    /// An SMTP server.
    Smtp(Box<Smtp>),
    /// The local `sendmail` program.
    Sendmail(Sendmail),
}

impl Carrier for AnyCarrier {
    async fn send(&mut self, parcel: &Parcel) -> Attempt {
        match self {
            AnyCarrier::Folder(carrier) => carrier.send(parcel).await,
            AnyCarrier::Smtp(carrier) => carrier.send(parcel).await,
            AnyCarrier::Sendmail(carrier) => carrier.send(parcel).await,
        }
    }

    async fn rest(&mut self) {
        match self {
            AnyCarrier::Folder(carrier) => carrier.rest().await,
            AnyCarrier::Smtp(carrier) => carrier.rest().await,
            AnyCarrier::Sendmail(carrier) => carrier.rest().await,
        }
    }
}
