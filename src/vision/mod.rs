//! Pictures as soft tokens: the tower of a model on its device.

mod encoder;
mod patches;

pub use encoder::{VisionEncoder, VisionOptions};
pub use patches::Patches;
