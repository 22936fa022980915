//! Pictures as soft tokens: the tower of a model on its device.

pub(crate) mod encoder;
mod texture;

pub use crate::tower::{TowerMemory, TowerOptions};
pub use encoder::VisionEncoder;
