//! A lowered graph as plain data: dispatches over buffer slots.

mod cost;
mod estimate;
pub mod sampling;

use std::fmt;

pub use cost::{Cost, Live, cost};
#[cfg(test)]
pub(crate) use estimate::moving;
pub(crate) use estimate::{Estimate, HOST_CLOCK_MOST, SLOWEST, SOFTWARE_MOST, SOFTWARE_RATE, cut, estimate, slice_end, total};

use crate::ir::{
    Alternatives, FixedType, PassReport,
    kernel::{Dispatch, Operand, Slot},
    ops::Role,
};

/// The buffer of a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotKind {
    /// Owned by the plan's runner; reused along the plan by values that do not live at the same time.
    Scratch,
    /// Owned by the plan's runner, zeros at the start of every run.
    Zeroed,
    /// An input of the graph, bound by its name; a cache is one whose role is [`Role::Cache`] and is written in place.
    Input {
        /// The input's name.
        name: String,
        /// Who provides it.
        role: Role,
        /// Its type.
        ty: FixedType,
    },
    /// The cache of one sequence, where sequences lie apart; each may have rows of its own number.
    CacheOf {
        /// The sequence's row.
        sequence: usize,
        /// The name of the graph's input.
        name: String,
        /// The type with the most rows that the plan was lowered for.
        ty: FixedType,
    },
}

impl SlotKind {
    /// Returns `true` if the plan's runner owns the buffer.
    pub fn is_owned(&self) -> bool {
        matches!(self, SlotKind::Scratch | SlotKind::Zeroed)
    }
}

/// One buffer of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotInfo {
    /// Bytes that the largest value in it needs.
    pub bytes: u64,
    /// Its kind.
    pub kind: SlotKind,
}

/// A named result.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOutput {
    /// The output's name.
    pub name: String,
    /// The slot that holds it after a run.
    pub slot: Slot,
    /// Its type.
    pub ty: FixedType,
}

/// Everything a run does, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The graph's name.
    pub name: String,
    /// The buffers.
    pub slots: Vec<SlotInfo>,
    /// The dispatches, in order.
    pub dispatches: Vec<Dispatch>,
    /// The results.
    pub outputs: Vec<PlanOutput>,
    /// The kernels between which its ops chose, each choice once.
    pub alternatives: Vec<Alternatives>,
    /// The report of lowering's passes.
    pub report: PassReport,
}

impl Plan {
    /// The slot of the input `name`.
    pub fn input(&self, name: &str) -> Option<Slot> {
        let is = |s: &SlotInfo| matches!(&s.kind, SlotKind::Input { name: n, .. } if n == name);
        self.slots.iter().position(is).map(Slot)
    }

    /// The output `name`.
    pub fn output(&self, name: &str) -> Option<&PlanOutput> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// Bytes of all slots that the runner owns.
    pub fn scratch_bytes(&self) -> u64 {
        self.slots.iter().filter(|s| s.kind.is_owned()).map(|s| s.bytes).sum()
    }

    /// The names of all weights that the dispatches bind.
    pub fn weights(&self) -> Vec<&str> {
        let operands = self.dispatches.iter().flat_map(|d| &d.bindings);
        let mut names: Vec<&str> = operands
            .flat_map(|(_, operand)| match operand {
                Operand::Weight(name, _) => std::slice::from_ref(name),
                Operand::Concatenated(names) => names,
                Operand::Slot(..) | Operand::Step | Operand::StepOf(_) => &[],
            })
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}", self.name)?;
        for (index, slot) in self.slots.iter().enumerate() {
            match &slot.kind {
                SlotKind::Scratch => writeln!(f, "  slot {index}: {} bytes", slot.bytes)?,
                SlotKind::Zeroed => writeln!(f, "  slot {index}: {} bytes, zeros at first", slot.bytes)?,
                SlotKind::Input { name, role, ty } => {
                    writeln!(f, "  slot {index}: {} bytes, input {name} ({role}) {}{:?}", slot.bytes, ty.dtype, ty.shape)?;
                }
                SlotKind::CacheOf { sequence, name, ty } => {
                    let (bytes, FixedType { dtype, shape }) = (slot.bytes, ty);
                    writeln!(f, "  slot {index}: {bytes} bytes, {name} of sequence {sequence} {dtype}{shape:?}")?;
                }
            }
        }
        for dispatch in &self.dispatches {
            let [x, y, z] = dispatch.workgroups;
            writeln!(f, "  {:24} {} on {x}x{y}x{z}", dispatch.label, dispatch.kernel)?;
            for (binding, operand) in &dispatch.bindings {
                match operand {
                    Operand::Slot(slot, 0) => writeln!(f, "      {binding} = slot {}", slot.0)?,
                    Operand::Slot(slot, offset) => writeln!(f, "      {binding} = slot {} from byte {offset}", slot.0)?,
                    Operand::Weight(name, shard) => writeln!(f, "      {binding} = weight {name} shard {shard}")?,
                    Operand::Concatenated(names) => writeln!(f, "      {binding} = weights {}", names.join(" + "))?,
                    Operand::Step => writeln!(f, "      {binding} = step")?,
                    Operand::StepOf(sequence) => writeln!(f, "      {binding} = step of sequence {sequence}")?,
                }
            }
        }
        for output in &self.outputs {
            writeln!(f, "  output {} = slot {} {}{:?}", output.name, output.slot.0, output.ty.dtype, output.ty.shape)?;
        }
        Ok(())
    }
}
