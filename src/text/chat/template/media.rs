//! Pictures and sounds in a model's own template: it writes a control token for each, and the model's processor puts the
//! soft tokens in its place.

use super::super::layout::Frame;
use super::super::{Message, gemma, gemma4};
use super::guard::Markers;
use crate::prompt::{Modality, SoftTokens};

/// What a template writes for a picture or sound, and what the processor makes of it.
pub(super) struct Place {
    written: &'static str,
    pub(super) modality: Modality,
    pub(super) frame: Frame,
}

const PLACES: [Place; 5] = [
    Place { written: "<start_of_image>", modality: Modality::Image, frame: gemma::IMAGE },
    Place { written: "<image_soft_token>", modality: Modality::Image, frame: gemma::IMAGE },
    Place { written: "<audio_soft_token>", modality: Modality::Audio, frame: gemma::AUDIO },
    // The text around a picture of Gemma 4 is in its template.
    Place { written: "<|image|>", modality: Modality::Image, frame: Frame { around: "", ..gemma4::IMAGE } },
    Place { written: "<|audio|>", modality: Modality::Audio, frame: Frame { around: "", ..gemma4::AUDIO } },
];

/// The places that a vocabulary has, by the id of what is written.
pub(super) fn places(markers: &Markers) -> Vec<(u32, &'static Place)> {
    PLACES.iter().filter_map(|place| Some((markers.id(place.written)?, place))).collect()
}

/// The pictures and sounds of a conversation, in order.
pub(super) fn soft_tokens(messages: &[Message]) -> impl Iterator<Item = &SoftTokens> {
    let contents = messages.iter().filter_map(|message| if let Message::User(content) = message { Some(content) } else { None });
    contents.flat_map(|content| content.soft_tokens())
}
