//! Prompts of earlier conversations, whose rows later ones begin with.

use crate::{Result, generate::GemmaGenerator, prompt::Prompt};

/// Rows that must be saved for a copy to be worth its while.
const LEAST_SAVED: usize = 16;

/// Generators that stand still at the end of a prompt, the one used last at the end.
#[derive(Default)]
pub(super) struct PrefixCache {
    kept: Vec<GemmaGenerator>,
    /// Most bytes of their caches.
    budget: u64,
    /// The recovery of the model that they are of.
    generation: u64,
}

impl PrefixCache {
    pub(super) fn new(budget: u64) -> Self {
        Self { kept: Vec::new(), budget, generation: 0 }
    }

    /// A generator with more rows of `prompt` than `own`, if there is one.
    ///
    /// # Errors
    /// As [`GemmaGenerator::fork`].
    pub(super) fn with_more(&mut self, prompt: &Prompt, own: usize, generation: u64) -> Result<Option<GemmaGenerator>> {
        if generation != self.generation {
            return Ok(None);
        }
        let rows = self.kept.iter().map(|trunk| trunk.rows_kept_of(prompt));
        let Some((index, best)) = rows.enumerate().max_by_key(|(_, rows)| *rows) else { return Ok(None) };
        if best < own + LEAST_SAVED {
            return Ok(None);
        }
        let trunk = self.kept.remove(index);
        let fork = trunk.fork();
        self.kept.push(trunk);
        fork.map(Some)
    }

    /// Keeps the rows of a generator, unless they are kept already or there is no room for them.
    pub(super) fn offer(&mut self, generator: &GemmaGenerator, generation: u64) {
        let rows = generator.cached_rows();
        let bytes = generator.stats().cache_bytes;
        let known = |trunk: &GemmaGenerator| trunk.rows_kept_of(generator.prompt()) + 1 >= rows;
        if generation != self.generation || rows < LEAST_SAVED || bytes > self.budget || self.kept.iter().any(known) {
            return;
        }
        let held = |kept: &[GemmaGenerator]| kept.iter().map(|trunk| trunk.stats().cache_bytes).sum::<u64>();
        while !self.kept.is_empty() && held(&self.kept) + bytes > self.budget {
            self.kept.remove(0);
        }
        match generator.fork() {
            Ok(fork) => self.kept.push(fork),
            // It would have saved time, nothing else.
            Err(error) => tracing::debug!(%error, rows, "a prompt is not kept"),
        }
    }

    /// Other bytes at most; the prompts used least recently go.
    pub(super) fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
        while self.bytes() > budget {
            self.kept.remove(0);
        }
    }

    /// None of the model as it was before this recovery.
    pub(super) fn restart(&mut self, generation: u64) {
        self.kept.clear();
        self.generation = generation;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kept.iter().map(|trunk| trunk.stats().cache_bytes).sum()
    }
}
