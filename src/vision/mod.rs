//! Pictures as soft tokens: the tower of a model on its device.

mod encoder;

pub use encoder::{VisionEncoder, VisionOptions};
