//! Mails as `.eml` files in a folder: the default, which needs no server and which every mail reader opens.
//!
//! A file appears whole or not at all, and its name comes from the Message-ID, so a repeat replaces the first.

use super::Carrier;
use super::message::Parcel;
use super::outcome::Attempt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes mails into a folder.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder is made when the first mail comes.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Folder { path }
    }

    /// Where the mails go.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, parcel: &Parcel) -> io::Result<PathBuf> {
        std::fs::create_dir_all(&self.path)?;
        let name = format!("{}-{:08x}.eml", parcel.file_stem, fnv1a(parcel.message_id.as_bytes()));
        let (draft, path) = (self.path.join(format!(".{name}.part")), self.path.join(&name));
        let mut file = File::create(&draft)?;
        file.write_all(&parcel.bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        File::open(&self.path)?.sync_all()?; // the rename itself survives a power cut
        Ok(path)
    }
}

impl Carrier for Folder {
    async fn send(&mut self, parcel: &Parcel) -> Attempt {
        match self.write(parcel) {
            Ok(path) => Attempt::delivered(&parcel.to, format!("written to {}", path.display())),
            Err(error) => Attempt::retry(format!("writing into the mail folder {}: {error}", self.path.display())),
        }
    }

    async fn rest(&mut self) {}
}

/// FNV-1a, 32 bits: names files, guards nothing.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
