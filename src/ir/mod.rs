//! The graph: few ops, symbolic dimensions, printable as text.

mod dtype;

pub use dtype::DType;
