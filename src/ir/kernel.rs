//! How an op runs on a GPU, as plain data: shader, options, bindings, grid. Nothing here names a GPU library.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

pub use super::cooperative::CooperativeTile;
use super::{Compute, DType, Fallback, KernelChoices, work::Work};
use crate::Result;

/// A shader with its parameters; equal kernels share one pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// File below `shaders/`, without extension.
    pub shader: &'static str,
    /// Text options, for choices that override constants cannot express.
    pub options: Vec<(&'static str, String)>,
    /// Override constants.
    pub overrides: Vec<(&'static str, f64)>,
    /// WGSL appended to the shader: the functions it calls and does not define, with their bindings.
    pub hole: String,
}

impl Kernel {
    /// Returns `true` if it multiplies with the device's matrix units.
    pub fn uses_matrices(&self) -> bool {
        matches!(self.shader, "linear_coop" | "attention_coop")
    }

    /// Returns `true` if it rounds the operands of its products to f16.
    pub fn rounds_to_half(&self) -> bool {
        self.uses_matrices() || self.options.contains(&("COMPUTE", Compute::F16.name().into()))
    }

    /// A key that is equal exactly for equal kernels.
    pub fn key(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shader)?;
        for (name, value) in &self.options {
            write!(f, " {name}={value}")?;
        }
        for (name, value) in &self.overrides {
            write!(f, " {name}={value}")?;
        }
        if !self.hole.is_empty() {
            write!(f, " {{{}}}", self.hole.trim().replace('\n', " "))?;
        }
        Ok(())
    }
}

/// A buffer of the plan, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub usize);

/// The buffer that a binding of a dispatch refers to.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A slot from a byte offset on.
    Slot(Slot, u64),
    /// One shard of a resident weight.
    Weight(String, usize),
    /// Weights that lie one behind the other, as one matrix.
    Concatenated(Vec<String>),
    /// The small uniform that changes with every run: live rows, cache end, sampling draw.
    Step,
    /// The one of a sequence, by its row, where sequences lie apart ([`LowerOptions::batched`](super::LowerOptions)).
    StepOf(usize),
}

impl Operand {
    /// Returns `true` if it is a uniform; all others are storage buffers.
    pub fn is_step(&self) -> bool {
        matches!(self, Operand::Step | Operand::StepOf(_))
    }
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// Position in the model.
    pub label: String,
    /// The kernel that runs.
    pub kernel: Kernel,
    /// Binding number in group 0 and the operand.
    pub bindings: Vec<(u32, Operand)>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// The bytes that it must move and the operations that it must compute.
    pub work: Work,
}

/// Which instructions a kernel may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// WebGPU's defaults: 256 invocations, 16 KiB workgroup memory, no subgroup operations.
    Portable,
    /// Subgroup operations of any size from 4 to 128, which may differ from shader to shader: workgroups of several
    /// subgroups.
    Subgroups,
    /// Subgroup operations with one fixed subgroup size.
    Subgroup(u32),
}

impl Tier {
    /// The value of the option TIER, and the invocations of a workgroup.
    pub(crate) fn option(self) -> (&'static str, u32) {
        match self {
            Self::Portable => ("portable", 64),
            Self::Subgroups => ("subgroups", 64),
            Self::Subgroup(size) => ("subgroup", size),
        }
    }

    /// As [`option`](Self::option), of a kernel whose workgroups have more to do than one subgroup does in time.
    pub(crate) fn wide_option(self) -> (&'static str, u32) {
        match self {
            Self::Portable => ("portable", 256),
            Self::Subgroups | Self::Subgroup(_) => ("subgroups", 256),
        }
    }
}

/// The properties of a device that kernels are chosen by.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Instructions.
    pub tier: Tier,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest number of storage buffers one dispatch may bind.
    pub max_storage_buffers: u32,
    /// True if shaders may compute with f16.
    pub f16: bool,
    /// True if shaders may use 64-bit integers.
    pub int64: bool,
    /// The tile that cooperative matrices multiply in f16 and sum in f32; `None` without such instructions.
    pub cooperative: Option<CooperativeTile>,
    /// True if the adapter runs shaders on the CPU: few workgroups suffice to fill it, barriers cost much.
    pub software: bool,
    /// True if loops of kernels for GPUs stay loops: drivers on the CPU take seconds to compile unrolled loops.
    pub rolled: bool,
    /// True if kernels get their sizes as data, and not as constants: then several share a pipeline.
    pub sizes_are_data: bool,
    /// Findings about its kernels.
    pub choices: Arc<KernelChoices>,
}

