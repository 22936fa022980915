//! Soft tokens that also lie on a device, where runs take them.

use std::{ops::Range, sync::Arc};

use super::{Buffer, GpuContext, wgpu};
#[cfg(any(feature = "audio", feature = "vision"))]
use crate::Result;
use crate::prompt::SoftTokens;

/// The rows of soft tokens on a device, for as long as they are kept.
pub(crate) struct DeviceRows {
    buffer: Buffer,
}

impl DeviceRows {
    /// Puts the rows on the device. Runs find them there until what is returned is dropped.
    ///
    /// # Errors
    /// As [`GpuContext::create_buffer`] and [`GpuContext::write`].
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(crate) fn keep(context: &GpuContext, soft: &SoftTokens) -> Result<Arc<Self>> {
        let bytes: &[u8] = bytemuck::cast_slice(soft.values());
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("soft tokens", bytes.len() as u64, usage)?;
        context.write(&buffer, 0, bytes)?;
        let rows = Arc::new(Self { buffer });
        soft.set_copy(&rows);
        Ok(rows)
    }

    /// The rows that `context` keeps on its device, if it does.
    pub(crate) fn of(context: &GpuContext, soft: &SoftTokens) -> Option<Arc<Self>> {
        soft.copy::<Self>().filter(|rows| rows.buffer.is_of(context))
    }
}

/// Rows on the device that are a part of a run.
pub(crate) struct KeptRows {
    pub(crate) rows: Arc<DeviceRows>,
    /// Where they lie in the run.
    pub(crate) run: Range<usize>,
    /// The first of them.
    pub(crate) first: usize,
}

impl KeptRows {
    /// Copies rows of `width` numbers into `to`, where the run's first row lies at `offset`.
    pub(crate) fn copy(&self, encoder: &mut wgpu::CommandEncoder, to: &Buffer, offset: usize, width: usize) {
        let row = width * size_of::<f32>();
        let from = (self.first * row) as u64;
        let at = (offset + self.run.start * row) as u64;
        encoder.copy_buffer_to_buffer(self.rows.buffer.raw(), from, to.raw(), at, (self.run.len() * row) as u64);
    }
}
