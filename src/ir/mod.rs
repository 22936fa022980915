//! The graph: few ops, symbolic dimensions, printable as text.

mod dtype;
mod mask;

pub use dtype::DType;
pub use mask::MaskKind;
