//! The handle on one conversation.

use std::{cell::Cell, collections::VecDeque, fmt};

use super::{
    AnswerOptions, Event, Model, Overflow, Usage,
    answer::{Answer, Reader},
    transcript::Transcript,
};
use crate::{
    Error, Result,
    generate::{CancelToken, GemmaGenerator, SampleHooks},
    prompt::Prompt,
    text::{Content, Message},
};

/// One conversation with a [`Model`]: its messages (or plain text), its cache, its sampler. It may go from thread to
/// thread, and keeps its model alive.
///
/// An error leaves it as it was, a partial answer included: [`next_event`](Self::next_event) tries again,
/// [`stop`](Self::stop) gives the answer up and keeps its text. After
/// [`DeviceError::Lost`](crate::error::DeviceError::Lost) and [`Model::recover`] it continues from its history.
pub struct Conversation {
    pub(super) model: Model,
    /// The recovery of the model that the generator is of.
    pub(super) generation: u64,
    pub(super) generator: GemmaGenerator,
    pub(super) options: AnswerOptions,
    pub(super) cancel: CancelToken,
    pub(super) transcript: Transcript,
    pub(super) answer: Option<Answer>,
    pub(super) events: VecDeque<Event>,
    pub(super) hooks: Option<SampleHooks>,
    /// Where the answer under way begins, as long as the hooks have not heard of it.
    pub(super) unheard: Option<usize>,
    /// True if the cached tokens of the next prompt shall be offered to later conversations.
    pub(super) is_new: bool,
    counted: Cell<Option<Counted>>,
}

/// How many tokens the messages take.
#[derive(Clone, Copy)]
struct Counted {
    /// The messages, and how many of them were forgotten, when they were counted.
    messages: usize,
    forgotten: usize,
    tokens: usize,
}

/// A place in a conversation to come back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    messages: usize,
    tokens: usize,
}

impl Conversation {
    pub(super) fn new(model: Model, generator: GemmaGenerator, generation: u64) -> Self {
        let options = AnswerOptions::default();
        let cancel = CancelToken::new();
        let transcript = Transcript::Empty;
        let answer = None;
        let events = VecDeque::new();
        let hooks = None;
        let unheard = None;
        let is_new = true;
        let counted = Cell::new(None);
        Self { model, generation, generator, options, cancel, transcript, answer, events, hooks, unheard, is_new, counted }
    }

    /// The same conversation with other options.
    pub fn with_options(mut self, options: AnswerOptions) -> Self {
        self.options = options;
        self
    }

    /// The options of its answers.
    pub fn options(&self) -> &AnswerOptions {
        &self.options
    }

    /// Changes the options, from the next token on; stop texts from the next answer on.
    pub fn set_options(&mut self, options: AnswerOptions) {
        self.options = options;
    }

    /// The same conversation with hooks: logit processors, a sampler, log-probabilities, which come as
    /// [`Event::Token`]. Forks and saved conversations have none.
    pub fn with_hooks(mut self, hooks: SampleHooks) -> Self {
        self.set_hooks(Some(hooks));
        self
    }

    /// Changes the hooks, from the next token on; `None` removes them.
    pub fn set_hooks(&mut self, hooks: Option<SampleHooks>) {
        self.generator.stop_ahead();
        self.hooks = hooks;
        self.unheard = self.answer.as_ref().map(|answer| self.generator.tokens().len().saturating_sub(answer.tokens.len()));
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A token that cancels the answer under way, from any thread: it then ends with
    /// [`FinishReason::Cancelled`](super::FinishReason::Cancelled) within a moment, whatever the device is at. Clones
    /// stay valid for later answers.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The messages so far, forgotten ones included; none in plain text.
    pub fn messages(&self) -> &[Message] {
        self.transcript.messages()
    }

    /// The tokens that the model saw last: prompt and answer. In the place of each soft token stands its placeholder.
    pub fn tokens(&self) -> &[u32] {
        self.generator.tokens()
    }

    /// Adds a message that is not to be answered yet: instructions, an example, a tool's response. An answer under way
    /// is stopped.
    ///
    /// # Errors
    /// [`Error::Chat`] in plain text.
    pub fn push(&mut self, message: Message) -> Result<()> {
        self.stop();
        self.transcript.push(message)
    }

    /// Adds plain text for the model to continue, without turns. An answer under way is stopped.
    ///
    /// # Errors
    /// [`Error::Chat`] among messages; [`Error::Tokenizer`].
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.stop();
        self.transcript.write(self.model.tokenizer(), text)
    }

