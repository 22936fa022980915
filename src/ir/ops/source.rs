//! Where values come from: inputs, weights, constants.

use std::{fmt, sync::Arc};

use super::{Lowering, OpDef, expect_operands};
use crate::{
    Result,
    ir::{DType, Data, Dim, FixedType, MaskKind, Shape, Type, Value},
};

/// Who provides an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// The caller, with every run.
    Caller,
    /// The caller, or nobody: other inputs are derived from it where it is given.
    Optional,
    /// The runtime: the positions of the new tokens, `[B, T]`.
    Positions(PositionRule),
    /// The runtime, from the positions: the first and the last position that each new token sees, `[B, T, 2]`; tokens
    /// at no position see none.
    Visible {
        /// How positions follow from what is given.
        rule: PositionRule,
        /// The mask: the keys that a token at a position sees.
        mask: MaskKind,
        /// True if the soft tokens of one picture also see the later ones of it.
        pictures: bool,
    },
    /// The runtime: the positions of the `past` rows of a cache that the caller holds, then those of the new tokens,
    /// `[B, past + T]`. Rows that are not live are at [`DEAD_KEY`](super::DEAD_KEY).
    KeyPositions {
        /// How positions follow from what is given.
        rule: PositionRule,
        /// Rows of the caller's cache.
        past: Dim,
    },
    /// The runtime: the index of the last live token of each sequence, `[B]`.
    LastToken(PositionRule),
    /// The runtime, from the positions: rows `[B, T, H]` of cosines and sines.
    RopeTable(RopeTable),
    /// The runtime: of this weight, which stays on the host, the row of each token `[B, T, width]`; of a token that it
    /// does not have the first.
    TableRows(String),
    /// The caller, or a generator from its prompt: the rows of soft tokens `[B, T, D]`, zero for other tokens.
    SoftRows,
    /// The same: 0 for soft tokens and 1 for others, `[B, T, 1]`.
    IsText,
    /// The runtime: the resident cache, written in place.
    Cache,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Caller => f.write_str("caller"),
            Role::Optional => f.write_str("optional"),
            Role::Positions(_) | Role::Visible { .. } | Role::KeyPositions { .. } | Role::LastToken(_) => f.write_str("derived"),
            Role::RopeTable(table) => write!(f, "rope table of {}", table.inv_freq.len()),
            Role::TableRows(table) => write!(f, "rows of {table}"),
            Role::SoftRows | Role::IsText => f.write_str("soft tokens"),
            Role::Cache => f.write_str("cache"),
        }
    }
}

/// How the positions of new tokens follow from what a run is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PositionRule {
    /// They count from a number on.
    From(usize),
    /// They count, for each sequence, from what this input `[B]` u32 says: the number of live rows of its past.
    Given(String),
    /// They count the entries of at least 0.5 of this optional input `[B, T]` f32; the rest is padding, at no position.
    /// From 0 on where it is not given.
    Mask(String),
}

/// A rotary table.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// The H/2 inverse frequencies.
    pub inv_freq: Arc<[f32]>,
    /// The positions of its rows.
    pub rule: PositionRule,
}

/// A value given to the graph with every run.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Who provides it.
    pub role: Role,
    /// Its type.
    pub ty: Type,
}

impl Input {
    pub(super) fn example() -> Self {
        Self { name: "x".into(), role: Role::Caller, ty: Type::new(DType::F32, [1]) }
    }
}

impl OpDef for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn attributes(&self) -> String {
        match &self.role {
            Role::Caller => format!("{{{}}}", self.name),
            role => format!("{{{}, {role}}}", self.name),
        }
    }

    fn lowering(&self) -> Lowering {
        Lowering::Source
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [] = expect_operands(inputs)?;
        match self.ty.dtype {
            DType::Packed(format) => Err(format!("{} is {}, which weights alone may be", self.name, format.name())),
            _ => Ok(self.ty.clone()),
        }
    }
}

/// A tensor of the checkpoint, by name; its bytes are never part of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Its key in the weight loader.
    pub name: String,
    /// Its type as stored.
    pub ty: Type,
}

impl Weight {
    pub(super) fn example() -> Self {
        Self { name: "w".into(), ty: Type::new(DType::F32, [1]) }
    }
}

impl OpDef for Weight {
    fn name(&self) -> &'static str {
        "weight"
    }

    fn attributes(&self) -> String {
        format!("{{{}}}", self.name)
    }

    fn lowering(&self) -> Lowering {
        Lowering::Source
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [] = expect_operands(inputs)?;
        if let DType::Packed(format) = self.ty.dtype {
            let [_, row] = self.ty.shape.0[..] else {
                return Err(format!("{} has shape {}, {} is for matrices", self.name, self.ty.shape, format.name()));
            };
            let problem = |problem| format!("{} has {problem}", self.name);
            self.ty.dtype.check_row(row.fixed().unwrap_or(1)).map_err(problem)?;
        }
        Ok(self.ty.clone())
    }
}

/// A scalar known when the graph is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Const {
    /// The number.
    pub value: f32,
}

impl Const {
    pub(super) fn example() -> Self {
        Self { value: 1.0 }
    }
}

impl OpDef for Const {
    fn name(&self) -> &'static str {
        "const"
    }

    fn attributes(&self) -> String {
        format!("{{{:?}}}", self.value)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [] = expect_operands(inputs)?;
        Ok(Type::new(DType::F32, Shape::scalar()))
    }

    fn eval(&self, _: &[&Value], _: &FixedType) -> Result<Data> {
        Ok(Data::F32(vec![self.value]))
    }
}
