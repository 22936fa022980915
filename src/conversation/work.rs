//! Answering, one piece of work at a time.

use std::{
    future::Future,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{Conversation, Event, FinishReason, Overflow, transcript::Transcript};
use crate::{
    Error, Result,
    generate::{CancelToken, Chosen, GemmaGenerator, SampleOpts},
    platform,
    runtime::Wait,
    text::Message,
};

impl Conversation {
    /// The next event of the answer under way; `None` where there is none. A cancelled answer ends within a moment,
    /// whatever the device is at.
    ///
    /// # Errors
    /// Errors of the device and of hooks; the answer stays open, and the next call tries again.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        platform::wait("an answer", self.next_event_by(Wait::Thread))
    }

    /// [`next_event`](Self::next_event) without blocking the thread longer than a submit takes to record; needs no
    /// particular executor.
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event).
    pub async fn next_event_async(&mut self) -> Result<Option<Event>> {
        self.next_event_by(Wait::Task).await
    }

    async fn next_event_by(&mut self, wait: Wait) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.answer.is_none() {
                return Ok(None);
            }
            // First, as it waits for nothing any more that was begun on a device since lost.
            self.catch_up()?;
            if wait == Wait::Task {
                self.look_ahead();
            }
            self.settled(wait).await?;
            self.work(wait).await?;
        }
    }

    /// Begins the step after the one that is under way.
    fn look_ahead(&mut self) {
        let Some(left) = self.left_to_say() else { return };
        self.generator.set_cancel(self.cancel.clone());
        self.generator.look_ahead(&self.options.sampling, left);
        self.generator.set_cancel(CancelToken::new());
    }

    /// Lets the task wait, where it is the task that waits, so that the next piece of work does not.
    async fn settled(&mut self, wait: Wait) -> Result<()> {
        match wait {
            Wait::Thread => Ok(()),
            Wait::Task => self.generator.settled(&self.cancel).await,
        }
    }

    /// The events of the answer under way; the last is its end, or an error.
    pub fn events(&mut self) -> impl Iterator<Item = Result<Event>> + '_ {
        let mut failed = false;
        std::iter::from_fn(move || {
            let event = if failed { None } else { self.next_event().transpose() };
            failed = matches!(event, Some(Err(_)));
            event
        })
    }

    /// As [`events`](Self::events), as a stream for any executor.
    pub fn stream(&mut self) -> impl Stream<Item = Result<Event>> + Send + Unpin + '_ {
        EventStream { conversation: Some(self), next: None }
    }

    /// Calls `on_event` for each event up to the end; `Break` stops the answer, and what was said stays. Returns what
    /// was said.
    ///
    /// # Errors
    /// As [`next_event`](Self::next_event); [`CallbackError::Panicked`](crate::error::CallbackError::Panicked) where
    /// `on_event` panics. The answer is stopped then too.
    pub fn finish(&mut self, mut on_event: impl FnMut(&Event) -> ControlFlow<()>) -> Result<String> {
        self.finish_telling(&mut on_event)
    }

    fn finish_telling(&mut self, on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<String> {
        let mut said = String::new();
        loop {
            let event = match self.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(said),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            };
            if let Event::Text(text) = &event {
                said.push_str(text);
            }
            match catch_unwind(AssertUnwindSafe(|| on_event(&event))) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => {
                    self.stop();
                    return Ok(said);
                }
                Err(panic) => {
                    self.stop();
                    return Err(Error::panicked("the callback for events", panic.as_ref()));
                }
            }
        }
    }

    /// Does one piece of work for the answer under way.
    async fn work(&mut self, wait: Wait) -> Result<()> {
        self.catch_up()?;
        let Some(left) = self.left_to_say() else { return Ok(()) };
        if let (Some(begin), Some(hooks)) = (self.unheard, &mut self.hooks) {
            hooks.begin(begin)?;
            self.unheard = None;
        }
        let sampling = &self.options.sampling;
        self.generator.set_cancel(self.cancel.clone());
        let outcome = match &mut self.hooks {
            None => self.generator.advance_by(sampling, left, wait).await.map(|tokens| (tokens, None)),
            Some(hooks) => self.generator.advance_hooked(sampling, hooks).map(|chosen| {
                let token = chosen.as_ref().map(|chosen| chosen.token);
                (token.into_iter().collect(), chosen)
            }),
        };
        self.generator.set_cancel(CancelToken::new());
        match outcome {
            Err(full @ Error::ContextFull { .. }) if self.options.overflow == Overflow::Forget => self.make_room(full),
            Err(Error::Cancelled(_)) if self.cancel.is_cancelled() => {
                self.end(FinishReason::Cancelled);
                Ok(())
            }
            outcome => {
                let (tokens, chosen) = outcome?;
                self.take(&tokens, chosen);
                Ok(())
            }
        }
    }

    /// Does the work before a step together with others. Returns `true` if such a step is next. Conversations with
    /// hooks take theirs alone.
    pub(super) async fn ready_to_step(&mut self, wait: Wait) -> Result<bool> {
        self.catch_up()?;
        self.settled(wait).await?;
        if self.hooks.is_some() {
            self.work(wait).await?;
            while self.generator.looks_ahead() {
                self.settled(wait).await?;
                self.work(wait).await?;
            }
            return Ok(false);
        }
        if self.left_to_say().is_none() {
            return Ok(false);
        }
        self.generator.set_cancel(self.cancel.clone());
        let ready = self.generator.ready_but_for_the_last(&self.options.sampling);
        self.generator.set_cancel(CancelToken::new());
        match ready {
            Err(Error::Cancelled(_)) if self.cancel.is_cancelled() => {
                self.end(FinishReason::Cancelled);
                Ok(false)
            }
            Err(full @ Error::ContextFull { .. }) if self.options.overflow == Overflow::Forget => {
                self.make_room(full).map(|()| false)
            }
            Ok(false) => {
                self.take(&[], None);
                Ok(false)
            }
            ready => ready,
        }
    }

    /// How many tokens the answer under way may still have; `None` where it ends here, or there is none.
    pub(super) fn left_to_say(&mut self) -> Option<usize> {
        let said = self.answer.as_ref()?.tokens.len();
        let left = self.options.max_tokens.map_or(usize::MAX, |most| most.saturating_sub(said));
        let is_full = said > 0 && self.options.overflow == Overflow::Refuse && self.generator.is_full();
        let finish_reason = match left {
            _ if self.cancel.is_cancelled() => FinishReason::Cancelled,
            0 => FinishReason::Length,
            _ if is_full => FinishReason::Length,
            left => return Some(left),
        };
        self.end(finish_reason);
        None
    }

    /// The generator and sampling that take a step together with others.
    pub(super) fn for_step(&mut self) -> (&mut GemmaGenerator, SampleOpts) {
        self.generator.set_cancel(self.cancel.clone());
        (&mut self.generator, self.options.sampling)
    }

    /// Takes its part of a step together with others. One that was cancelled ends it for all of them: the others take
    /// it again.
    pub(super) fn take_step(&mut self, stepped: Result<u32>) -> Result<()> {
        self.generator.set_cancel(CancelToken::new());
        match stepped {
            Err(Error::Cancelled(_)) if self.cancel.is_cancelled() => self.end(FinishReason::Cancelled),
            Err(Error::Cancelled(_)) => {}
            token => self.take(&[token?], None),
        }
        Ok(())
    }

    /// Takes what a piece of work gave.
    pub(super) fn take(&mut self, tokens: &[u32], chosen: Option<Chosen>) {
        let Some(answer) = &mut self.answer else { return };
        let said = answer.tokens.len();
        let prompt = answer.usage.prompt_tokens;
        if said == 0 {
            let done = if tokens.is_empty() { self.generator.cached_rows().min(prompt) } else { prompt };
            // A last token that is run by itself is no event.
            let further = done > std::mem::replace(&mut answer.read, done) && done + 1 < prompt;
            if further || !tokens.is_empty() {
                self.events.push_back(Event::Prompt { done, total: prompt });
            }
        }
        if said == 0 && !tokens.is_empty() {
            // The next prompt begins with this one.
            self.generator.checkpoint();
            if std::mem::take(&mut self.is_new) {
                self.model.offer(&self.generator, self.generation);
            }
        }
        self.events.extend(chosen.filter(|chosen| chosen.logprob.is_some()).map(Event::Token));
        for (index, token) in tokens.iter().enumerate() {
            let Some(answer) = &mut self.answer else { return };
            let finish_reason = answer.push(*token, self.generator.is_stop(*token), &mut self.events);
            let full = self.options.max_tokens.is_some_and(|most| answer.tokens.len() >= most);
            if let Some(finish_reason) = finish_reason.or(full.then_some(FinishReason::Length)) {
                self.generator.take_back(tokens.len() - index - 1);
                return self.end(finish_reason);
            }
        }
    }

    /// Ends the answer under way; what was said becomes a message, or part of the text.
    pub(super) fn end(&mut self, finish_reason: FinishReason) {
        let Some(mut answer) = self.answer.take() else { return };
        self.generator.stop_ahead();
        let nothing = answer.tokens.is_empty();
        answer.finish(finish_reason, &mut self.events);
        match &mut self.transcript {
            Transcript::Turns { messages, .. } if !nothing => messages.push(Message::Model(answer.turn)),
            Transcript::Text { tokens, .. } => {
                let history = self.generator.tokens();
                let tokenizer = self.model.tokenizer();
                let prompt = history.len().saturating_sub(answer.tokens.len()).clamp(history.len().min(1), history.len());
                let said = match finish_reason {
                    // The last tokens hold more than what was said.
                    FinishReason::Stop(_) => tokenizer.encode(&answer.turn.text, false).unwrap_or_else(|_| answer.tokens.clone()),
                    FinishReason::Turn => answer.tokens[..answer.tokens.len().saturating_sub(1)].to_vec(),
                    _ => answer.tokens.clone(),
                };
                // Of an answer longer than the context the beginning is forgotten.
                let gone = answer.tokens.len() - (history.len() - prompt).min(answer.tokens.len());
                *tokens = [&history[..prompt], &said[gone.min(said.len())..]].concat();
            }
            Transcript::Turns { .. } | Transcript::Empty => {}
        }
    }
}

/// Events as they come; the conversation is let go with the last of them.
struct EventStream<'a> {
    conversation: Option<&'a mut Conversation>,
    next: Option<NextEvent<'a>>,
}

/// An event under way, which gives the conversation back.
type NextEvent<'a> = Pin<Box<dyn Future<Output = (&'a mut Conversation, Result<Option<Event>>)> + Send + 'a>>;

impl Stream for EventStream<'_> {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(conversation) = self.conversation.take() {
            self.next = Some(Box::pin(async {
                let event = conversation.next_event_async().await;
                (conversation, event)
            }));
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (conversation, event) = match next.as_mut().poll(task) {
            Poll::Ready(ready) => ready,
            Poll::Pending => return Poll::Pending,
        };
        self.next = None;
        if let Ok(Some(_)) = event {
            self.conversation = Some(conversation);
        }
        Poll::Ready(event.transpose())
    }
}