    /// Says something as the user and opens the model's answer, whose [events](Self::events) come next: a text, or
    /// [parts](Content) with pictures among them. A message that was cancelled before a word of its answer counts as
    /// answered with nothing.
    ///
    /// # Errors
    /// As [`push`](Self::push) and [`answer`](Self::answer); nothing was said then.
    pub fn send(&mut self, content: impl Into<Content>) -> Result<()> {
        self.send_content(content.into())
    }

    fn send_content(&mut self, content: Content) -> Result<()> {
        self.stop();
        let before = self.transcript.clone();
        if let Some(Message::User(_)) = self.messages().last() {
            self.transcript.push(Message::model(""))?;
        }
        let said = self.transcript.push(Message::user(content)).and_then(|()| self.answer());
        said.inspect_err(|_| self.transcript = before)
    }

    /// Opens the model's answer to what was said. Nothing is computed yet.
    ///
    /// # Errors
    /// [`PromptError::Empty`](crate::error::PromptError::Empty) where nothing was said; [`Error::Chat`] where the
    /// format has no such conversation; [`PromptError::SoftTokens`](crate::error::PromptError::SoftTokens) and
    /// [`PromptError::PictureTooLarge`](crate::error::PromptError::PictureTooLarge) for a picture that the model does
    /// not take; [`Error::ContextFull`] where it does not fit, and [`Overflow::Forget`] is not set or not enough; errors
    /// of the device.
    pub fn answer(&mut self) -> Result<()> {
        self.stop();
        self.catch_up()?;
        let transcript = self.transcript.clone();
        self.open().inspect_err(|_| self.transcript = transcript)
    }

    fn open(&mut self) -> Result<()> {
        let prompt = self.prompt()?;
        let tokens = prompt.len();
        let own = self.generator.rows_kept_of(&prompt);
        if let Some(further) = self.model.further(&prompt, own, self.generation) {
            self.generator = further;
        }
        self.generator.prefill(prompt)?;
        self.unheard = Some(tokens);
        self.cancel.reset();
        self.events.clear();
        let usage = Usage { prompt_tokens: tokens, cached_tokens: self.generator.cached_rows(), completion_tokens: 0 };
        self.answer = Some(Answer::new(self.reader()?, &self.options.stop, usage));
        Ok(())
    }

    pub(super) fn reader(&self) -> Result<Reader> {
        let tokenizer = self.model.tokenizer();
        Ok(match self.transcript {
            Transcript::Turns { .. } => Reader::Turn(self.model.chat_template().parser(tokenizer)?),
            Transcript::Empty | Transcript::Text { .. } => Reader::Text(tokenizer.stream()),
        })
    }

    /// The messages as a prompt with the model's turn opened; messages that do not fit are forgotten, if allowed.
    fn prompt(&mut self) -> Result<Prompt> {
        loop {
            let prompt = self.opened(&self.transcript)?;
            let needed = prompt.len() + 1;
            let capacity = self.max_context();
            if needed <= capacity {
                return Ok(prompt);
            }
            let mut shorter = self.transcript.clone();
            if self.options.overflow == Overflow::Refuse || !self.forget_to(&mut shorter, capacity / 2)? {
                return Err(Error::ContextFull { needed, capacity });
            }
            self.transcript = shorter;
        }
    }

    /// The prompt of a transcript, with the model's turn opened.
    fn opened(&self, transcript: &Transcript) -> Result<Prompt> {
        transcript.prompt(self.model.chat_template(), self.model.tokenizer(), true)
    }

    /// Forgets until the prompt has at most `most` tokens, or nothing can be spared; `false` where nothing could.
    fn forget_to(&self, transcript: &mut Transcript, most: usize) -> Result<bool> {
        let mut spared = false;
        while self.opened(transcript)?.len() > most && transcript.forget() {
            spared = true;
        }
        Ok(spared)
    }

