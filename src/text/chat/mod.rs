//! The chat turns of all families: conversations to tokens, and the tokens of an answer to events.

mod call;
pub(crate) mod content;
mod declaration;
mod gemma;
mod gemma4;
mod layout;
mod message;
mod parser;
mod template;
mod value;

use crate::gemma::{
    GemmaConfig,
    family::{Bidirectional, Turns},
};
use crate::text::Tokenizer;
use crate::{Error, Result, prompt::Prompt};
use layout::Layout;

use content::Medium;
pub use content::{Content, Part, VideoFrame};
pub use message::{Instructions, Message, ModelTurn, Tool, ToolCall, ToolResponse};
pub use parser::{ChatEvent, ChatParser, EndReason};
pub use template::ChatTemplate;

/// How a conversation is laid out in tokens. These are the formats of the instruction-tuned models; pre-trained ones
/// and VaultGemma know no turns.
///
/// Source: the chat templates that Google publishes with the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChatFormat {
    /// Gemma 1 and 2: user and model in turn, no instructions.
    Gemma,
    /// Gemma 3 and 3n: the same, and instructions open the first user turn. A user shows pictures, and to Gemma 3n
    /// plays sounds.
    Gemma3,
    /// Gemma 4: turns in any order, instructions of their own, a channel for thoughts, tools, their calls and
    /// responses, pictures and sounds of the user. Without [thinking](Instructions::thinking) the model's turn opens
    /// with a thought that is empty.
    Gemma4,
    /// Gemma 4's E-series (E2B, E4B): the same, and no thought is put into the model's mouth.
    Gemma4E,
}

impl ChatFormat {
    /// The format that a model's instruction-tuned form was trained on. Gemma 3n has that of Gemma 3.
    ///
    /// # Errors
    /// [`Error::Chat`] for VaultGemma, of which there are only pre-trained models, and for EmbeddingGemma.
    pub fn of(config: &GemmaConfig) -> Result<Self> {
        let embeds = || Err(Error::Chat("EmbeddingGemma embeds texts and knows no turns of a conversation".into()));
        let family = config.arch.family();
        match family.turns {
            _ if config.use_bidirectional_attention || family.bidirectional == Bidirectional::Always => embeds(),
            Turns::Gemma => Ok(Self::Gemma),
            Turns::Gemma3 => Ok(Self::Gemma3),
            Turns::Gemma4 if config.per_layer_input.is_some() => Ok(Self::Gemma4E),
            Turns::Gemma4 => Ok(Self::Gemma4),
            Turns::None => Err(Error::Chat(
                "VaultGemma models are pre-trained only and know no turns of a conversation; give them plain text to continue"
                    .into(),
            )),
        }
    }

    /// The conversation as text, BOS token included; `open_turn` opens the model's next turn, unless it is open
    /// already: in Gemma 4 a turn that called tools goes on after their responses.
    ///
    /// This is for eyes and logs. In text, control tokens and a user who types them look alike: to run a model, use
    /// [`prompt`](Self::prompt). A picture reads as `<start_of_image><image: 256 soft tokens><end_of_image>`.
    ///
    /// # Errors
    /// [`Error::Chat`] if the format cannot express the conversation. All: no messages. Gemma 1 to 3: user and model
    /// not in turn, anything of tools, instructions that are not first (or any in Gemma 1 and 2) or that switch
    /// thinking on. Gemma 1 and 2: pictures and sounds. Gemma 4: responses that follow no call, calls that are followed
    /// by another turn and not by a response, tools or thinking in instructions that are not first.
    pub fn render(self, messages: &[Message], open_turn: bool) -> Result<String> {
        Ok(self.lay_out(messages, open_turn)?.render())
    }

    /// The conversation as a prompt, BOS token included, with the soft tokens of its pictures and sounds; `open_turn`
    /// as in [`render`](Self::render).
    ///
    /// Control tokens come from the format alone. The contents of messages and tools are encoded as plain text,
    /// whatever they spell. What stands around a picture or sound is what the model's processor puts there; newlines
    /// merge with those of the text beside it before they become tokens.
    ///
    /// # Errors
    /// As [`render`](Self::render); [`Error::Chat`] for a picture or sound whose control tokens the tokenizer lacks;
    /// [`Error::Tokenizer`] if it lacks another one that the format needs.
    pub fn prompt(self, tokenizer: &Tokenizer, messages: &[Message], open_turn: bool) -> Result<Prompt> {
        self.lay_out(messages, open_turn)?.prompt(tokenizer)
    }

    /// The token ids of [`prompt`](Self::prompt): all that there is to a conversation without pictures and sounds. A
    /// soft token is the id of its placeholder.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn encode(self, tokenizer: &Tokenizer, messages: &[Message], open_turn: bool) -> Result<Vec<u32>> {
        Ok(self.prompt(tokenizer, messages, open_turn)?.into_tokens())
    }

    /// The tokens that end the model's answer, as far as the tokenizer has them. They are `<eos>`, the end of its turn
    /// and the start of another, and in Gemma 4 the token with which it waits for a tool's response.
    pub fn stop_tokens(self, tokenizer: &Tokenizer) -> Vec<u32> {
        parser::ends(self, tokenizer)
    }

    /// Reads what the model emits after a prompt that [`prompt`](Self::prompt) made with `open_turn`, for one turn.
    pub fn parser(self, tokenizer: &Tokenizer) -> ChatParser {
        ChatParser::new(self, tokenizer)
    }

    fn lay_out(self, messages: &[Message], open_turn: bool) -> Result<Layout> {
        if messages.is_empty() {
            return Err(Error::Chat("there is no message; a conversation starts with a user's".into()));
        }
        match self {
            Self::Gemma | Self::Gemma3 => gemma::lay_out(self == Self::Gemma3, messages, open_turn),
            Self::Gemma4 => gemma4::lay_out(messages, open_turn, gemma4::Opening::EmptyThought),
            Self::Gemma4E => gemma4::lay_out(messages, open_turn, gemma4::Opening::Bare),
        }
    }
}
