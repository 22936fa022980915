//! An answer under way.

use std::collections::VecDeque;

use super::{Event, FinishReason, Usage, stop::StopTexts};
use crate::text::{ChatEvent, ChatParser, EndReason, ModelTurn, TextStream};

/// The reader that turns tokens into events.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    Text(TextStream),
    Turn(ChatParser),
}

impl Reader {
    fn push(&mut self, token: u32) -> Vec<ChatEvent> {
        match self {
            Self::Text(text) => text.push(token).map(ChatEvent::Text).into_iter().collect(),
            Self::Turn(parser) => parser.push(token),
        }
    }

    fn finish(&mut self) -> Vec<ChatEvent> {
        match self {
            Self::Text(text) => vec![ChatEvent::Text(text.finish())],
            Self::Turn(parser) => parser.finish(),
        }
    }
}

/// The answer so far, and the state to read on.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    reader: Reader,
    stops: StopTexts,
    /// The whole answer as a message.
    pub(super) turn: ModelTurn,
    pub(super) usage: Usage,
    /// The tokens of it.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt that were told to be read.
    pub(super) read: usize,
}

impl Answer {
    pub(super) fn new(reader: Reader, stop: &[String], usage: Usage) -> Self {
        let stops = StopTexts::new(stop);
        let turn = ModelTurn::default();
        let tokens = Vec::new();
        let read = usage.cached_tokens;
        Self { reader, stops, turn, usage, tokens, read }
    }

    /// The texts that end it.
    pub(super) fn stop_texts(&self) -> &[String] {
        self.stops.texts()
    }

    /// Takes the next token; `is_stop` says that no other follows. Returns the reason if the answer ends with it.
    pub(super) fn push(&mut self, token: u32, is_stop: bool, events: &mut VecDeque<Event>) -> Option<FinishReason> {
        self.tokens.push(token);
        self.usage.completion_tokens += 1;
        let mut finish_reason = None;
        for event in self.reader.push(token) {
            finish_reason = match event {
                ChatEvent::End(EndReason::ToolResponse) => Some(FinishReason::ToolResponse),
                ChatEvent::End(_) => Some(FinishReason::Turn),
                event => self.send(event, events),
            };
            if finish_reason.is_some() {
                break;
            }
        }
        finish_reason.or(is_stop.then_some(FinishReason::Turn))
    }

    /// Ends it: held-back text is emitted, unless a stop text ended the answer, and then the end.
    pub(super) fn finish(&mut self, finish_reason: FinishReason, events: &mut VecDeque<Event>) {
        if !matches!(finish_reason, FinishReason::Stop(_)) {
            for event in self.reader.finish() {
                self.send(event, events);
            }
            let rest = self.stops.finish();
            self.tell(Event::Text(rest), events);
        }
        events.push_back(Event::End { finish_reason, usage: self.usage });
    }

    fn send(&mut self, event: ChatEvent, events: &mut VecDeque<Event>) -> Option<FinishReason> {
        let ChatEvent::Text(text) = event else {
            // Text that was held back came before.
            let rest = self.stops.finish();
            self.tell(Event::Text(rest), events);
            self.turn.push(event.clone());
            events.extend(Event::of(event));
            return None;
        };
        let (text, stop) = self.stops.push(&text);
        self.tell(Event::Text(text), events);
        stop.map(FinishReason::Stop)
    }

    fn tell(&mut self, event: Event, events: &mut VecDeque<Event>) {
        if let Event::Text(text) = &event {
            if text.is_empty() {
                return;
            }
            self.turn.text.push_str(text);
        }
        events.push_back(event);
    }
}
