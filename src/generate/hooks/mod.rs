//! Hooks of the caller between the logits of a step and its token.

mod changes;
mod choose;
mod tokens;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use changes::LogitChanges;
pub(crate) use choose::{choose_from_list, choose_from_whole_row, list_logprobs};
pub use tokens::TokenSet;

use super::{SHORT_LIST, numbers};
use crate::{Error, Result, error::CallbackError};

/// Changes the logits of a step before a token is chosen.
///
/// It is asked while the device computes them, so that it knows the history and not the logits; what depends on logits
/// is a [`Sampler`].
pub trait LogitProcessor: Send {
    /// Its name in errors.
    fn name(&self) -> &str;

    /// Hears that an answer begins behind the first `history` tokens: a conversation says so for each of its answers,
    /// and again where it has forgotten what came before. Does nothing unless the processor wants to know.
    fn begin(&mut self, history: usize) {
        let _ = history;
    }

    /// Adds to `changes` what shall change in the logits of the token that follows `history` (prompt and generated
    /// tokens). Histories need not grow token by token: a generator may be rewound, or go on with another text.
    ///
    /// # Errors
    /// Whatever it likes: the step ends with [`CallbackError::Hook`], history and caches stay usable.
    fn process(&mut self, history: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()>;
}

/// Chooses a token in place of greedy or a draw.
pub trait Sampler: Send {
    /// Its name in errors.
    fn name(&self) -> &str;

    /// A token of the row of logits `[V]`, as the repetition penalty and the processors leave it (−∞ for what they
    /// forbid), to follow `history`.
    ///
    /// # Errors
    /// As [`LogitProcessor::process`].
    fn choose(&mut self, logits: &[f32], history: &[u32]) -> anyhow::Result<u32>;
}

/// Adds to the logits of single tokens, or bans them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitBias {
    biases: Vec<(u32, f32)>,
}

impl LogitBias {
    /// No bias yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bias` to the logit of `token`; −∞ bans it.
    pub fn with(mut self, token: u32, bias: f32) -> Self {
        self.biases.push((token, bias));
        self
    }

    /// Bans tokens.
    pub fn banning(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.biases.extend(tokens.into_iter().map(|token| (token, f32::NEG_INFINITY)));
        self
    }
}

impl LogitProcessor for LogitBias {
    fn name(&self) -> &str {
        "LogitBias"
    }

    fn process(&mut self, _: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        self.biases.iter().for_each(|(token, bias)| changes.bias(*token, *bias));
        Ok(())
    }
}

/// The caller's hooks: processors in their order, a sampler, and the log-probabilities that are wanted.
///
/// The device hands over its 64 likeliest tokens and the logits that processors name, a few hundred bytes; where these
/// do not decide what is chosen, and for a sampler, it hands over the whole row (4·V bytes). The chosen token is the
/// same.
#[derive(Default)]
pub struct SampleHooks {
    processors: Vec<Box<dyn LogitProcessor>>,
    sampler: Option<Box<dyn Sampler>>,
    logprobs: Option<usize>,
}

/// A token that was chosen with hooks.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// Its log-probability, where asked for.
    #[serde(default, with = "numbers::any")]
    pub logprob: Option<f32>,
    /// The likeliest tokens with their log-probabilities, the likeliest first; as many as asked for.
    #[serde(with = "numbers::pairs")]
    pub top: Vec<(u32, f32)>,
}

impl SampleHooks {
    /// No hooks: a step is that of [`step_cached`](super::GemmaGenerator::step_cached).
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a processor after those that are there. Biases add up, and a token must be allowed by all.
    pub fn with_processor(mut self, processor: impl LogitProcessor + 'static) -> Self {
        self.processors.push(Box::new(processor));
        self
    }

    /// Chooses by this in place of greedy or a draw. Every step then reads the whole row.
    pub fn with_sampler(mut self, sampler: impl Sampler + 'static) -> Self {
        self.sampler = Some(Box::new(sampler));
        self
    }

    /// Wants the log-probability of the chosen token and of the `top` likeliest, 0 to 64. They are those of the model:
    /// log softmax(logits), before penalty, processors and temperature. With a temperature other than 0 and 1 they take
    /// the whole row.
    pub fn with_logprobs(mut self, top: usize) -> Self {
        self.logprobs = Some(top);
        self
    }

    /// How many log-probabilities are wanted beside that of the chosen token.
    pub(crate) fn logprobs(&self) -> Option<usize> {
        self.logprobs
    }

    /// Returns `true` if the caller chooses.
    pub(crate) fn has_sampler(&self) -> bool {
        self.sampler.is_some()
    }

    /// Checks the options.
    pub(crate) fn validate(&self) -> Result<()> {
        match self.logprobs {
            Some(found) if found > SHORT_LIST => {
                let option = "SampleHooks::with_logprobs: top";
                let expected = format!("0 to {SHORT_LIST}");
                Err(Error::Option { option, found, expected })
            }
            _ => Ok(()),
        }
    }

    /// Tells all processors where an answer begins.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn begin(&mut self, history: usize) -> Result<()> {
        for processor in &mut self.processors {
            let begun = guarded(|| {
                processor.begin(history);
                Ok(())
            });
            begun.map_err(|source| Error::Callback(CallbackError::Hook { hook: name_of(|| processor.name()), source }))?;
        }
        Ok(())
    }

    /// The changes of all processors to the logits of the token after `history`.
    pub(crate) fn changes(&mut self, history: &[u32], vocab_size: usize) -> Result<LogitChanges> {
        let mut changes = LogitChanges::new(vocab_size);
        for processor in &mut self.processors {
            guarded(|| {
                processor.process(history, &mut changes)?;
                changes.check()
            })
            .map_err(|source| Error::Callback(CallbackError::Hook { hook: name_of(|| processor.name()), source }))?;
        }
        Ok(changes)
    }

    /// The sampler's choice, if there is one.
    pub(crate) fn sample(&mut self, row: &[f32], history: &[u32]) -> Option<Result<u32>> {
        let sampler = self.sampler.as_mut()?;
        let chosen = guarded(|| {
            let token = sampler.choose(row, history)?;
            anyhow::ensure!((token as usize) < row.len(), "it chose token {token}, the vocabulary has {}", row.len());
            Ok(token)
        });
        Some(chosen.map_err(|source| Error::Callback(CallbackError::Hook { hook: name_of(|| sampler.name()), source })))
    }
}

impl std::fmt::Debug for SampleHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.processors.iter().map(|p| p.name()).collect();
        let sampler = self.sampler.as_ref().map(|s| s.name());
        f.debug_struct("SampleHooks")
            .field("processors", &names)
            .field("sampler", &sampler)
            .field("logprobs", &self.logprobs)
            .finish()
    }
}

/// Runs a caller's code; a panic is an error like any other.
///
/// State that the caller's code leaves half done is the caller's own: nothing of the crate is lent to it but `changes`,
/// which the step then drops.
fn guarded<T>(f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(anyhow::anyhow!("it panicked: {}", text.as_deref().unwrap_or("no message")))
    })
}

/// A caller's name for its hook.
fn name_of<'a>(name: impl FnOnce() -> &'a str) -> String {
    guarded(|| Ok(name().to_string())).unwrap_or_else(|_| "a hook".into())
}

#[cfg(test)]
mod tests;
