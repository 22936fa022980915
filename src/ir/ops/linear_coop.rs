//! A matrix product of many rows through cooperative matrices.

use crate::ir::{
    Compute,
    emit::{Arg, Emit},
    kernel::{CooperativeTile, Kernel, Operand, Slot, weight_option, words_option},
    work::Work,
};

/// The fewest rows that fill enough of a workgroup's tile.
const LEAST_ROWS: usize = 32;

/// The operands of `linear_coop` beside the weights: rows in f16 and the power of two that each was divided by.
pub(super) struct HalfRows {
    rows: Slot,
    scales: Slot,
    tile: CooperativeTile,
}

impl HalfRows {
    /// Emits the dispatch that makes them, where the device multiplies tiles of f16, the product may be in f16 and has
    /// enough rows. Rows shorter than one step of the kernel are left to the others.
    pub(super) fn emit(emit: &mut Emit, weights: &[Arg]) -> Option<Self> {
        let rows = emit.output.ty.rows();
        let inner = emit.inputs[0].ty.last();
        let tile = emit.target.cooperative.filter(|_| emit.compute != Compute::F32)?;
        let buffers = 3 + weights.len() + emit.epilogue.operands.len();
        if rows < LEAST_ROWS || inner < 32 || buffers > emit.target.max_storage_buffers as usize {
            return None;
        }
        if emit.compute == Compute::Auto {
            let count = weights.len();
            let dtype = weights[0].ty.dtype;
            let columns = emit.output.ty.last();
            let work = format!("cooperative matrices: {count} {dtype} weights of {columns}x{inner}, {rows} rows");
            if emit.choose(work, 2) == 1 {
                return None;
            }
        }
        let halves = Self {
            rows: emit.scratch((rows * inner.next_multiple_of(32) * 2) as u64),
            scales: emit.scratch((rows * 4) as u64),
            tile,
        };
        let (tier, lanes) = emit.target.tier.wide_option();
        let options = vec![("TIER", tier.into()), ("LANES", lanes.to_string()), vector(inner), compute()];
        let overrides = vec![("T", rows as f64), ("IN", inner as f64)];
        let kernel = Kernel { shader: "half_rows", options, overrides, hole: String::new() };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, halves.operand()), (2, halves.scales())];
        emit.dispatch(kernel, bindings, [rows, 1], Work::moves(rows * (6 * inner + 4)));
        Some(halves)
    }

    /// The first operand of the kernel.
    pub(super) fn operand(&self) -> Operand {
        Operand::Slot(self.rows, 0)
    }

    /// Its operand at binding 4.
    pub(super) fn scales(&self) -> Operand {
        Operand::Slot(self.scales, 0)
    }

    /// The kernel for `out` columns of a result whose rows are `stride` long, with its workgroups and layers.
    pub(super) fn kernel(&self, emit: &Emit, weights: &[Arg], out: usize, stride: usize) -> (Kernel, usize, usize) {
        let rows = emit.output.ty.rows();
        let inner = emit.inputs[0].ty.last();
        let mut options = vec![weight_option(weights[0].ty.dtype), vector(inner), compute()];
        options.extend(words_option(weights[0].ty.dtype, false));
        let CooperativeTile { m, n, k, lanes, .. } = self.tile;
        let sizes = [("M", m), ("N", n), ("K", k), ("LANES", lanes), ("WEIGHTS", weights.len() as u32)];
        options.extend(sizes.map(|(name, size)| (name, size.to_string())));
        let overrides = vec![("T", rows as f64), ("IN", inner as f64), ("OUT", out as f64), ("OUT_STRIDE", stride as f64)];
        let count = rows.div_ceil(self.tile.rows()) * out.div_ceil(self.tile.weight_rows() / weights.len());
        (Kernel { shader: "linear_coop", options, overrides, hole: emit.epilogue.text.clone() }, count, 1)
    }
}

fn vector(inner: usize) -> (&'static str, String) {
    ("VEC", if inner.is_multiple_of(8) { "8" } else { "1" }.into())
}

fn compute() -> (&'static str, String) {
    ("COMPUTE", Compute::F16.name().into())
}
