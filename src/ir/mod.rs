//! The graph: few ops, symbolic dimensions, printable as text.

mod build;
mod case;
mod choices;
mod cooperative;
mod decompose;
pub mod derive;
mod dim;
mod dtype;
pub mod emit;
pub mod fusion;
mod graph;
pub mod kernel;
mod mask;
pub mod ops;
mod options;
pub mod passes;
mod scalar;
pub mod tolerance;
mod value;
pub mod work;

pub use case::Case;
pub use choices::{Alternatives, Fallback, KernelChoices};
pub use decompose::decompose;
pub use dim::{Dim, DimBinding, Shape, Symbol, sym};
pub use dtype::{DType, Packed};
pub use graph::{Graph, Node, NodeId};
pub(crate) use graph::{expect_dtype, expect_weight};
pub use mask::MaskKind;
pub use ops::{Op, OpDef};
pub use options::{Compute, LowerOptions};
pub use passes::{PassCount, PassReport};
pub use scalar::{BinaryFn, UnaryFn};
pub use value::{Data, FixedType, Type, Value};
