//! The sizes of a plan's kernels, where they are data.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    num::NonZeroU64,
};

use super::{
    buffer::Buffer,
    context::GpuContext,
    pipeline::{Pipeline, PipelineCache},
};
use crate::{
    Result,
    ir::kernel::{Dispatch, Kernel},
    plan::Plan,
    shader::{Size, Sizes, size_words, uniform_sizes},
};

/// Bytes from one block to the next: the largest alignment of uniforms that a device may ask for.
const STRIDE: usize = 256;

/// One uniform buffer with a block for each set of sizes in a plan.
#[derive(Debug)]
pub(crate) struct SizeBlocks {
    buffer: Option<Buffer>,
    /// The first byte of each block, by its words.
    blocks: HashMap<Vec<u32>, u64>,
}

/// The blocks that the kernels of `plan` need on a device that takes sizes as data, in bytes.
///
/// # Errors
/// As [`uniform_sizes`].
pub(crate) fn size_block_bytes(plan: &Plan) -> Result<u64> {
    let mut declared: HashMap<String, Vec<Size>> = HashMap::new();
    let mut blocks = HashSet::new();
    for Dispatch { kernel, .. } in &plan.dispatches {
        let sizes = match declared.entry(Sizes::Uniform.key(kernel)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(uniform_sizes(kernel)?),
        };
        blocks.insert(size_words(kernel, sizes)?);
    }
    Ok(blocks.iter().filter(|words| !words.is_empty()).count() as u64 * STRIDE as u64)
}

impl SizeBlocks {
    /// The blocks that the dispatches of `plan` need; no buffer where sizes are constants.
    pub fn new(pipelines: &PipelineCache, plan: &Plan) -> Result<Self> {
        let mut blocks = HashMap::new();
        let mut bytes = Vec::new();
        for dispatch in &plan.dispatches {
            let words = size_words(&dispatch.kernel, &pipelines.get(&dispatch.kernel)?.sizes)?;
            if words.is_empty() || blocks.contains_key(&words) {
                continue;
            }
            let first = bytes.len();
            bytes.extend_from_slice(bytemuck::cast_slice(&words));
            bytes.resize(first + STRIDE, 0);
            blocks.insert(words, first as u64);
        }
        let context: &GpuContext = pipelines.context();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = (!bytes.is_empty()).then(|| context.create_buffer("sizes", bytes.len() as u64, usage)).transpose()?;
        if let Some(buffer) = &buffer {
            context.write(buffer, 0, &bytes)?;
        }
        Ok(Self { buffer, blocks })
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, Buffer::size)
    }

    /// The block of `kernel`; `None` for one that is not in the plan.
    pub fn binding(&self, kernel: &Kernel, pipeline: &Pipeline) -> Result<Option<wgpu::BufferBinding<'_>>> {
        let words = size_words(kernel, &pipeline.sizes)?;
        let (Some(buffer), Some(offset)) = (&self.buffer, self.blocks.get(&words)) else { return Ok(None) };
        Ok(Some(wgpu::BufferBinding { buffer: buffer.raw(), offset: *offset, size: NonZeroU64::new(STRIDE as u64) }))
    }
}
