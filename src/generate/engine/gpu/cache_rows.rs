//! Cached rows elsewhere: copies of the rings on the device, and all rows as bytes for the host.

use std::{collections::BTreeMap, sync::Arc};

use super::GpuEngine;
use crate::{
    Result,
    generate::CacheRow,
    generate::{CacheStore, Run},
    runtime::{Buffer, GpuContext, Wait, wgpu},
};

/// Bytes that are written with one call: wgpu stages them.
const WRITTEN_AT_ONCE: usize = 16 << 20;

impl GpuEngine {
    fn cache_rows(&self) -> Result<BTreeMap<String, CacheRow>> {
        self.model.model.caches(self.profiles.kv())
    }

    /// The rings in buffers of their own, as all runs so far leave them.
    pub(super) fn rings(&self) -> Result<BTreeMap<String, Arc<Buffer>>> {
        let rows = self.cache_rows()?;
        let context = &self.model.context;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut copies = BTreeMap::new();
        for (name, ring) in self.caches.buffers().filter(|(name, _)| rows.get(*name).is_some_and(|row| row.slides)) {
            copies.insert(name.clone(), (ring, Arc::new(context.create_buffer(name, ring.size(), usage)?)));
        }
        copy(context, copies.values().map(|(ring, copy)| (&***ring, &**copy)))?;
        Ok(copies.into_iter().map(|(name, (_, copy))| (name, copy)).collect())
    }

    /// The rings as they were.
    pub(super) fn set_rings(&mut self, rings: &BTreeMap<String, Arc<Buffer>>) -> Result<()> {
        let own = self.caches.buffers().filter_map(|(name, ring)| Some((&**rings.get(name)?, &**ring)));
        copy(&self.model.context, own)
    }

    /// As [`Engine::read_cache`](crate::generate::Engine::read_cache).
    pub(in crate::generate::engine) async fn read_rows(
        &self,
        name: &str,
        row: CacheRow,
        rows: usize,
        wait: Wait,
    ) -> Result<Vec<u8>> {
        let count = if row.slides { self.caches.ring() } else { rows };
        let mut bytes = vec![0; count * row.bytes];
        if let Some(buffer) = self.caches.buffer(name).filter(|_| rows > 0) {
            self.model.context.read_back_by(wait, buffer, 0, &mut bytes).await?;
        }
        Ok(bytes)
    }

    pub(super) fn write_rows(&mut self, rows: usize, source: &mut dyn FnMut(&str, &mut [u8]) -> Result<()>) -> Result<()> {
        self.forget();
        self.reserve(rows)?;
        for (name, row) in self.cache_rows()? {
            let count = if row.slides { self.caches.ring() } else { rows };
            let mut bytes = vec![0; count * row.bytes];
            source(&name, &mut bytes)?;
            let Some(buffer) = self.caches.buffer(&name) else { continue };
            for (part, bytes) in bytes.chunks(WRITTEN_AT_ONCE).enumerate() {
                self.model.context.write(buffer, (part * WRITTEN_AT_ONCE) as u64, bytes)?;
            }
        }
        Ok(())
    }
}

/// Copies whole buffers, after all that was submitted before.
fn copy<'a>(context: &GpuContext, pairs: impl Iterator<Item = (&'a Buffer, &'a Buffer)>) -> Result<()> {
    let mut pairs = pairs.peekable();
    if pairs.peek().is_none() {
        return Ok(());
    }
    context.run("copying the rings", |encoder| {
        pairs.for_each(|(from, to)| encoder.copy_buffer_to_buffer(from.raw(), 0, to.raw(), 0, from.size()));
        Ok(())
    })?;
    Ok(())
}
