//! Prompts of earlier conversations, whose rows later ones begin with.

use crate::{Result, generate::GemmaGenerator};

/// Rows that must be saved for a copy to be worth its while.
const LEAST_SAVED: usize = 16;

/// Generators that stand still at the end of a prompt, the one used last at the end.
#[derive(Default)]
pub(super) struct Trunks {
    kept: Vec<GemmaGenerator>,
    /// Most bytes of their caches.
    budget: u64,
}

impl Trunks {
    pub(super) fn new(budget: u64) -> Self {
        Self { kept: Vec::new(), budget }
    }

    /// A generator with more rows of `tokens` than `own`, if there is one.
    ///
    /// # Errors
    /// As [`GemmaGenerator::fork`].
    pub(super) fn with_more(&mut self, tokens: &[u32], own: usize) -> Result<Option<GemmaGenerator>> {
        let rows = self.kept.iter().map(|trunk| trunk.rows_kept(tokens));
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
    pub(super) fn offer(&mut self, generator: &GemmaGenerator) {
        let (rows, tokens) = (generator.cached_rows(), generator.tokens());
        let bytes = generator.stats().cache_bytes;
        let known = |trunk: &GemmaGenerator| trunk.rows_kept(tokens) + 1 >= rows;
        if rows < LEAST_SAVED || bytes > self.budget || self.kept.iter().any(known) {
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

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kept.iter().map(|trunk| trunk.stats().cache_bytes).sum()
    }
}