    /// Makes room in a full context for the rest of the answer, at least for one token; failing that, an answer that
    /// has begun ends. An error leaves everything as it was.
    pub(super) fn make_room(&mut self, full: Error) -> Result<()> {
        let capacity = self.max_context();
        let mut transcript = self.transcript.clone();
        let said = self.answer.as_ref().map_or(&[][..], |answer| &answer.tokens);
        let (prompt, kept) = match &mut transcript {
            Transcript::Text { tokens, .. } => {
                *tokens = self.generator.tokens().to_vec();
                transcript.forget();
                let prompt = self.opened(&transcript)?;
                let kept = said.len().min(prompt.len().saturating_sub(1));
                (prompt, kept)
            }
            _ => {
                self.forget_to(&mut transcript, (capacity / 2).saturating_sub(said.len()))?;
                let prompt = self.opened(&transcript)?;
                let free = capacity.saturating_sub(prompt.len());
                let kept = if said.len() < free { said.len() } else { free / 2 };
                (prompt.then(&said[said.len() - kept..]), kept)
            }
        };
        let tokens = prompt.len();
        if tokens >= capacity {
            if said.is_empty() {
                return Err(full);
            }
            self.end(super::FinishReason::Length);
            return Ok(());
        }
        self.generator.prefill(prompt)?;
        (self.transcript, self.unheard) = (transcript, Some(tokens - kept));
        Ok(())
    }

    /// Gives up the answer under way. Its text so far stays as a message; events that were not taken yet are dropped.
    /// Does nothing if there is none.
    pub fn stop(&mut self) {
        if self.answer.is_some() {
            self.end(super::FinishReason::Cancelled);
        }
        self.events.clear();
    }

    /// Most tokens that prompt and answer may have together.
    pub fn max_context(&self) -> usize {
        self.generator.max_context()
    }

    /// Tokens of the context that are taken, by messages and answers. Messages are counted when this is first called
    /// after a change. While they are no conversation in the model's format (instructions alone, for one) the count is
    /// that of [`tokens`](Self::tokens).
    pub fn used(&self) -> usize {
        match &self.transcript {
            _ if self.answer.is_some() => self.generator.tokens().len(),
            Transcript::Empty => 0,
            Transcript::Text { tokens, .. } => tokens.len(),
            Transcript::Turns { messages, forgotten } => self.count(messages.len(), *forgotten),
        }
    }

    fn count(&self, messages: usize, forgotten: usize) -> usize {
        let same = |counted: &Counted| (counted.messages, counted.forgotten) == (messages, forgotten);
        if let Some(counted) = self.counted.get().filter(same) {
            return counted.tokens;
        }
        match self.transcript.prompt(self.model.chat_template(), self.model.tokenizer(), false) {
            Ok(prompt) => {
                self.counted.set(Some(Counted { messages, forgotten, tokens: prompt.len() }));
                prompt.len()
            }
            Err(error) => {
                tracing::debug!(%error, "the messages cannot be counted");
                self.generator.tokens().len()
            }
        }
    }

    /// Tokens of the context that are free.
    pub fn left(&self) -> usize {
        self.max_context().saturating_sub(self.used())
    }

    /// A second conversation with the same past. The cache is copied on the device, and an answer under way continues
    /// in both. The fork has its own cancel token and no hooks.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory) for the copy of the cache;
    /// [`DeviceError::Lost`](crate::error::DeviceError::Lost).
    pub fn fork(&mut self) -> Result<Self> {
        self.catch_up()?;
        let model = self.model.clone();
        let generator = self.generator.fork()?;
        let options = self.options.clone();
        let transcript = self.transcript.clone();
        let answer = self.answer.clone();
        let events = self.events.clone();
        let generation = self.generation;
        let cancel = CancelToken::new();
        let hooks = None;
        let unheard = None;
        let is_new = false;
        let counted = self.counted.clone();
        Ok(Self { model, generation, generator, options, cancel, transcript, answer, events, hooks, unheard, is_new, counted })
    }

    /// The end of what was said so far, to [`rewind`](Self::rewind) to.
    pub fn bookmark(&self) -> Bookmark {
        let tokens = if let Transcript::Text { tokens, forgotten } = &self.transcript { tokens.len() + forgotten } else { 0 };
        Bookmark { messages: self.messages().len(), tokens }
    }

    /// Goes back to a bookmark and drops later messages or text, an answer under way too. The next answer reuses the
    /// cache. Sliding layers still hold the last prefill chunk, and the starts of the last two answers
    /// ([`GeneratorOptions::checkpoints`](crate::generate::GeneratorOptions::checkpoints)).
    pub fn rewind(&mut self, to: &Bookmark) {
        self.stop();
        // Others may come in the place of those that go.
        self.counted.set(None);
        self.transcript.truncate(to.messages, to.tokens);
    }

    /// Follows its model to another device.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        if let Some((generator, generation)) = self.model.moved_on(&self.generator, self.generation)? {
            (self.generator, self.generation) = (generator, generation);
        }
        Ok(())
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages().len())
            .field("generator", &self.generator)
            .field("answering", &self.answer.is_some())
            .finish_non_exhaustive()
    }
}
