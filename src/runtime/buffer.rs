//! Device memory that counts itself.

use std::sync::Arc;

use super::{context::GpuContext, counters::Counters, requirements::limit};
use crate::{Error, Result, error::DeviceError};

/// A buffer on the device; its bytes leave the live count when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    raw: wgpu::Buffer,
    label: String,
    counters: Arc<Counters>,
}

impl Buffer {
    /// The `wgpu` buffer.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Size in bytes, a multiple of 4.
    pub fn size(&self) -> u64 {
        self.raw.size()
    }

    /// Returns `true` if it was made by `context`.
    pub(crate) fn is_of(&self, context: &GpuContext) -> bool {
        std::ptr::eq(&*self.counters, context.counters())
    }

    /// The buffer's purpose.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.counters.buffer_dropped(self.raw.size());
    }
}

impl GpuContext {
    /// Memory of `bytes` (rounded up to a multiple of 4, at least 4), zero until written.
    ///
    /// # Errors
    /// [`DeviceError::Limit`] above the largest buffer, [`DeviceError::OutOfMemory`], [`DeviceError::Lost`],
    /// [`DeviceError::Driver`] for a usage the driver refuses.
    pub fn create_buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        self.allocate(label, bytes, usage, false)
    }

    pub(crate) fn allocate(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages, mapped: bool) -> Result<Buffer> {
        self.check()?;
        let most = self.capabilities().max_buffer;
        let size = bytes.max(4).checked_next_multiple_of(4).unwrap_or(u64::MAX);
        if size > most {
            let advice = format!("'{label}' must be split into several buffers");
            return Err(limit(&self.capabilities().adapter, "max_buffer_size", most, size, &advice));
        }
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: mapped };
        if !self.counters().admit(size, self.memory_limit()) {
            let adapter = self.capabilities().adapter.clone();
            return Err(Error::Device(DeviceError::OutOfMemory { what: label.to_owned(), bytes: size, adapter }));
        }
        let made = self.scoped_allocation(label, size, || self.device().create_buffer(&descriptor));
        let alive = made.and_then(|raw| self.check_alive().map(|()| raw));
        let raw = alive.inspect_err(|_| self.counters().buffer_dropped(size))?;
        self.counters().buffer_created();
        Ok(Buffer { raw, label: label.to_owned(), counters: self.shared_counters() })
    }
}
