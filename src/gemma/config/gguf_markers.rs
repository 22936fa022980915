//! The ids of a picture's and a clip's tokens, by the texts of a GGUF file's vocabulary.

use super::{GemmaArch, MediaTokens, MultimodalConfig};
use crate::weights::GgufMetadata;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// The texts before, in the place of, and after soft tokens.
type Marks = [&'static str; 3];

const PICTURE_3: Marks = ["<start_of_image>", "<image_soft_token>", "<end_of_image>"];
const SOUND_3: Marks = ["<start_of_audio>", "<audio_soft_token>", "<end_of_audio>"];
const PICTURE_4: Marks = ["<|image>", "<|image|>", "<image|>"];
const VIDEO_4: &str = "<|video|>";
const SOUND_4: Marks = ["<|audio>", "<|audio|>", "<audio|>"];

/// The ids, where the vocabulary has them.
pub(super) fn read(metadata: &GgufMetadata, arch: GemmaArch) -> MultimodalConfig {
    let ids = |marks: Marks| {
        let [begin, soft, end] = metadata.places(TOKENS, marks);
        // Gemma 3's stands behind the vocabulary proper, and a file may leave it out.
        let behind = metadata.count(TOKENS).filter(|_| arch == GemmaArch::Gemma3);
        let id = |place: Option<usize>| place.and_then(|place| u32::try_from(place).ok());
        Some(MediaTokens { begin: id(begin)?, soft: id(soft.or(behind))?, end: id(end)? })
    };
    let marks = match arch {
        GemmaArch::Gemma3 => Some((PICTURE_3, None)),
        GemmaArch::Gemma3n => Some((PICTURE_3, Some(SOUND_3))),
        GemmaArch::Gemma4 => Some((PICTURE_4, Some(SOUND_4))),
        _ => None,
    };
    let Some((picture, sound)) = marks else { return MultimodalConfig::default() };
    let [video] = metadata.places(TOKENS, [VIDEO_4]);
    let video = video.filter(|_| arch == GemmaArch::Gemma4).and_then(|place| u32::try_from(place).ok());
    MultimodalConfig { image: ids(picture), audio: sound.and_then(ids), video, ..MultimodalConfig::default() }
}

/// The rows of Gemma 3n's per-layer table that are of text, of `rows` in the file: the converter pads it with zeros for
/// the ids that embedders embed, the first of which ends a picture. To the model these have no row.
pub(crate) fn text_rows(metadata: &GgufMetadata, rows: usize) -> usize {
    let [_, _, end] = metadata.places(TOKENS, PICTURE_3);
    let is_padded = metadata.count(TOKENS) == Some(rows);
    end.filter(|first| is_padded && *first > 0).unwrap_or(rows)
}
