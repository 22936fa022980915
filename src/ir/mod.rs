//! The graph: few ops, symbolic dimensions, printable as text.

mod build;
pub(crate) mod case;
pub(crate) mod choices;
mod cooperative;
pub(crate) mod decompose;
pub(crate) mod derive;
mod dim;
pub(crate) mod emit;
pub(crate) mod fusion;
mod graph;
pub(crate) mod kernel;
mod mask;
pub mod ops;
pub(crate) mod options;
pub(crate) mod passes;
mod scalar;
pub(crate) mod tolerance;
mod value;
pub(crate) mod work;

pub use crate::quant::{DType, Packed};
pub(crate) use case::Case;
pub(crate) use choices::{Alternatives, Fallback, KernelChoices};
pub(crate) use decompose::decompose;
pub use dim::{Dim, DimBinding, Shape, Symbol, sym};
pub use graph::{Graph, Node, NodeId};
pub(crate) use graph::{expect_dtype, expect_weight};
pub use mask::MaskKind;
pub use ops::{Op, OpDef};
pub use options::Compute;
pub(crate) use options::LowerOptions;
pub(crate) use passes::PassReport;
pub use scalar::{BinaryFn, UnaryFn};
pub use value::{Data, FixedType, Type, Value};
