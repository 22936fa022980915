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
    /// Elements of a row.
    inner: usize,
    tile: CooperativeTile,
}

impl HalfRows {
    /// Emits the dispatch that makes them of the first operand, where the device multiplies tiles of f16, the product
    /// may be in f16 and has enough rows. Rows shorter than one step of the kernel are left to the others.
    pub(super) fn emit(emit: &mut Emit, weights: &[Arg]) -> Option<Self> {
        let inner = emit.inputs[0].ty.last();
        let halves = Self::place(emit, weights, inner, "weights")?;
        halves.dispatch(emit, vec![("X", "rows".into()), vector(inner)], vec![("IN", inner as f64)]);
        Some(halves)
    }

    /// Likewise of the windows of a convolution with `weight`: a row is what lies under the taps at one position.
    /// `sizes` are those of `lib/windows.wgsl`.
    pub(super) fn of_windows(emit: &mut Emit, weight: &Arg, sizes: &[(&'static str, f64)]) -> Option<Self> {
        let inner = weight.ty.shape[1..].iter().product();
        let halves = Self::place(emit, std::slice::from_ref(weight), inner, "convolutions")?;
        halves.dispatch(emit, vec![("X", "windows".into())], sizes.to_vec());
        Some(halves)
    }

    /// Their place, where such a product is for `linear_coop`. `what` tells apart what is timed.
    fn place(emit: &mut Emit, weights: &[Arg], inner: usize, what: &str) -> Option<Self> {
        let rows = emit.output.ty.rows();
        // A kernel that was wrong for a linear is so for all that take it.
        let tile = emit.target.of_op("linear").cooperative.filter(|_| emit.compute != Compute::F32)?;
        let buffers = 3 + weights.len() + emit.epilogue.operands.len();
        let bytes = rows as u64 * (inner.next_multiple_of(32) * 2) as u64;
        let bindable = buffers <= emit.target.max_storage_buffers as usize && bytes <= emit.target.max_binding;
        if rows < LEAST_ROWS || inner < 32 || !bindable {
            return None;
        }
        if emit.compute == Compute::Auto {
            let count = weights.len();
            let dtype = weights[0].ty.dtype;
            let columns = emit.output.ty.last();
            let work = format!("cooperative matrices: {count} {dtype} {what} of {columns}x{inner}, {rows} rows");
            if emit.choose(work, 2) == 1 {
                return None;
            }
        }
        Some(Self { rows: emit.scratch(bytes), scales: emit.scratch((rows * 4) as u64), inner, tile })
    }

    /// Emits the dispatch that makes them, with options and overrides of where they come from.
    fn dispatch(&self, emit: &mut Emit, mut options: Vec<(&'static str, String)>, mut overrides: Vec<(&'static str, f64)>) {
        let rows = emit.output.ty.rows();
        let (tier, lanes) = emit.target.tier.wide_option();
        options.extend([("TIER", tier.into()), ("LANES", lanes.to_string()), compute()]);
        overrides.push(("T", rows as f64));
        let kernel = Kernel { shader: "half_rows", options, overrides, hole: String::new() };
        let bindings = vec![(0, emit.inputs[0].operand()), (1, self.operand()), (2, self.scales())];
        let moved = 4 * emit.inputs[0].ty.len() as u64 + rows as u64 * (2 * self.inner + 4) as u64;
        emit.dispatch(kernel, bindings, [rows, 1], Work::moves(moved));
    }

    /// The first operand of the kernel.
    pub(super) fn operand(&self) -> Operand {
        Operand::Slot(self.rows, 0)
    }

    /// Its operand at binding 4.
    pub(super) fn scales(&self) -> Operand {
        Operand::Slot(self.scales, 0)
    }

    /// The kernel for `out` columns of the result, with its workgroups.
    pub(super) fn kernel(&self, emit: &Emit, weights: &[Arg], out: usize) -> (Kernel, usize) {
        let rows = emit.output.ty.rows();
        let stride = emit.output.ty.last();
        let inner = self.inner;
        let mut options = vec![weight_option(weights[0].ty.dtype), vector(inner), compute()];
        options.extend(words_option(weights[0].ty.dtype, false));
        let CooperativeTile { m, n, k, lanes, .. } = self.tile;
        let sizes = [("M", m), ("N", n), ("K", k), ("LANES", lanes), ("WEIGHTS", weights.len() as u32)];
        options.extend(sizes.map(|(name, size)| (name, size.to_string())));
        let overrides = vec![("T", rows as f64), ("IN", inner as f64), ("OUT", out as f64), ("OUT_STRIDE", stride as f64)];
        let count = rows.div_ceil(self.tile.rows()) * out.div_ceil(self.tile.weight_rows() / weights.len());
        (Kernel { shader: "linear_coop", options, overrides, hole: emit.epilogue.text.clone() }, count)
    }
}

fn vector(inner: usize) -> (&'static str, String) {
    ("VEC", if inner.is_multiple_of(8) { "8" } else { "1" }.into())
}

fn compute() -> (&'static str, String) {
    ("COMPUTE", Compute::F16.name().into())
}
