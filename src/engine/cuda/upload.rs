//! Weights to the device: copied from a mapped file, or generated there from the seed, block for block as `synth` says.

use super::PACK_PTX;
use super::driver::{Buffer, Device, Function, Module, launch};
use crate::engine::EngineError;
use crate::engine::synth;
use crate::engine::weights::{Model, Origin, Tensor};
use std::sync::Arc;

/// Puts tensors into device memory.
pub(super) struct Uploader {
    pub(super) device: Arc<Device>,
    pub(super) pack: Function,
    generate: Function,
    _module: Module,
}

impl Uploader {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, EngineError> {
        let module = Module::new(device, "pack", PACK_PTX)?;
        let (pack, generate) = (module.function("pack")?, module.function("generate")?);
        Ok(Uploader { device: Arc::clone(device), pack, generate, _module: module })
    }

    /// The bytes of `tensor` to byte `offset` of `to`.
    pub(super) fn put(&self, model: &Model, tensor: &Tensor, to: &Buffer, offset: u64) -> Result<(), EngineError> {
        assert!(offset + tensor.bytes as u64 <= to.bytes(), "{} does not fit its place", tensor.name);
        let Origin::Generated(generator) = &tensor.origin else {
            return to.upload(offset, &model.bytes(tensor));
        };
        let ty = tensor.ty;
        let blocks = (tensor.bytes / ty.block_bytes()) as u64;
        let (d_at, m_at) = if ty.block_weights() == 1 { (0, None) } else { synth::fields(ty) };
        let m_at = m_at.map_or(-1, |at| at as i32);
        let scales = generator.scales;
        // One thread a block; a grid's first dimension goes to 2^31 - 1 blocks.
        let (device, grid) = (&self.device, (blocks.div_ceil(256) as u32, 1));
        launch!(device, self.generate, grid, 256, 0;
            generator.key, ty.gguf_id() as i32, 0_u64, blocks, d_at as i32, m_at,
            u32::from(scales.d), u32::from(scales.m), scales.low, scales.step, to.at() + offset)
    }
}
