//! K, V and their positions on the device.

use std::{collections::BTreeMap, sync::Arc};

use super::BINDING_LIMIT;
use crate::{
    Result,
    ir::{
        DType, DimBinding, FixedType, Graph,
        ops::{DEAD_KEY, Input, Role},
        sym,
    },
    runtime::{Buffer, GpuContext, limit, wgpu},
};

/// The caches of a graph with the bytes of their buffers, where linear ones have `rows` rows and rings `ring`.
pub(super) fn sizes(graph: &Graph, rows: usize, ring: usize) -> Result<Vec<(&Input, u64)>> {
    let binding = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, rows).with(sym::RING, ring);
    let caches = graph.inputs().map(|(_, input)| input).filter(|input| input.role == Role::Cache);
    let size = |input: &'_ Input| -> Result<u64> {
        let ty = FixedType { dtype: input.ty.dtype, shape: input.ty.shape.bind(&binding)? };
        // Plans count 16 bytes more than the rows, for vector loads of the tail.
        Ok(ty.device_bytes().unwrap_or(0).next_multiple_of(16) + 16)
    };
    caches.map(|input| Ok((input, size(input)?))).collect()
}

/// Every cache of a model. Linear ones grow by doubling and keep their rows; rings have one size.
pub(super) struct Caches {
    buffers: BTreeMap<String, Arc<Buffer>>,
    rows: usize,
    ring: usize,
}

impl Caches {
    pub(super) fn new(ring: usize) -> Self {
        Self { buffers: BTreeMap::new(), rows: 0, ring }
    }

    /// Capacity of the linear caches.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Capacity of the rings.
    pub(super) fn ring(&self) -> usize {
        self.ring
    }

    /// Bytes of all caches.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.values().map(|b| b.size()).sum()
    }

    /// The caches by the names of the graph's inputs.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (String, (Arc<Buffer>, u64))> {
        self.buffers.iter().map(|(name, buffer)| (name.clone(), (buffer.clone(), 0)))
    }

    /// The buffers by the names of the graph's inputs.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (&String, &Arc<Buffer>)> {
        self.buffers.iter()
    }

    /// The buffer of one cache, if it was allocated.
    pub(super) fn buffer(&self, name: &str) -> Option<&Arc<Buffer>> {
        self.buffers.get(name)
    }

    /// The same rows in buffers of their own, copied on the device after all that was submitted before.
    pub(super) fn copy(&self, context: &GpuContext) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut buffers = BTreeMap::new();
        for (name, buffer) in &self.buffers {
            buffers.insert(name.clone(), Arc::new(context.create_buffer(name, buffer.size(), usage)?));
        }
        if !buffers.is_empty() {
            context.run("copying the cache", |encoder| {
                for (from, to) in self.buffers.values().zip(buffers.values()) {
                    encoder.copy_buffer_to_buffer(from.raw(), 0, to.raw(), 0, from.size());
                }
                Ok(())
            })?;
        }
        Ok(Self { buffers, rows: self.rows, ring: self.ring })
    }

    /// Makes every cache of the graph large enough for `rows` rows. When memory runs out the old ones stay.
    pub(super) fn allocate(&mut self, context: &GpuContext, graph: &Graph, rows: usize) -> Result<()> {
        let rows = rows.max(self.rows);
        let mut grown = Vec::new();
        for (input, bytes) in sizes(graph, rows, self.ring)? {
            if self.buffers.get(&input.name).is_some_and(|b| b.size() >= bytes) {
                continue;
            }
            let most = context.capabilities().target().max_binding;
            if bytes > most {
                let advice = format!("'{}' with {rows} rows does not fit a binding: use a smaller context", input.name);
                return Err(limit(&context.capabilities().adapter, BINDING_LIMIT, most, bytes, &advice));
            }
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let buffer = context.create_buffer(&input.name, bytes, usage)?;
            if input.ty.dtype == DType::I32 {
                let dead = vec![DEAD_KEY; (buffer.size() / 4) as usize];
                context.write(&buffer, 0, bytemuck::cast_slice(&dead))?;
            }
            grown.push((input.name.clone(), Arc::new(buffer)));
        }
        // Where no layer sees everything, more rows need no more memory.
        if grown.is_empty() {
            self.rows = rows;
            return Ok(());
        }
        let copies = context.run("growing the cache", |encoder| {
            for (name, buffer) in &grown {
                if let Some(old) = self.buffers.get(name) {
                    encoder.copy_buffer_to_buffer(old.raw(), 0, buffer.raw(), 0, old.size().min(buffer.size()));
                }
            }
            Ok(())
        })?;
        context.keep_pace(&copies, "growing the cache", None)?;
        self.buffers.extend(grown);
        self.rows = rows;
        Ok(())
    }
}
