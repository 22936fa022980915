//! Positions that a history may go back to although the rings of its sliding layers have moved on.

use std::sync::Arc;

use super::GemmaGenerator;
use crate::{Result, generate::RingCopy, prompt::Prompt};

/// Checkpoints that are kept, unless [`GeneratorOptions::checkpoints`](super::GeneratorOptions::checkpoints) says
/// otherwise.
pub(crate) const CHECKPOINTS: usize = 2;

/// The newest checkpoints, the oldest of them first.
#[derive(Clone)]
pub(super) struct Checkpoints {
    most: usize,
    kept: Vec<Checkpoint>,
}

/// A position, and once the rings lose what it reads, their content before that.
#[derive(Clone)]
struct Checkpoint {
    rows: usize,
    rings: Option<Rings>,
}

#[derive(Clone)]
struct Rings {
    copy: Arc<RingCopy>,
    /// The oldest row.
    floor: usize,
}

impl Checkpoints {
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Vec::new() }
    }

    pub(super) fn fresh(&self) -> Self {
        Self::new(self.most)
    }
}

impl GemmaGenerator {
    /// Checkpoints the rows that are cached now. Going back to them, or to the few before that the rings hold besides,
    /// then costs no recompute, whatever was generated since. The rings are copied on the device when they would lose
    /// these rows, and not before; the oldest checkpoint goes when there are too many. With
    /// [`deterministic`](super::GeneratorOptions::deterministic) the checkpoint lies at the last whole run of 16
    /// tokens: rows behind it are those of single tokens, which a later run writes anew.
    pub fn checkpoint(&mut self) {
        let rows = self.history.aligned_rows(self.history.cached());
        if rows == 0 {
            return;
        }
        self.checkpoints.kept.retain(|checkpoint| checkpoint.rows != rows);
        self.checkpoints.kept.push(Checkpoint { rows, rings: None });
        let surplus = self.checkpoints.kept.len().saturating_sub(self.checkpoints.most);
        self.checkpoints.kept.drain(..surplus);
    }

    /// Notes that a run is about to write the rows up to `end`, and saves what checkpoints need of the rings before.
    pub(super) fn will_write(&mut self, end: usize) {
        let history = &self.history;
        let engine = &self.engine;
        let mut copied = None;
        self.checkpoints.kept.retain_mut(|checkpoint| {
            if checkpoint.rings.is_some() || !history.would_lose(checkpoint.rows, end) {
                return checkpoint.rings.is_some() || history.holds(checkpoint.rows);
            }
            let copy = copied.get_or_insert_with(|| engine.copy_rings().map(Arc::new));
            match copy {
                Ok(copy) => checkpoint.rings = Some(Rings { copy: copy.clone(), floor: history.floor() }),
                // The rows that it would have saved are computed again.
                Err(error) => tracing::debug!(%error, rows = checkpoint.rows, "a checkpoint is given up"),
            }
            checkpoint.rings.is_some()
        });
        self.history.writes(end);
    }

    /// Rows that [`prefill`](Self::prefill) of this prompt would keep.
    pub fn rows_kept(&self, prompt: impl Into<Prompt>) -> usize {
        self.rows_kept_of(&prompt.into())
    }

    /// As [`rows_kept`](Self::rows_kept), of a prompt that is not given away.
    pub(crate) fn rows_kept_of(&self, prompt: &Prompt) -> usize {
        let rows = self.history.whole(self.history.common(prompt));
        if self.history.holds(rows) { rows } else { self.mark_before(rows).map_or(0, |(_, kept)| kept) }
    }

    /// The rings of the checkpoint that keeps the most of `rows` rows, and how many.
    fn mark_before(&self, rows: usize) -> Option<(&Rings, usize)> {
        let kept = |checkpoint: &Checkpoint| self.history.whole(checkpoint.rows.min(rows));
        let checkpoints =
            self.checkpoints.kept.iter().filter_map(|checkpoint| Some((checkpoint.rings.as_ref()?, kept(checkpoint))));
        let serving = checkpoints.filter(|(rings, kept)| *kept > 0 && self.history.serves(*kept, rings.floor));
        serving.max_by_key(|(_, kept)| *kept)
    }

    /// Keeps the first `rows` rows, from the rings as they are or as they were at a checkpoint; fewer, or none, where
    /// neither has them.
    pub(super) fn rewind_rows(&mut self, rows: usize) -> Result<()> {
        let rows = self.history.whole(rows.min(self.history.cached()));
        let found = if self.history.holds(rows) { None } else { self.mark_before(rows) };
        match found.map(|(rings, kept)| (rings.clone(), kept)) {
            Some((rings, kept)) => {
                // Should the copy fail half way, no row counts.
                self.engine.put_rings(&rings.copy).inspect_err(|_| self.history.rewind(0))?;
                self.history.restored(kept, rings.floor);
            }
            None => self.history.rewind(rows),
        }
        Ok(())
    }

    /// Notes that only the first `tokens` tokens of the history stay as they are.
    pub(super) fn forget_marks(&mut self, tokens: usize) {
        self.checkpoints.kept.retain(|checkpoint| checkpoint.rows <= tokens);
    }
}
