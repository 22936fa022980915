//! Positions that a history may go back to although the rings of its sliding layers have moved on.

use std::sync::Arc;

use super::GemmaGenerator;
use crate::{Result, generate::RingCopy};

/// Marked positions that are kept, unless [`GeneratorOptions::marks`](super::GeneratorOptions::marks) says otherwise.
pub(crate) const MARKS: usize = 2;

/// The newest marks, the oldest of them first.
#[derive(Clone)]
pub(super) struct Marks {
    most: usize,
    kept: Vec<Mark>,
}

/// A position, and once the rings lose what it reads, their content before that.
#[derive(Clone)]
struct Mark {
    rows: usize,
    rings: Option<Rings>,
}

#[derive(Clone)]
struct Rings {
    copy: Arc<RingCopy>,
    /// The oldest row.
    floor: usize,
}

impl Marks {
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Vec::new() }
    }

    pub(super) fn fresh(&self) -> Self {
        Self::new(self.most)
    }
}

impl GemmaGenerator {
    /// Marks the rows that are cached now. Going back to them, or to the few before that the rings hold besides, then costs no
    /// recompute, whatever was generated since. The rings are copied on the device when they would lose these rows, and not
    /// before; the oldest mark goes when there are too many. With [`deterministic`](super::GeneratorOptions::deterministic) the mark
    /// lies at the last whole run of 16 tokens: rows behind it are those of single tokens, which a later run writes anew.
    pub fn mark(&mut self) {
        let rows = self.history.whole_squares(self.history.cached());
        if rows == 0 {
            return;
        }
        self.marks.kept.retain(|mark| mark.rows != rows);
        self.marks.kept.push(Mark { rows, rings: None });
        let surplus = self.marks.kept.len().saturating_sub(self.marks.most);
        self.marks.kept.drain(..surplus);
    }

    /// Notes that a run is about to write the rows up to `end`, and saves what marks need of the rings before.
    pub(super) fn will_write(&mut self, end: usize) {
        let (history, engine) = (&self.history, &self.engine);
        let mut copied = None;
        self.marks.kept.retain_mut(|mark| {
            if mark.rings.is_some() || !history.would_lose(mark.rows, end) {
                return mark.rings.is_some() || history.holds(mark.rows);
            }
            let copy = copied.get_or_insert_with(|| engine.copy_rings().map(Arc::new));
            match copy {
                Ok(copy) => mark.rings = Some(Rings { copy: copy.clone(), floor: history.floor() }),
                // What it would have saved is computed again.
                Err(error) => tracing::debug!(%error, rows = mark.rows, "a mark is given up"),
            }
            mark.rings.is_some()
        });
        self.history.writes(end);
    }

    /// Rows that [`prefill`](Self::prefill) of these tokens would keep.
    pub fn rows_kept(&self, tokens: &[u32]) -> usize {
        let rows = self.history.whole(self.history.common(tokens));
        match self.history.holds(rows) {
            true => rows,
            false => self.mark_before(rows).map_or(0, |(_, kept)| kept),
        }
    }

    /// The rings of the mark that keeps the most of `rows` rows, and how many.
    fn mark_before(&self, rows: usize) -> Option<(&Rings, usize)> {
        let kept = |mark: &Mark| self.history.whole(mark.rows.min(rows));
        let marks = self.marks.kept.iter().filter_map(|mark| Some((mark.rings.as_ref()?, kept(mark))));
        let serving = marks.filter(|(rings, kept)| *kept > 0 && self.history.serves(*kept, rings.floor));
        serving.max_by_key(|(_, kept)| *kept)
    }

    /// Keeps the first `rows` rows, from the rings as they are or as they were at a mark; fewer, or none, where neither has them.
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
        self.marks.kept.retain(|mark| mark.rows <= tokens);
    }
}
