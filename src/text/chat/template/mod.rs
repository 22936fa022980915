//! How the conversations of one model are laid out: as its family's built-in format has it, or as its own chat template
//! says.

mod files;
mod guard;
mod jinja;
mod media;
mod own;

use std::sync::Arc;

use super::{ChatFormat, ChatParser, Instructions, Message, Tool};
use crate::gemma::GemmaConfig;
use crate::text::Tokenizer;
use crate::{Error, Result, files::ModelPath, prompt::Prompt};
use files::Sources;
use own::OwnTemplate;

/// How the conversations of one model are laid out in tokens: by the built-in [`ChatFormat`] of its family, or by the
/// chat template that its files carry where that lays out turns otherwise.
///
/// A template is compared with the built-in formats when a model is opened, by a few conversations that both render.
/// One that differs is followed to the letter. The contents of messages and tools are encoded as plain text all the
/// same, whatever they spell. A template that cannot be followed so refuses conversations and says why; the model still
/// continues plain text.
///
/// Templates run as in transformers (Jinja with blocks trimmed, `raise_exception`, `strftime_now`, `tojson`, Python's
/// methods of texts and dictionaries), within bounds of time and memory. `strftime_now` is in UTC.
#[derive(Clone, Debug)]
pub struct ChatTemplate(Kind);

#[derive(Clone, Debug)]
enum Kind {
    BuiltIn(ChatFormat),
    Own(Arc<OwnTemplate>),
    /// The fault, and advice.
    Refused(Arc<str>),
}

impl ChatTemplate {
    /// The template of a model by the file or the folder of its weights: `tokenizer.chat_template` of a GGUF file; of a
    /// folder `chat_template.jinja`, else the `chat_template` of `tokenizer_config.json`, else that of
    /// `chat_template.json`. Of several with names `tool_use` serves conversations with tools and `default` all others.
    /// Without any it is the built-in format.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] for files that cannot be read.
    pub fn near_weights(config: &GemmaConfig, tokenizer: &Tokenizer, weights: impl Into<ModelPath>) -> Result<Self> {
        Self::from_files(config, tokenizer, &weights.into())
    }

    fn from_files(config: &GemmaConfig, tokenizer: &Tokenizer, weights: &ModelPath) -> Result<Self> {
        let Some(sources) = files::near_weights(weights)? else { return Ok(Self::built_in(config)) };
        let family = ChatFormat::of(config);
        let chosen = Self::chosen(family.as_ref().ok().copied(), tokenizer, sources);
        match &chosen.0 {
            Kind::BuiltIn(_) => {}
            Kind::Own(own) => tracing::info!(
                origin = own.origin(),
                "the model's own chat template lays out turns; it is not that of its family"
            ),
            Kind::Refused(problem) => tracing::warn!(problem = &**problem, "the model's chat template cannot be followed"),
        }
        Ok(chosen)
    }

    /// The template by its Jinja source, for models from parts.
    pub fn from_source(config: &GemmaConfig, tokenizer: &Tokenizer, source: &str) -> Self {
        Self::chosen(ChatFormat::of(config).ok(), tokenizer, Sources::of_text(source))
    }

    /// The built-in format of a model's family.
    pub fn built_in(config: &GemmaConfig) -> Self {
        match ChatFormat::of(config) {
            Ok(format) => Self(Kind::BuiltIn(format)),
            Err(Error::Chat(problem)) => Self(Kind::Refused(problem.into())),
            Err(other) => Self(Kind::Refused(other.to_string().into())),
        }
    }

    fn chosen(family: Option<ChatFormat>, tokenizer: &Tokenizer, sources: Sources) -> Self {
        let origin = sources.origin.clone();
        let refused = |problem: String| {
            let advice = "give it plain text to continue, or a chat template that this crate can follow";
            Self(Kind::Refused(
                format!("the model's own chat template ({origin}) cannot be followed: {problem}; {advice}").into(),
            ))
        };
        let own = match OwnTemplate::new(tokenizer, sources) {
            Ok(own) => own,
            Err(problem) => return refused(problem),
        };
        if let Some(format) = family.and_then(|family| built_in_like(&own, family)) {
            return Self(Kind::BuiltIn(format));
        }
        own.probed(tokenizer).map_or_else(refused, |own| Self(Kind::Own(Arc::new(own))))
    }

    /// The built-in format, if that is how turns are laid out.
    ///
    /// # Errors
    /// [`Error::Chat`] for a model that follows its own template, or that knows no turns.
    pub fn format(&self) -> Result<ChatFormat> {
        match &self.0 {
            Kind::BuiltIn(format) => Ok(*format),
            Kind::Own(own) => Err(Error::Chat(format!("turns are laid out by the model's own chat template ({})", own.origin()))),
            Kind::Refused(problem) => Err(Error::Chat(problem.to_string())),
        }
    }