impl Target {
    /// WebGPU's default limits and no optional feature: what every device has.
    pub fn portable() -> Self {
        Self {
            tier: Tier::Portable,
            max_binding: 128 << 20,
            max_storage_buffers: 8,
            f16: false,
            int64: false,
            cooperative: None,
            software: false,
            rolled: false,
            sizes_are_data: false,
            choices: Arc::default(),
        }
    }

    /// The option TIER and the invocations of a kernel whose workgroups reduce a row, or a part of one, each. A driver
    /// on the CPU is spared the barriers.
    pub(crate) fn reduction_option(&self) -> (&'static str, u32) {
        match self.tier {
            Tier::Portable if self.software => ("alone", 1),
            tier => tier.option(),
        }
    }

    /// As [`reduction_option`](Self::reduction_option), of a row that is long for one subgroup of a GPU.
    pub(crate) fn row_option(&self) -> (&'static str, u32) {
        if self.software { self.reduction_option() } else { self.tier.wide_option() }
    }

    /// Returns `true` for a driver on the CPU without subgroups of 8 lanes. It pays for each barrier, and reads an array
    /// at a computed index lane by lane: each lane works alone.
    pub(crate) fn lanes_work_alone(&self) -> bool {
        self.software && matches!(self.tier, Tier::Portable | Tier::Subgroup(..8))
    }

    /// Returns `true` for a driver on the CPU whose lanes hand numbers round by shuffles.
    pub(crate) fn lanes_shuffle(&self) -> bool {
        self.software && matches!(self.tier, Tier::Subgroup(8..))
    }

    /// The target for the kernels of the op called `op`: less than the device offers where one of them was wrong
    /// there.
    pub fn of_op(&self, op: &str) -> Cow<'_, Self> {
        match self.choices.fallback(op) {
            None => Cow::Borrowed(self),
            Some(Fallback::NoMatrices) => Cow::Owned(Self { cooperative: None, ..self.clone() }),
            Some(Fallback::Portable) => Cow::Owned(Self { tier: Tier::Portable, cooperative: None, ..self.clone() }),
        }
    }
}

/// Rows of a two-dimensional weight that share one binding.
///
/// A tensor that fits is one shard; a larger one is cut at multiples of 64 rows, so that the columns of the result that
/// a shard computes begin at a multiple of 256 bytes.
pub fn row_shards(dtype: DType, shape: &[usize], max_binding: u64) -> Result<Vec<Range<usize>>, String> {
    let rows = shape.first().copied().unwrap_or(1);
    let row = shape.iter().skip(1).product();
    let row_bytes =
        dtype.resident_row_bytes(row).ok_or_else(|| format!("rows of {row} elements of {dtype} are no whole blocks"))?;
    if rows as u64 * row_bytes <= max_binding {
        return Ok(std::iter::once(0..rows).collect());
    }
    let step = (max_binding / row_bytes.max(1)) as usize / 64 * 64;
    if step == 0 {
        return Err(format!("64 rows of {row_bytes} bytes do not fit a binding of {max_binding} bytes"));
    }
    Ok((0..rows).step_by(step).map(|r| r..rows.min(r + step)).collect())
}

/// Workgroups of a linear count, two-dimensional where one dimension's 65,535 do not suffice.
pub fn grid(count: usize, layers: usize) -> [u32; 3] {
    const LIMIT: usize = 65_535;
    let y = count.div_ceil(LIMIT).max(1);
    [count.div_ceil(y).max(1) as u32, y as u32, layers as u32]
}

/// The text option `WEIGHT` for a stored element type.
pub fn weight_option(dtype: DType) -> (&'static str, String) {
    ("WEIGHT", dtype.name().into())
}

/// The text option `WORDS` for a stored element type: how many words of a packed weight a load takes, two where a
/// device pays for loads and not for their width (`wide`).
pub fn words_option(dtype: DType, wide: bool) -> Option<(&'static str, String)> {
    let DType::Packed(format) = dtype else { return None };
    Some(("WORDS", if wide && format.in_pairs() { "2" } else { "1" }.into()))
}

/// The text option `WORDS` of a kernel that loads four words at a time where words of a packed weight come in fours.
pub fn quads_option(dtype: DType) -> Option<(&'static str, String)> {
    let DType::Packed(format) = dtype else { return None };
    Some(("WORDS", if format.in_fours() { "4" } else { "1" }.into()))
}

#[cfg(test)]
mod tests;
