//! A model's output as events.

use super::call::CallText;
use super::layout::EOS;
use super::value::QUOTE;
use super::{ChatFormat, ToolCall, gemma, gemma4};
use crate::text::{TextStream, Tokenizer};

/// Most bytes of one tool call. The rest of a longer call is read and dropped.
const MAX_CALL: usize = 1 << 20;

/// Something that the model said.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ChatEvent {
    /// More of the answer's text, in whole characters.
    Text(String),
    /// More of what the model thinks before it answers, in whole characters. Not for the user.
    Thought(String),
    /// A call of a tool, once it is complete.
    ToolCall(ToolCall),
    /// A call of a tool that cannot be read: cut off, too long (1 MiB), or not in the format.
    BrokenToolCall {
        /// The model's output between the tokens of the call; quotation tokens are spelled `<|"|>`.
        text: String,
        /// The fault.
        problem: String,
    },
    /// The answer is over. Always the last event, and there once.
    End(EndReason),
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The model ended its turn.
    Turn,
    /// The model waits for the responses to the tools that it called.
    ToolResponse,
    /// The tokens ended before the model did: [`ChatParser::finish`] came first.
    Cut,
}

/// A control token that structures an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Channel,
    ChannelEnd,
    Call,
    CallEnd,
    Quote,
    End(EndReason),
}

/// The marks of a format by their ids, as far as the tokenizer has them.
fn marks(format: ChatFormat, tokenizer: &Tokenizer) -> Vec<(u32, Mark)> {
    let end = Mark::End(EndReason::Turn);
    let names: &[(&str, Mark)] = match format {
        ChatFormat::Gemma | ChatFormat::Gemma3 => &[(EOS, end), (gemma::TURN, end), (gemma::TURN_END, end)],
        ChatFormat::Gemma4 | ChatFormat::Gemma4E => &[
            (EOS, end),
            (gemma4::TURN, end),
            (gemma4::TURN_END, end),
            (gemma4::RESPONSE, Mark::End(EndReason::ToolResponse)),
            (gemma4::CHANNEL, Mark::Channel),
            (gemma4::CHANNEL_END, Mark::ChannelEnd),
            (gemma4::CALL, Mark::Call),
            (gemma4::CALL_END, Mark::CallEnd),
            (QUOTE, Mark::Quote),
        ],
    };
    names.iter().filter_map(|(name, mark)| Some((tokenizer.special_id(name)?, *mark))).collect()
}

/// The marks of a template by its ends, and by the ids of the names that it knows: thoughts and calls as Gemma 4 and
/// FunctionGemma have them.
pub(super) fn marks_of_template(ends: &[u32], known: impl Fn(&str) -> Option<u32>) -> Vec<(u32, Mark)> {
    let names = [
        (gemma4::RESPONSE, Mark::End(EndReason::ToolResponse)),
        (gemma4::CHANNEL, Mark::Channel),
        (gemma4::CHANNEL_END, Mark::ChannelEnd),
        (gemma4::CALL, Mark::Call),
        (gemma4::CALL_END, Mark::CallEnd),
        (QUOTE, Mark::Quote),
        ("<start_function_response>", Mark::End(EndReason::ToolResponse)),
        ("<start_function_call>", Mark::Call),
        ("<end_function_call>", Mark::CallEnd),
        ("<escape>", Mark::Quote),
    ];
    let named = names.into_iter().filter_map(|(name, mark)| Some((known(name)?, mark)));
    ends.iter().map(|end| (*end, Mark::End(EndReason::Turn))).chain(named).collect()
}

/// The ids of the marks that end an answer.
pub(super) fn ends(format: ChatFormat, tokenizer: &Tokenizer) -> Vec<u32> {
    let marks = marks(format, tokenizer).into_iter();
    marks.filter(|(_, mark)| matches!(mark, Mark::End(_))).map(|(id, _)| id).collect()
}

/// Where in an answer the parser is.
#[derive(Clone, Debug)]
enum State {
    Text,
    /// In a channel whose name is not complete yet: what there is of it, a beginning of [`gemma4::THOUGHT`].
    ChannelName(String),
    /// In a channel; `true` while a line break is held back that may be its last.
    Thought {
        held_break: bool,
    },
    Call(CallText),
    /// In a call that is too long.
    Overlong,
    Over,
}

/// Reads one answer of a model, token by token. Text and thoughts come at once; only a tool call under way is kept.
///
/// Any tokens at all give events. Where an answer breaks its format:
/// - what is in a channel of any name is a thought; the name `thought` and the line breaks around the thought are left
///   out;
/// - a channel that is not closed ends where a call begins or the answer ends;
/// - a call that is not closed ends where another, a channel, or the answer's end begins, as
///   [`ChatEvent::BrokenToolCall`];
/// - a token that begins a turn ends the answer; after the end nothing is read;
/// - texts of a call that stand between `"` or `'` in place of its quotation tokens are read as JSON and Python have
///   them;
/// - all other control tokens, and closing ones without an opening one, give nothing.
///
/// ```no_run
/// use gemmaflow::text::{ChatEvent, ChatFormat, Message, ModelTurn, Tokenizer};
///
/// # fn generated(prompt: &[u32]) -> Vec<u32> { Vec::new() }
/// # fn main() -> gemmaflow::Result<()> {
/// let tokenizer = Tokenizer::from_file("models/gemma-4-31b-it")?;
/// let mut messages = vec![Message::user("Why is the sky blue?")];
/// let prompt = ChatFormat::Gemma4.encode(&tokenizer, &messages, true)?;
/// let (mut parser, mut turn) = (ChatFormat::Gemma4.parser(&tokenizer), ModelTurn::default());
/// let mut shown = String::new();
/// for token in generated(&prompt) {
///     for event in parser.push(token) {
///         if let ChatEvent::Text(text) = &event {
///             shown.push_str(text);
///         }
///         turn.push(event);
///     }
/// }
/// parser.finish().into_iter().for_each(|event| turn.push(event));
/// messages.push(Message::Model(turn));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChatParser {
    marks: Vec<(u32, Mark)>,
    text: TextStream,
    state: State,
}

