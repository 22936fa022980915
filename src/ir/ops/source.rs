//! Where values come from: inputs, weights, constants.

use super::{Lowering, OpDef, expect_operands};
use crate::{
    Result,
    ir::{DType, Data, FixedType, Shape, Type, Value},
};

/// Who provides an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    /// The caller, with every run.
    Caller,
    /// The runtime, from the position of each new token: the positions themselves.
    Positions,
    /// The runtime, from the positions: rows of cosines and sines of the rotary table with this name.
    RopeTable(String),
    /// The runtime: the resident cache, written in place.
    Cache,
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
            Role::RopeTable(table) => format!("{{{}, rope table {table}}}", self.name),
            Role::Caller => format!("{{{}}}", self.name),
            role => format!("{{{}, {role:?}}}", self.name),
        }
    }

    fn lowering(&self) -> Lowering {
        Lowering::Source
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [] = expect_operands(inputs)?;
        Ok(self.ty.clone())
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
