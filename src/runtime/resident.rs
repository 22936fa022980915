//! Weights on the device: where each lies and how it is split.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{buffer::Buffer, capabilities::Capabilities, context::GpuContext, requirements::limit};
use crate::{Error, Result, ir::DType, lower::Residency};

/// Every shard begins at a multiple of this, the largest alignment that WebGPU lets an adapter ask for.
const OFFSET_ALIGNMENT: u64 = 256;
/// A shard's area is padded to this, so that a `vec4<u32>` load of its tail stays inside.
const TAIL_ALIGNMENT: u64 = 16;
/// Arenas are at most this large, unless a single shard is larger.
const ARENA_BYTES: u64 = 1 << 30;
/// Rows of a shard (but the last) are a multiple of this where a binding has room for so many.
const ROW_GROUP: u64 = 64;

/// A weight in device memory, in its storage type, split by rows where it exceeds a binding.
#[derive(Debug, Clone)]
pub struct ResidentWeight {
    /// The element type, as stored.
    pub dtype: DType,
    /// Row-major dimensions; rows are the first.
    pub shape: Vec<usize>,
    /// The pieces, in row order, covering all rows; one unless the weight exceeds the largest binding.
    pub shards: Vec<Shard>,
}

impl ResidentWeight {
    /// Bytes of all rows as the device holds them: those of the elements, and of packed formats what fills each row up
    /// to a multiple of 16.
    pub fn byte_len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }
}

/// Consecutive rows of a weight in one binding.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The arena that it lies in, shared with other weights.
    pub buffer: Arc<Buffer>,
    /// Where it begins, a multiple of 256.
    pub offset: u64,
    /// Bytes of its rows.
    pub bytes: u64,
    /// The rows of the weight that it holds.
    pub rows: Range<usize>,
}

impl Shard {
    /// Bytes to bind: the rows, padded to a multiple of 16 with zeros.
    pub fn binding_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(TAIL_ALIGNMENT)
    }

    /// Where the next byte of its buffer is.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    /// The shard as a storage binding.
    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: self.buffer.raw(),
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.binding_bytes()),
        }
    }
}

/// Weights that stay where they are.
pub(crate) struct ResidentWeights<'a>(pub(crate) &'a HashMap<String, ResidentWeight>);

/// Weights that may be replaced one by one.
pub(crate) struct Replaceable<'a>(pub(crate) &'a HashMap<String, ResidentWeight>);

fn rows(weights: &HashMap<String, ResidentWeight>, weight: &str) -> Option<Vec<Range<usize>>> {
    weights.get(weight).map(|w| w.shards.iter().map(|s| s.rows.clone()).collect())
}

impl Residency for ResidentWeights<'_> {
    fn shards(&self, weight: &str) -> Option<Vec<Range<usize>>> {
        rows(self.0, weight)
    }

    fn adjoin(&self, first: &str, second: &str) -> bool {
        let one = |name: &str| match self.0.get(name).map(|w| w.shards.as_slice()) {
            Some([shard]) => Some(shard),
            _ => None,
        };
        one(first).zip(one(second)).is_some_and(|(a, b)| Arc::ptr_eq(&a.buffer, &b.buffer) && a.end() == b.offset)
    }
}

impl Residency for Replaceable<'_> {
    fn shards(&self, weight: &str) -> Option<Vec<Range<usize>>> {
        rows(self.0, weight)
    }

    fn adjoin(&self, _: &str, _: &str) -> bool {
        false
    }
}

/// Rows and bytes of one shard, before it has a place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub rows: Range<usize>,
    pub bytes: u64,
}