    /// The conversation as text, for eyes and logs; `open_turn` opens the model's next turn. As [`ChatFormat::render`].
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn render(&self, messages: &[Message], open_turn: bool) -> Result<String> {
        match &self.0 {
            Kind::BuiltIn(format) => format.render(messages, open_turn),
            Kind::Own(own) => own.render(messages, open_turn),
            Kind::Refused(problem) => Err(Error::Chat(problem.to_string())),
        }
    }

    /// The conversation as a prompt, with the soft tokens of its pictures and sounds; `open_turn` opens the model's next
    /// turn. As [`ChatFormat::prompt`].
    ///
    /// # Errors
    /// [`Error::Chat`] for a conversation that the template refuses, of which it leaves a message, a picture or a sound
    /// out, or whose text it rewrites so that it could become a control token; and for a model whose template cannot be
    /// followed. [`Error::Tokenizer`] for text that the vocabulary cannot express.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message], open_turn: bool) -> Result<Prompt> {
        match &self.0 {
            Kind::BuiltIn(format) => format.prompt(tokenizer, messages, open_turn),
            Kind::Own(own) => own.prompt(tokenizer, messages, open_turn),
            Kind::Refused(problem) => Err(Error::Chat(problem.to_string())),
        }
    }

    /// The token ids of [`prompt`](Self::prompt). As [`ChatFormat::encode`].
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], open_turn: bool) -> Result<Vec<u32>> {
        Ok(self.prompt(tokenizer, messages, open_turn)?.into_tokens())
    }

    /// The tokens after which the model's answer is over, as [`ChatFormat::stop_tokens`]; of an own template the one
    /// that ends the model's turn in it, the one that begins a user's, and `<eos>`.
    pub fn stop_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        match &self.0 {
            Kind::BuiltIn(format) => format.stop_tokens(tokenizer),
            Kind::Own(own) => own.stop_tokens(),
            Kind::Refused(_) => Vec::new(),
        }
    }

    /// Reads what the model emits after a prompt that [`prompt`](Self::prompt) made with `open_turn`, for one turn.
    ///
    /// # Errors
    /// [`Error::Chat`] for a model whose template cannot be followed.
    pub fn parser(&self, tokenizer: &Tokenizer) -> Result<ChatParser> {
        match &self.0 {
            Kind::BuiltIn(format) => Ok(format.parser(tokenizer)),
            Kind::Own(own) => Ok(own.parser(tokenizer)),
            Kind::Refused(problem) => Err(Error::Chat(problem.to_string())),
        }
    }
}

/// The built-in format that lays out every probe as the template does, the family's own first.
fn built_in_like(own: &OwnTemplate, family: ChatFormat) -> Option<ChatFormat> {
    let others = [ChatFormat::Gemma, ChatFormat::Gemma3, ChatFormat::Gemma4, ChatFormat::Gemma4E];
    std::iter::once(family).chain(others).find(|format| {
        let laid_out = |messages: &[Message]| {
            let theirs = own.rendered(messages, true);
            match (theirs, format.render(messages, true)) {
                (Ok(theirs), Ok(ours)) => theirs == ours,
                (Err(_), Err(_)) => true,
                _ => false,
            }
        };
        let beyond = |messages: &[Message]| {
            own.rendered(messages, true).map_or(true, |theirs| format.render(messages, true).is_ok_and(|ours| ours == theirs))
        };
        let is_newest = matches!(format, ChatFormat::Gemma4 | ChatFormat::Gemma4E);
        probes().iter().all(|probe| laid_out(probe)) && (!is_newest || probes_beyond().iter().all(|probe| beyond(probe)))
    })
}

/// Conversations that every family lays out in a way of its own.
fn probes() -> [Vec<Message>; 4] {
    let [user, model] = [Message::user(" first question\n"), Message::model("\n an answer ")];
    [
        vec![user.clone()],
        vec![user.clone(), model.clone(), Message::user("second\nquestion")],
        vec![user.clone(), model.clone(), user.clone(), model, user.clone()],
        vec![Message::system(" the rules \n"), user],
    ]
}

/// Conversations of formats that know thoughts and tools.
fn probes_beyond() -> [Vec<Message>; 2] {
    let instructed = |instructions: Instructions| vec![Message::System(instructions), Message::user("a question")];
    let town = serde_json::json!({"town": {"type": "string", "description": "where"}});
    let parameters = serde_json::json!({"type": "object", "properties": town, "required": ["town"]});
    let tool = Tool { name: "weather".into(), description: "what it is like".into(), parameters };
    [
        instructed(Instructions { text: "rules".into(), thinking: true, tools: Vec::new() }),
        instructed(Instructions { text: "rules".into(), thinking: false, tools: vec![tool] }),
    ]
}
