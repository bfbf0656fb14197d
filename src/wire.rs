//! The framed, versioned protocol between soakd and its children: how bytes become messages, not which messages.
//!
//! A frame is `"SKD"`, one version byte, the payload's length as u32 little-endian, a CRC-32 of the payload as u32
//! little-endian, and the payload: one JSON value. Whatever else arrives (a library that prints to stdout, a child gone
//! mad) is a [`WireError`], which the caller books as a fault of the child. Nothing here allocates more than
//! [`PAYLOAD_BYTES_MAX`] for a child, however long a length it claims.

use serde::{Serialize, de::DeserializeOwned};

/// First bytes of every frame.
const MAGIC: [u8; 3] = *b"SKD";
/// Version of the messages. Children are the same binary, so a mismatch means that the file was replaced under a run.
pub const VERSION: u8 = 1;
/// Header: magic, version, length, checksum.
const HEADER_BYTES: usize = 12;
/// Longest payload. The largest real message (a minute's histograms of 16 streams) is under 200 kB.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Of what is said about a payload that is no message.
const ERROR_CHARS_MAX: usize = 400;

/// What is wrong with a child's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a frame at all.
    #[error("expected a frame, got the bytes {0:02x?}")]
    Garbled(Vec<u8>),
    /// Another version of soakd.
    #[error(
        "the child speaks protocol version {0}, this soakd speaks {VERSION}: the binary was replaced during the run"
    )]
    Version(u8),
    /// A length that no message has.
    #[error("a frame of {0} bytes was announced; the longest allowed is {PAYLOAD_BYTES_MAX}")]
    Oversized(u32),
    /// The payload changed on its way.
    #[error("checksum mismatch in a frame of {0} bytes")]
    Checksum(usize),
    /// JSON, but not one of the messages.
    #[error("a frame that is no known message: {0}")]
    Message(String),
}

/// One frame around `message`.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let payload = serde_json::to_vec(message).expect("messages are plain data and always serialise");
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.push(VERSION);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32(&payload).to_le_bytes());
    frame.extend_from_slice(&payload);
    frame
}

/// Bytes in, messages out. After an error the stream cannot be trusted again: end the child.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Appends what was read. Call [`Decoder::next`] until it gives `None` before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes come.
    #[allow(clippy::should_implement_trait)] // fallible, and typed by the caller
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let seen = self.bytes.len().min(MAGIC.len());
        if self.bytes[..seen] != MAGIC[..seen] {
            return Err(WireError::Garbled(self.bytes.iter().copied().take(16).collect()));
        }
        if self.bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        if self.bytes[3] != VERSION {
            return Err(WireError::Version(self.bytes[3]));
        }
        let word = |at: usize| u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"));
        let (length, checksum) = (word(4), word(8));
        if length as usize > PAYLOAD_BYTES_MAX {
            return Err(WireError::Oversized(length));
        }
        let end = HEADER_BYTES + length as usize;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let payload = &self.bytes[HEADER_BYTES..end];
        if crc32(payload) != checksum {
            return Err(WireError::Checksum(payload.len()));
        }
        // What serde says may quote the payload, and this goes into a log and an event.
        let said = |error: serde_json::Error| error.to_string().chars().take(ERROR_CHARS_MAX).collect();
        let message = serde_json::from_slice(payload).map_err(|error| WireError::Message(said(error)))?;
        self.bytes.drain(..end);
        Ok(Some(message))
    }
}

/// CRC-32 (IEEE 802.3, reflected, as in zlib), a nibble at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = [
        0x0000_0000,
        0x1db7_1064,
        0x3b6e_20c8,
        0x26d9_30ac,
        0x76dc_4190,
        0x6b6b_51f4,
        0x4db2_6158,
        0x5005_713c,
        0xedb8_8320,
        0xf00f_9344,
        0xd6d6_a3e8,
        0xcb61_b38c,
        0x9b64_c2b0,
        0x86d3_d2d4,
        0xa00a_e278,
        0xbdbd_f21c,
    ];
    !bytes.iter().fold(!0u32, |crc, &byte| {
        let crc = crc ^ u32::from(byte);
        let crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        (crc >> 4) ^ TABLE[(crc & 15) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn frames_survive_any_split() {
        let stream: Vec<u8> = (0..20u32).flat_map(|i| encode(&vec![i; i as usize])).collect();
        for step in 1..40 {
            let (mut decoder, mut got) = (Decoder::default(), Vec::<Vec<u32>>::new());
            for chunk in stream.chunks(step) {
                decoder.push(chunk);
                while let Some(message) = decoder.next().expect("valid") {
                    got.push(message);
                }
            }
            assert_eq!(got, (0..20u32).map(|i| vec![i; i as usize]).collect::<Vec<_>>(), "split every {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_at_once() {
        let cases: [(&str, Vec<u8>); 5] = [
            ("printf in the child", b"hello".to_vec()),
            ("another version", {
                let mut f = encode(&1);
                f[3] = 9;
                f
            }),
            ("a length of 4 GiB", {
                let mut f = encode(&1);
                f[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
                f
            }),
            ("a flipped bit", {
                let mut f = encode(&12345);
                let n = f.len();
                f[n - 1] ^= 1;
                f
            }),
            ("another type", encode(&"text")),
        ];
        for (what, bytes) in cases {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            assert!(decoder.next::<u32>().is_err(), "{what} must be an error");
        }
    }
}
