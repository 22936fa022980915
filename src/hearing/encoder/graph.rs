//! The graph that a tower's run is of, for those who look into it.

use super::{AudioEncoder, size_for};
use crate::{Error, Result, audio::Features, error::PromptError, flow::BuiltModel, profile::CompileProfile, tower::TowerInputs};

/// The graph of a tower for a clip of `frames` frames.
///
/// # Errors
/// What building says.
pub fn clip_graph(encoder: &AudioEncoder, frames: usize) -> Result<BuiltModel> {
    encoder.shared.tower.build(size_for(frames))
}

/// How [`clip_graph`] is compiled.
pub fn clip_profile(encoder: &AudioEncoder) -> &CompileProfile {
    encoder.shared.tower.profile()
}

/// The inputs of [`clip_graph`] for a clip.
///
/// # Errors
/// As [`AudioEncoder::encode_features`].
pub fn clip_inputs(encoder: &AudioEncoder, features: &Features) -> Result<TowerInputs> {
    let width = encoder.shared.config.feature_size();
    let Features { values, valid, frames, .. } = features;
    if features.width != width || *frames == 0 || values.len() != frames * width || valid.len() != *frames {
        let found = format!("{frames} frames of {} with {} numbers", features.width, values.len());
        let problem = format!("features of a clip are {found}, expected one frame or more of {width}");
        return Err(Error::Prompt(PromptError::SoftTokens(problem)));
    }
    Ok(encoder.shared.inputs(features, size_for(*frames)))
}
