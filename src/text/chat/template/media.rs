//! Pictures, sounds and videos in a model's own template: it writes a control token for each, and the model's processor
//! puts the soft tokens in its place.

use super::super::layout::Frame;
use super::super::{Medium, Message, Part, gemma, gemma4};
use super::guard::Markers;

/// What a template writes for one, and what the processor makes of it.
pub(super) struct Place {
    written: &'static str,
    pub(super) medium: Medium,
    pub(super) frame: Frame,
}

const PLACES: [Place; 6] = [
    Place { written: "<start_of_image>", medium: Medium::Picture, frame: gemma::IMAGE },
    Place { written: "<image_soft_token>", medium: Medium::Picture, frame: gemma::IMAGE },
    Place { written: "<audio_soft_token>", medium: Medium::Sound, frame: gemma::AUDIO },
    // The text around a picture of Gemma 4 is in its template.
    Place { written: "<|image|>", medium: Medium::Picture, frame: Frame { around: "", ..gemma4::IMAGE } },
    Place { written: "<|video|>", medium: Medium::Video, frame: Frame { around: "", ..gemma4::IMAGE } },
    Place { written: "<|audio|>", medium: Medium::Sound, frame: Frame { around: "", ..gemma4::AUDIO } },
];

/// The places that a vocabulary has, by the id of what is written.
pub(super) fn places(markers: &Markers) -> Vec<(u32, &'static Place)> {
    PLACES.iter().filter_map(|place| Some((markers.id(place.written)?, place))).collect()
}

/// The pictures, sounds and videos of a conversation, in order.
pub(super) fn of(messages: &[Message]) -> impl Iterator<Item = &Part> {
    let contents = messages.iter().filter_map(|message| if let Message::User(content) = message { Some(content) } else { None });
    contents.flat_map(|content| content.parts()).filter(|part| part.medium().is_some())
}
