//! Pictures as soft tokens: the tower of a model on its device.

mod encoder;

pub use crate::tower::TowerOptions;
pub use encoder::VisionEncoder;
