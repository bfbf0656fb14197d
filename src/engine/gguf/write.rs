//! Writing GGUF version 3, tensor by tensor, without holding a model in memory.

use super::{ALIGNMENT_DEFAULT, MAGIC, Value};
use crate::engine::block::BlockType;
use std::io::{self, Write};

/// A tensor to be written: name, type, dimensions (row length first).
#[derive(Debug, Clone)]
pub struct Planned {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its weights are stored.
    pub ty: BlockType,
    /// Row length first.
    pub dims: Vec<u64>,
}

impl Planned {
    fn bytes(&self) -> io::Result<u64> {
        let rows: u64 = self.dims[1..].iter().product();
        self.ty
            .row_bytes(self.dims[0])
            .map(|row| row * rows)
            .ok_or_else(|| io::Error::other(format!("{}: {:?} does not fit {}", self.name, self.dims, self.ty)))
    }
}

/// A GGUF file whose header is written and whose tensors follow in the planned order.
pub struct Writer<W: Write> {
    out: W,
    planned: Vec<Planned>,
    next: usize,
    /// Bytes of tensor `next` so far.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header: metadata and the table of the `planned` tensors.
    pub fn new(mut out: W, metadata: &[(&str, Value)], planned: Vec<Planned>) -> io::Result<Self> {
        let mut head = Vec::new();
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&3_u32.to_le_bytes());
        head.extend_from_slice(&(planned.len() as u64).to_le_bytes());
        head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(&mut head, key);
            put_value(&mut head, value)?;
        }
        let mut offset = 0_u64;
        for tensor in &planned {
            text(&mut head, &tensor.name);
            head.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                head.extend_from_slice(&dim.to_le_bytes());
            }
            head.extend_from_slice(&tensor.ty.gguf_id().to_le_bytes());
            head.extend_from_slice(&offset.to_le_bytes());
            offset += tensor.bytes()?.next_multiple_of(ALIGNMENT_DEFAULT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        out.write_all(&head)?;
        Ok(Writer { out, planned, next: 0, written: 0 })
    }

    /// Writes the next bytes of the tensor that is due; pads when it is whole.
    pub fn part(&mut self, bytes: &[u8]) -> io::Result<()> {
        let tensor = self.planned.get(self.next).ok_or_else(|| io::Error::other("more tensors than were planned"))?;
        let whole = tensor.bytes()?;
        self.written += bytes.len() as u64;
        if self.written > whole {
            return Err(io::Error::other(format!("{}: {} bytes given of {whole}", tensor.name, self.written)));
        }
        self.out.write_all(bytes)?;
        if self.written == whole {
            self.next += 1;
            self.written = 0;
            let padding = whole.next_multiple_of(ALIGNMENT_DEFAULT) - whole;
            self.out.write_all(&[0; ALIGNMENT_DEFAULT as usize][..padding as usize])?;
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<W> {
        if self.next != self.planned.len() || self.written != 0 {
            return Err(io::Error::other("fewer tensors than were planned"));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A whole small file at once.
pub fn write(metadata: &[(&str, Value)], tensors: &[(Planned, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let planned = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = Writer::new(Vec::new(), metadata, planned)?;
    for (_, bytes) in tensors {
        writer.part(bytes)?;
    }
    writer.finish()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Integers are written as u32 where they fit (what other readers expect of counts), floats as f32.
fn put_value(out: &mut Vec<u8>, value: &Value) -> io::Result<()> {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Unsigned(n) => match u32::try_from(*n) {
            Ok(n) => put(4, &n.to_le_bytes()),
            Err(_) => put(10, &n.to_le_bytes()),
        },
        Value::Signed(n) => put(11, &n.to_le_bytes()),
        Value::Float(x) => put(6, &(*x as f32).to_le_bytes()),
        Value::Bool(b) => put(7, &[u8::from(*b)]),
        Value::Text(s) => {
            out.extend_from_slice(&8_u32.to_le_bytes());
            text(out, s);
        }
        Value::Array { .. } => return Err(io::Error::other("arrays are not written")),
    }
    Ok(())
}
