//! The number of soft tokens of a clip, and the rows of a model without an audio encoder.

use super::Features;
use crate::error::AudioError;

/// Soft tokens of every clip of the released Gemma 3n models, whatever its length (`audio_soft_tokens_per_image`).
/// What the encoder does not fill takes the embedding of the padding token.
pub const GEMMA3N_SOFT_TOKENS: usize = 188;

/// Samples of one soft token of Gemma 4 12B (`audio_embed_dim`): 40 ms.
pub const RAW_FRAME_LENGTH: usize = 640;

/// Soft tokens of Gemma 4 E2B and E4B for a clip of `valid_frames` valid frames, 25 a second.
///
/// The encoder's two convolutions each keep every second frame, the first included.
#[must_use]
pub fn gemma4_soft_tokens(valid_frames: usize) -> usize {
    valid_frames.div_ceil(2).div_ceil(2)
}

/// Frames that Gemma 3n's encoder makes of `frames` frames of features, 6.25 a second.
///
/// Two convolutions of stride 2, then every fourth frame. A clip takes [`GEMMA3N_SOFT_TOKENS`] soft tokens all the
/// same, and 30 s fill exactly these.
#[must_use]
pub fn gemma3n_encoder_frames(frames: usize) -> usize {
    frames.div_ceil(2).div_ceil(2).div_ceil(4)
}

/// Rows, and so soft tokens, of [`raw_frames`] for `samples` samples; 0 for a row of length 0.
#[must_use]
pub fn raw_frame_count(samples: usize, row_length: usize) -> usize {
    samples.checked_div(row_length).map_or(0, |_| samples.div_ceil(row_length))
}

/// The input of Gemma 4 12B, which has no audio encoder: a clip's samples at 16 kHz in rows of `row_length`
/// ([`RAW_FRAME_LENGTH`] in the released model), the last filled with zeros. All rows are valid, and none is cut off.
///
/// Source: transformers, `gemma4_unified/feature_extraction_gemma4_unified.py`.
///
/// # Errors
///
/// [`AudioError::Empty`] without samples, [`AudioError::Extractor`] for rows of length 0.
pub fn raw_frames(samples: &[f32], row_length: usize) -> Result<Features, AudioError> {
    if row_length == 0 {
        return Err(AudioError::Extractor("rows of 0 samples, expected audio_embed_dim, which is 640".into()));
    }
    if samples.is_empty() {
        return Err(AudioError::Empty);
    }
    let frames = raw_frame_count(samples.len(), row_length);
    let mut values = samples.to_vec();
    values.resize(frames * row_length, 0.0);
    Ok(Features { values, valid: vec![true; frames], frames, width: row_length })
}
