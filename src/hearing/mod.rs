//! Sounds for models that hear: the audio towers of Gemma 4 and Gemma 3n, and the projection of Gemma 4 12B.

pub(crate) mod encoder;

pub use crate::tower::{TowerMemory, TowerOptions};
pub use encoder::AudioEncoder;
