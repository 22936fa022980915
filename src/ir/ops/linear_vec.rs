//! How the kernel for products of few rows divides them among workgroups.

use crate::ir::{
    Compute, DType,
    emit::Emit,
    kernel::{Tier, quads_option, weight_option},
};

/// The facts that a division is chosen by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Few {
    pub(super) dtype: DType,
    /// Weights that the kernel multiplies by: two share one epilogue.
    pub(super) weights: usize,
    /// Rows of x of a workgroup, 1 to 4.
    pub(super) held: usize,
    /// True if the kernel norms its operand.
    pub(super) normed: bool,
    pub(super) inner: usize,
    pub(super) columns: usize,
    /// Workgroups for the same columns.
    pub(super) layers: usize,
    pub(super) tier: Tier,
}

impl Few {
    /// The kernel's work, for [`Emit::choose`].
    fn work(&self) -> String {
        let Self { dtype, weights, held, inner, columns, layers, .. } = self;
        let tier = self.tier.option().0;
        let norm = if self.normed { ", normed" } else { "" };
        format!("linear_vec, {tier}: {weights} {dtype} weights of {columns}x{inner}, {layers} times {held} rows{norm}")
    }

    /// Sums that a lane holds at most. Devices without subgroup operations are mostly small ones, with 32 to 64
    /// registers a lane.
    fn most_sums(&self) -> usize {
        if self.tier == Tier::Portable { 4 } else { 16 }
    }
}

/// A workgroup's lanes and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Division {
    lanes: usize,
    /// Lanes that split k for the same columns; it divides the lanes.
    span: usize,
    /// Columns of a lane, of each weight.
    tile: usize,
}

/// Divisions of which a device may take the fastest.
const MOST_TIMED: usize = 4;

/// SIMD units that an unknown GPU may have: those of a large one, AMD's Navi 31. A smaller one gets more workgroups
/// than it needs.
const UNITS: usize = 192;

/// Lanes that such a unit computes with at a time.
const WAVE: usize = 64;

/// Cycles for which a lane waits for what it loads, and that an instruction takes, roughly.
const WAIT: usize = 1000;
const CYCLES: usize = 2;

/// Packed formats of which a lane holds few words at a time.
const BRIEF: [&str; 7] = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K"];

/// Words of workgroup memory that every device has, less what alignment may take.
const MEMORY: usize = 4088;

impl Division {
    /// The one that is done first by the estimate [`cycles`](Self::cycles).
    pub(super) fn of(few: &Few) -> Self {
        Self::best(few)[0]
    }

    /// The one that was fastest on the device, among the first by the estimate.
    pub(super) fn choose(emit: &mut Emit, few: &Few) -> Self {
        let best = Self::best(few);
        best[emit.choose(few.work(), best.len())]
    }

    /// At most [`MOST_TIMED`], in the order of the estimate; at least one. The last has smaller tiles than the first,
    /// as devices with fewer registers than the estimate is made for are faster with them.
    fn best(few: &Few) -> Vec<Self> {
        let spans = [(64, 64), (64, 32), (64, 16), (64, 8), (128, 128), (256, 256)];
        let all = [4, 2, 1].into_iter().flat_map(|tile| spans.map(|(lanes, span)| Self { lanes, span, tile }));
        let mut fitting: Vec<Self> = all.filter(|division| division.fits(few)).collect();
        fitting.sort_by_key(|division| division.cycles(few));
        let smaller = fitting.iter().skip(MOST_TIMED - 1).find(|division| division.tile < fitting[0].tile).copied();
        fitting.truncate(MOST_TIMED - usize::from(smaller.is_some()));
        fitting.extend(smaller);
        if fitting.is_empty() {
            fitting.push(Self { lanes: 64, span: 64, tile: 1 });
        }
        fitting
    }

    /// Columns of a workgroup; they divide 64.
    pub(super) fn width(&self) -> usize {
        self.tile * self.lanes / self.span
    }

    /// The options of the kernel that follow from the division.
    pub(super) fn options(&self, few: &Few, compute: Compute) -> Vec<(&'static str, String)> {
        let vector = if few.inner.is_multiple_of(8) { 8 } else { 1 };
        let sizes = [
            ("LANES", self.lanes),
            ("SPAN", self.span),
            ("NR", self.tile),
            ("ROWS", few.held),
            ("VEC", vector),
            ("WEIGHTS", few.weights),
        ];
        let mut options = vec![weight_option(few.dtype), ("COMPUTE", compute.name().into())];
        options.extend(sizes.map(|(name, size)| (name, size.to_string())));
        options.extend(quads_option(few.dtype));
        options
    }

    /// Returns `true` if a lane's numbers stay in registers, and the sums in workgroup memory. Beyond 128 registers
    /// AMD's compiler keeps all that it may and leaves too few waves to hide a load.
    fn fits(&self, few: &Few) -> bool {
        let own = self.tile * few.weights;
        let registers = match (few.dtype, few.weights) {
            (DType::Packed(format), 2) => own <= 4 && (own * few.held <= 12 || BRIEF.contains(&format.name())),
            (DType::Packed(_), _) => own <= 4,
            _ => true,
        };
        let registers = registers && own * few.held <= few.most_sums();
        let sums = (own + usize::from(few.normed)) * few.held;
        let totals = sums * self.lanes / self.span;
        registers && sums * (self.lanes + 4) + totals.max(self.lanes) <= MEMORY
    }

    /// Cycles until a large GPU is done: its units take turns at computing, and each turn of a lane waits once for its
    /// loads. The instructions of a turn are those that ACO makes for Navi 31.
    fn cycles(&self, few: &Few) -> usize {
        let (elements, decoding) = if matches!(few.dtype, DType::Packed(_)) { (32, 55) } else { (8, 10) };
        let of_x = usize::from(decoding == 55) + 3 * usize::from(few.normed);
        let column = decoding + elements * few.held;
        let turn = 8 + elements * few.held * of_x + self.tile * few.weights * column;
        let turns = few.inner.div_ceil(elements).div_ceil(self.span);
        let waves = few.columns.div_ceil(self.width()) * few.layers * self.lanes / WAVE;
        turns * (waves.div_ceil(UNITS) * turn * CYCLES + WAIT)
    }
}

#[cfg(test)]
mod tests;
