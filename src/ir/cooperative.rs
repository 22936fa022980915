//! The matrix units of a device, as kernels use them.

/// A tile that cooperative matrix instructions multiply, `C[m, n] += A[m, k] · B[k, n]`: A and B in f16, C in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CooperativeTile {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Invocations of a workgroup: four subgroups of the size that the device likely takes. Any size is right.
    pub lanes: u32,
    /// Bytes of workgroup memory that a kernel may take.
    pub memory: u32,
}

impl CooperativeTile {
    /// Elements of a row of a tile in the workgroup memory of `linear_coop`, and those that follow a row of its
    /// results.
    const DEPTH: u32 = 32 + 8;
    const GAP: u32 = 16;

    /// Half of a compute unit's memory on AMD, and all that Apple has: with more a workgroup would be alone there.
    const MOST_MEMORY: u32 = 32 << 10;

    /// The best of the shapes `[m, n, k]` that kernels can take, in workgroups of `lanes` invocations on a device that
    /// gives each `memory` bytes: the one that does most at once.
    pub fn choose(shapes: impl IntoIterator<Item = [u32; 3]>, lanes: u32, memory: u32) -> Option<Self> {
        let memory = memory.min(Self::MOST_MEMORY);
        let tiles = shapes.into_iter().map(|[m, n, k]| Self { m, n, k, lanes, memory });
        let fitting = tiles.filter(|tile| tile.has_a_name() && tile.product_bytes() <= memory);
        fitting.max_by_key(|tile| tile.m * tile.n * tile.k)
    }

    /// Returns `true` if WGSL has types for all three matrices. It names square ones of 8 and of 16.
    fn has_a_name(&self) -> bool {
        let named = |columns, rows| columns == rows && matches!(rows, 8 | 16);
        named(self.k, self.m) && named(self.n, self.k) && named(self.n, self.m)
    }

    /// Rows of the operand that a workgroup of `linear_coop` multiplies.
    pub(crate) fn rows(&self) -> usize {
        4 * self.m as usize
    }

    /// Rows of weights that it multiplies them with, those of all weights together.
    pub(crate) fn weight_rows(&self) -> usize {
        8 * self.n as usize
    }

    /// Bytes of workgroup memory that `linear_coop` takes: operands in f16, a row of tiles of results in f32.
    fn product_bytes(&self) -> u32 {
        2 * Self::DEPTH * (4 * self.m + 8 * self.n) + 4 * self.m * (8 * self.n + Self::GAP)
    }
}

#[cfg(test)]
mod tests;
