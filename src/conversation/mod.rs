//! One model, many conversations: what an application holds.
//!
//! A [`Model`] is a cheap handle on weights, pipelines and a tokenizer, for any number of threads. A [`Conversation`]
//! has its own cache, history and sampler; it takes messages, and the model's answer comes as [`Event`]s: by an
//! iterator, a callback or a stream. All of them do the same pieces of work, each at most one submit long.
//!
//! ```no_run
//! use gemmaflow::{conversation::Model, generate::GeneratorOptions, runtime::Device};
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let model = Model::open("models/gemma-3-1b-it", Device::Auto, GeneratorOptions::default())?;
//! let mut conversation = model.conversation()?;
//! conversation.send("Why is the sky blue?")?;
//! let mut said = String::new();
//! for event in conversation.events() {
//!     said += &event?.to_string();
//! }
//! # Ok(())
//! # }
//! ```

mod answer;
mod event;
mod handle;
mod memory;
mod model;
mod options;
#[cfg(feature = "vision")]
mod pictures;
mod prefix_cache;
mod saved;
mod senses;
#[cfg(feature = "audio")]
mod sounds;
mod stop;
mod transcript;
#[cfg(feature = "vision")]
mod video;
mod work;

pub use event::{Event, FinishReason, Usage};
pub use handle::{Bookmark, Conversation};
pub use model::Model;
pub use options::{AnswerOptions, Overflow};
pub use senses::Towers;

const _: () = {
    const fn sendable<T: Send + 'static>() {}
    const fn shareable<T: Clone + Send + Sync + 'static>() {}
    sendable::<Conversation>();
    shareable::<AnswerOptions>();
    shareable::<Bookmark>();
    shareable::<Event>();
    shareable::<Model>();
};
