//! Checkpoints on disk: typed bytes by name, never widened as a whole.
//!
//! The only module that knows file formats.

mod tensor;

pub use tensor::{Tensor, TensorSource};
