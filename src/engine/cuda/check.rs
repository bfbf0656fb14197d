//! Single operations on the device, for tests that hold them against the CPU's definitions.

use super::driver::{Buffer, Device, Module, launch};
pub use super::persistent::Layout as StepLayout;
use super::tiles::{COLS, ROWS, tile_bytes};
use super::upload::Uploader;
use super::{PLAIN_PTX, persistent, step_ptx};
use crate::engine::EngineError;
use crate::engine::block::BlockType;
use crate::engine::weights::Model;

/// `rows` rows of `cols` weights of type `ty` as floats, by the device's dequantisation.
pub fn dequantize(device: u32, ty: BlockType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Vec<f32>, EngineError> {
    let device = Device::open(device)?;
    device.enter()?;
    let module = Module::new(&device, "plain", PLAIN_PTX)?;
    let kernel = module.function("dequantize")?;
    let source = Buffer::of(&device, "blocks", bytes)?;
    let out = Buffer::filled(&device, "floats", (rows * cols * 4) as u64, u32::MAX)?;
    let grid = ((cols as u32).div_ceil(256 * 8), rows as u32);
    launch!(device, kernel, grid, 256, 0; ty.gguf_id() as i32, source.at(), (bytes.len() / rows) as u64, cols as i32, out.at())?;
    let mut floats = vec![0.0_f32; rows * cols];
    out.download(0, &mut floats)?;
    Ok(floats)
}

/// The tiles of a matrix as the device packs them; `stride` and `offset` as for gate (2, 0) and up (2, 1).
pub fn pack(
    device: u32,
    ty: BlockType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
    stride: usize,
    offset: usize,
) -> Result<Vec<u8>, EngineError> {
    let device = Device::open(device)?;
    device.enter()?;
    let uploader = Uploader::new(&device)?;
    let groups = rows.div_ceil(ROWS);
    let size = groups * stride * (cols / COLS) * tile_bytes(ty);
    let source = Buffer::of(&device, "blocks", bytes)?;
    let tiles = Buffer::filled(&device, "tiles", size as u64, 0)?;
    let (supers, groups) = ((cols / COLS) as i32, groups as i32);
    let grid = (((groups * supers) as u32).div_ceil(4), 1);
    launch!(device, uploader.pack, grid, 128, 0;
        ty.gguf_id() as i32, source.at(), rows as i32, supers, groups, stride as i32, offset as i32, tiles.at())?;
    let mut out = vec![0_u8; size];
    tiles.download(0, &mut out)?;
    Ok(out)
}

/// For 1, 8 and 16 columns: stages of the step kernel's ring, and bytes of shared memory, on a chip of so many multiprocessors with so
/// much shared memory a block. Needs no device: `layout` is what the PTX's `step_layout` stores.
pub fn rings(model: &Model, multiprocessors: u32, shared_max: usize, layout: &StepLayout) -> [(usize, usize); 3] {
    persistent::rings(model, multiprocessors, shared_max, layout)
}

/// Bytes of the host's copy of the structure that the step kernel reads.
pub const STEP_BYTES: usize = persistent::STEP_BYTES;

/// Whether the driver compiles every embedded PTX for this device.
pub fn compiles(device: u32) -> Result<(), EngineError> {
    let device = Device::open(device)?;
    device.enter()?;
    Module::new(&device, "plain", PLAIN_PTX)?;
    Uploader::new(&device)?;
    if let Some(ptx) = step_ptx(device.facts().compute) {
        Module::new(&device, "step", ptx)?;
    }
    Ok(())
}

/// Reads where nothing is: what a fault of a kernel looks like from here. The process can do nothing on the device afterwards.
pub fn fault(device: u32) -> Result<(), EngineError> {
    let device = Device::open(device)?;
    device.enter()?;
    let module = Module::new(&device, "plain", PLAIN_PTX)?;
    let read = module.function("read_all")?;
    let out = Buffer::filled(&device, "nothing", 16, 0)?;
    launch!(device, read, (1, 1), 512, 0; 1_u64 << 12, 4096_u64, out.at())?;
    device.wait("reading where nothing is")
}