impl ChatParser {
    pub(super) fn new(format: ChatFormat, tokenizer: &Tokenizer) -> Self {
        Self::with_marks(marks(format, tokenizer), tokenizer)
    }

    pub(super) fn with_marks(marks: Vec<(u32, Mark)>, tokenizer: &Tokenizer) -> Self {
        Self { marks, text: tokenizer.stream(), state: State::Text }
    }

    /// Takes the next token and gives the events that are certain now.
    pub fn push(&mut self, token: u32) -> Vec<ChatEvent> {
        let mut events = Vec::new();
        if matches!(self.state, State::Over) {
            return events;
        }
        match self.marks.iter().find(|(id, _)| *id == token) {
            Some(&(_, mark)) => self.mark(mark, &mut events),
            None => {
                if let Some(text) = self.text.push(token) {
                    self.take(&text, &mut events);
                }
            }
        }
        events
    }

    /// Ends the tokens. Gives the text that was held back, and the end, if it has not come yet.
    pub fn finish(&mut self) -> Vec<ChatEvent> {
        let mut events = Vec::new();
        if !matches!(self.state, State::Over) {
            self.mark(Mark::End(EndReason::Cut), &mut events);
        }
        events
    }

    fn mark(&mut self, mark: Mark, events: &mut Vec<ChatEvent>) {
        let rest = self.text.finish();
        self.take(&rest, events);
        match (mark, &mut self.state) {
            (Mark::Quote, State::Call(call)) => {
                call.quote();
                self.bound_call(events);
            }
            (Mark::CallEnd, State::Call(call)) => {
                events.push(match call.read() {
                    Ok(call) => ChatEvent::ToolCall(call),
                    Err(problem) => ChatEvent::BrokenToolCall { text: call.spelled(), problem },
                });
                self.state = State::Text;
            }
            (Mark::CallEnd, State::Overlong) => self.state = State::Text,
            (Mark::Channel, State::ChannelName(_) | State::Thought { .. }) => {}
            (Mark::ChannelEnd, State::ChannelName(_) | State::Thought { .. }) => self.enter(State::Text, events),
            (Mark::Quote | Mark::CallEnd | Mark::ChannelEnd, _) => {}
            (Mark::Channel, _) => self.enter(State::ChannelName(String::new()), events),
            (Mark::Call, _) => self.enter(State::Call(CallText::default()), events),
            (Mark::End(reason), _) => {
                self.enter(State::Over, events);
                events.push(ChatEvent::End(reason));
            }
        }
    }

    /// Goes on to another state. A call that is left so did not come to its own end.
    fn enter(&mut self, next: State, events: &mut Vec<ChatEvent>) {
        if let State::Call(call) = std::mem::replace(&mut self.state, next) {
            events.push(ChatEvent::BrokenToolCall { text: call.spelled(), problem: "it is cut off".into() });
        }
    }

    /// Takes text that is certain.
    fn take(&mut self, text: &str, events: &mut Vec<ChatEvent>) {
        if text.is_empty() {
            return;
        }
        match &mut self.state {
            State::Text => events.push(ChatEvent::Text(text.into())),
            State::ChannelName(name) => {
                name.push_str(text);
                if gemma4::THOUGHT != name && gemma4::THOUGHT.starts_with(name.as_str()) {
                    return;
                }
                let begun = std::mem::take(name);
                self.state = State::Thought { held_break: false };
                self.take(begun.strip_prefix(gemma4::THOUGHT).unwrap_or(&begun), events);
            }
            State::Thought { held_break } => {
                let certain = text.strip_suffix('\n').unwrap_or(text);
                let thought = format!("{}{certain}", if *held_break { "\n" } else { "" });
                *held_break = certain.len() < text.len();
                if !thought.is_empty() {
                    events.push(ChatEvent::Thought(thought));
                }
            }
            State::Call(call) => {
                call.push(text);
                self.bound_call(events);
            }
            State::Overlong | State::Over => {}
        }
    }

    fn bound_call(&mut self, events: &mut Vec<ChatEvent>) {
        if let State::Call(call) = &self.state
            && call.len() > MAX_CALL
        {
            events
                .push(ChatEvent::BrokenToolCall { text: call.spelled(), problem: format!("it is longer than {MAX_CALL} bytes") });
            self.state = State::Overlong;
        }
    }
}
