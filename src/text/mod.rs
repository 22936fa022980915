//! Text in and out: tokenizers from a `tokenizer.json` or a GGUF file, text as it streams out of a model, and chat
//! turns.
//!
//! Two rules hold everywhere here. Text never becomes a control token: what a user types is encoded as plain text, also
//! where it spells `<end_of_turn>`. And control tokens never become text: decoding leaves them out.
//!
//! ```no_run
//! use gemmaflow::text::{ChatFormat, Message, Tokenizer};
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let tokenizer = Tokenizer::from_file("models/gemma-3-1b-it")?;
//! let prompt = ChatFormat::Gemma3.encode(&tokenizer, &[Message::user("Why is the sky blue?")], true)?;
//! let (mut text, mut shown) = (tokenizer.stream(), String::new());
//! for token in prompt {
//!     if let Some(piece) = text.push(token) {
//!         shown.push_str(&piece);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The model's answer to such a prompt comes back as text, thoughts and tool calls through a [`ChatParser`].

pub(crate) mod chat;
mod control;
mod frame;
mod gguf;
mod listed;
mod stream;
mod tokenizer;

pub use chat::{
    ChatEvent, ChatFormat, ChatParser, ChatTemplate, Content, EndReason, Instructions, Message, ModelTurn, Part, Tool, ToolCall,
    ToolResponse, VideoFrame,
};
pub use stream::TextStream;
#[cfg(feature = "guidance")]
pub(crate) use tokenizer::Piece;
pub use tokenizer::Tokenizer;
