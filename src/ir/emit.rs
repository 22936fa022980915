//! How an op reaches its kernel: operands with their places, fusions and epilogue in, dispatches out.

use std::{fmt, ops::Range};

use super::{
    Alternatives, Compute, FixedType,
    fusion::{DecodePrologue, FusedNorm, Fusion},
    kernel::{Dispatch, Kernel, Operand, Slot, Target, grid},
    work::Work,
};
use crate::Error;

/// Where an operand of an op lies.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// In a slot from a byte offset on, a multiple of 256.
    Slot(Slot, u64),
    /// In a resident weight, by name, with the rows of each shard.
    Weight(String, Vec<Range<usize>>),
    /// In weights that lie one behind the other.
    Concatenated(Vec<String>),
}

/// An operand or result of an op being emitted.
#[derive(Debug, Clone)]
pub struct Arg {
    /// Its type.
    pub ty: FixedType,
    /// Where it lies.
    pub place: Place,
    /// True if the number of its rows is [`sym::CACHE`](super::sym::CACHE). Kernels read such a size from the step
    /// uniform, so that buckets of one cache share their pipelines.
    pub grows: bool,
}

impl Arg {
    /// Weights that follow each other in memory, as one.
    pub fn concatenated(first: &Arg, rest: &[Arg]) -> Arg {
        let all = || std::iter::once(first).chain(rest);
        let rows = all().filter_map(|weight| weight.ty.shape.first()).sum();
        let names = all().filter_map(|weight| match &weight.place {
            Place::Weight(name, _) => Some(name.clone()),
            Place::Slot(..) | Place::Concatenated(_) => None,
        });
        let ty = FixedType { dtype: first.ty.dtype, shape: vec![rows, first.ty.last()] };
        Arg { ty, place: Place::Concatenated(names.collect()), grows: false }
    }

    /// The override for a cache's rows: 0 stands for the step's capacity.
    pub fn rows_override(&self) -> f64 {
        if self.grows { 0.0 } else { self.ty.shape.get(1).copied().unwrap_or(1) as f64 }
    }

    /// The operand for a binding of the whole argument.
    pub fn operand(&self) -> Operand {
        self.operand_at(0)
    }

    /// The operand from element `first` on (slots only; the byte offset must be a multiple of 256).
    pub fn operand_at(&self, first: usize) -> Operand {
        match &self.place {
            Place::Slot(slot, offset) => {
                let before = self.ty.dtype.scalar_bytes().map_or(0, |bytes| first * bytes);
                Operand::Slot(*slot, offset + before as u64)
            }
            Place::Weight(name, _) => Operand::Weight(name.clone(), 0),
            Place::Concatenated(names) => Operand::Concatenated(names.clone()),
        }
    }

    /// Shards of a weight; one shard holding all rows for a slot and for concatenated weights.
    pub fn shards(&self) -> Vec<(Range<usize>, Operand)> {
        match &self.place {
            Place::Slot(..) | Place::Concatenated(_) => vec![(0..self.ty.shape.first().copied().unwrap_or(1), self.operand())],
            Place::Weight(name, shards) => {
                shards.iter().enumerate().map(|(i, rows)| (rows.clone(), Operand::Weight(name.clone(), i))).collect()
            }
        }
    }
}

