//! From a kernel to WGSL, and to the module and bindings that wgpu needs. The only module that names `naga`.

mod compose;
mod reflect;
mod sizes;
mod sources;

pub use compose::{compose, standard, uniform_sizes};
pub use reflect::{Access, Binding, Reflected, reflect};
pub use sizes::{SIZES_BINDING, Size, Sizes, size_words};
pub(crate) use sources::fingerprint;