/// Splits a weight by rows so that each piece, padded, fits into a binding.
pub(crate) fn split(capabilities: &Capabilities, name: &str, dtype: DType, shape: &[usize]) -> Result<Vec<Piece>> {
    let malformed = |problem: String| Error::Input { name: name.to_owned(), problem };
    let product = |dims: &[usize]| dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let rows = shape.first().map_or(1, |&rows| rows as u64);
    let row = product(shape.get(1..).unwrap_or(&[])).and_then(|n| usize::try_from(n).ok());
    let row_bytes = row.and_then(|row| dtype.resident_row_bytes(row));
    let row_bytes = row_bytes.ok_or_else(|| {
        malformed(format!("shape {shape:?} is larger than memory can be, or its rows are no whole blocks of {dtype}"))
    })?;
    if rows == 0 || row_bytes == 0 {
        return Err(malformed(format!("has no elements (shape {shape:?})")));
    }
    let room = capabilities.max_binding.min(capabilities.max_buffer) / TAIL_ALIGNMENT * TAIL_ALIGNMENT;
    let fitting = room / row_bytes;
    let each = match fitting {
        0 => {
            let advice = format!("a single row of '{name}' does not fit into a binding: choose another adapter");
            return Err(limit(&capabilities.adapter, "max_storage_buffer_binding_size", room, row_bytes, &advice));
        }
        // A power of two keeps narrower tiles whole.
        1..ROW_GROUP => 1 << fitting.ilog2(),
        _ => fitting / ROW_GROUP * ROW_GROUP,
    };
    let each = if rows <= fitting { rows } else { each };
    let pieces = (0..rows.div_ceil(each)).map(|index| {
        let first = index * each;
        let end = ((index + 1) * each).min(rows);
        Piece { rows: first as usize..end as usize, bytes: (end - first) * row_bytes }
    });
    Ok(pieces.collect())
}

/// Where pieces come to lie that are placed in this order, first fit.
#[derive(Debug, Default)]
pub(crate) struct Arrangement {
    /// Bytes of each arena.
    pub arenas: Vec<u64>,
    /// The arena of each piece, and where in it the piece begins.
    pub places: Vec<(usize, u64)>,
}

impl Arrangement {
    pub fn of(capabilities: &Capabilities, pieces: &[Piece]) -> Self {
        let room = ARENA_BYTES.min(capabilities.max_buffer);
        let mut arrangement = Self::default();
        for piece in pieces {
            let size = piece.bytes.next_multiple_of(TAIL_ALIGNMENT);
            let fits = |used: &u64| used.next_multiple_of(OFFSET_ALIGNMENT).saturating_add(size) <= room;
            let arena = arrangement.arenas.iter().position(fits).unwrap_or(arrangement.arenas.len());
            let used = arrangement.arenas.get(arena).copied().unwrap_or(0);
            let offset = used.next_multiple_of(OFFSET_ALIGNMENT);
            match arrangement.arenas.get_mut(arena) {
                Some(used) => *used = offset + size,
                None => arrangement.arenas.push(size),
            }
            arrangement.places.push((arena, offset));
        }
        arrangement
    }
}

/// Large buffers that weights are packed into, first fit in the order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Arenas {
    open: Vec<Arena>,
}

#[derive(Debug)]
struct Arena {
    buffer: Arc<Buffer>,
    used: u64,
}

impl Arenas {
    /// Makes arenas of exactly the size that these pieces need when they come in this order.
    pub fn reserve(&mut self, context: &GpuContext, pieces: &[Piece]) -> Result<()> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        for size in Arrangement::of(context.capabilities(), pieces).arenas {
            let buffer = Arc::new(context.create_buffer("weights", size, usage)?);
            self.open.push(Arena { buffer, used: 0 });
        }
        Ok(())
    }

    /// Gives every piece a place, in reserved arenas where they have room and in new ones otherwise.
    pub fn place(&mut self, context: &GpuContext, pieces: Vec<Piece>) -> Result<Vec<Shard>> {
        let mut shards = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter().enumerate() {
            if self.find(piece).is_none() {
                self.reserve(context, &pieces[index..])?;
            }
            let Some(arena) = self.find(piece) else {
                let problem = format!("no arena has room for {} bytes", piece.bytes);
                return Err(Error::Input { name: "weights".into(), problem });
            };
            let offset = arena.used.next_multiple_of(OFFSET_ALIGNMENT);
            arena.used = offset + piece.bytes.next_multiple_of(TAIL_ALIGNMENT);
            shards.push(Shard { buffer: arena.buffer.clone(), offset, bytes: piece.bytes, rows: piece.rows.clone() });
        }
        Ok(shards)
    }

    fn find(&mut self, piece: &Piece) -> Option<&mut Arena> {
        let size = piece.bytes.next_multiple_of(TAIL_ALIGNMENT);
        self.open.iter_mut().find(|arena| arena.used.next_multiple_of(OFFSET_ALIGNMENT) + size <= arena.buffer.size())
    }
}