/// An elementwise function of an op's result, with operands of its own, that runs in the op's kernel.
#[derive(Debug, Clone)]
pub struct Epilogue {
    /// WGSL: sizes, bindings from 16 on and `fn epilogue(i, v…)`.
    pub text: String,
    /// Those sizes.
    pub overrides: Vec<(&'static str, f64)>,
    /// Operands of the bindings 16, 17, ….
    pub operands: Vec<Arg>,
}

impl Epilogue {
    /// The function that changes nothing.
    pub fn identity() -> Self {
        Self { text: "fn epilogue(i: u32, v: f32) -> f32 { return v; }\n".into(), overrides: Vec::new(), operands: Vec::new() }
    }
}

/// Collects the dispatches of one op with its epilogue and its fusions.
#[derive(Clone)]
pub struct Emit<'a> {
    /// The device.
    pub target: &'a Target,
    /// The numbers that the op's products are computed with.
    pub compute: Compute,
    /// Position in the model.
    pub label: String,
    /// Operands in order, as the kernel reads them: a fusion may change them.
    pub inputs: Vec<Arg>,
    /// The result.
    pub output: Arg,
    /// The result of a fusion that has one of its own ([`Fusion::SecondNorm`], [`Fusion::BlockMaxima`]).
    pub second_output: Option<Arg>,
    /// Elementwise arithmetic on each element of the result.
    pub epilogue: Epilogue,
    /// Other ops that the kernel computes.
    pub fusions: Vec<Fusion<Arg>>,
    /// Dispatches so far.
    pub dispatches: Vec<Dispatch>,
    /// The choices among kernels that the op made.
    pub alternatives: Vec<Alternatives>,
    /// Byte sizes of scratch slots asked for; they are numbered from `first_scratch`.
    pub scratch: Vec<u64>,
    /// Number of the first scratch slot.
    pub first_scratch: usize,
}

impl Emit<'_> {
    /// The norm of the operand that the kernel computes first.
    pub fn norm_prologue(&self) -> Option<&FusedNorm<Arg>> {
        self.fusions.iter().find_map(|fusion| match fusion {
            Fusion::NormPrologue(norm) => Some(norm),
            _ => None,
        })
    }

    /// The norm of the result.
    pub fn second_norm(&self) -> Option<&FusedNorm<Arg>> {
        self.fusions.iter().find_map(|fusion| match fusion {
            Fusion::SecondNorm(norm) => Some(norm),
            _ => None,
        })
    }

    /// The ops between the projections and an attention over one new token.
    pub fn decode_prologue(&self) -> Option<&DecodePrologue<Arg>> {
        self.fusions.iter().find_map(|fusion| match fusion {
            Fusion::DecodePrologue(prologue) => Some(prologue),
            _ => None,
        })
    }

    /// The results of a block of which the kernel keeps the maximum.
    pub fn block_maxima(&self) -> Option<usize> {
        self.fusions.iter().find_map(|fusion| match fusion {
            Fusion::BlockMaxima(block) => Some(*block),
            _ => None,
        })
    }

    /// Asks for a slot that lives only as long as this op runs.
    pub fn scratch(&mut self, bytes: u64) -> Slot {
        self.scratch.push(bytes);
        Slot(self.first_scratch + self.scratch.len() - 1)
    }

    /// Which of `count` kernels for `work` to take: the one that was fastest on this device, else the first.
    pub fn choose(&mut self, work: String, count: usize) -> usize {
        let alternatives = Alternatives { work, count };
        if count < 2 {
            return 0;
        }
        let chosen = self.target.choices.of(&alternatives);
        self.alternatives.push(alternatives);
        chosen
    }

    /// Appends a dispatch of `count` workgroups in x (folded into y past the limit of a dimension) and `layers` in z.
    pub fn dispatch(&mut self, mut kernel: Kernel, bindings: Vec<(u32, Operand)>, [count, layers]: [usize; 2], work: Work) {
        let label = self.label.clone();
        if kernel.hole == self.epilogue.text {
            kernel.overrides.extend(&self.epilogue.overrides);
        }
        self.dispatches.push(Dispatch { label, kernel, bindings, workgroups: grid(count, layers), work });
    }

    /// The bindings of the epilogue's operands, from element `first` on.
    pub fn epilogue_bindings(&self, first: usize) -> Vec<(u32, Operand)> {
        self.epilogue.operands.iter().zip(16..).map(|(arg, binding)| (binding, arg.operand_at(first))).collect()
    }

    /// An op that no kernel fits.
    pub fn refuse(&self, problem: impl fmt::Display) -> Error {
        Error::Unsupported(format!("{}: {problem}", self.label))
    }
}
