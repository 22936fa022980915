//! The token sequence, and which of its rows the caches hold.

use std::ops::Range;

use crate::{
    prompt::{Modality, Prompt},
    runtime::RunTokens,
};

/// The cache of the sliding layers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ring {
    /// Keys that a position sees, its own among them.
    window: usize,
    /// Rows; the last so many positions that were written are held.
    rows: usize,
}

/// Tokens and rows.
#[derive(Debug, Clone)]
pub(super) struct History {
    prompt: Prompt,
    /// True if tokens of a picture see later ones of it: a run then has all of them or none.
    whole_pictures: bool,
    /// Rows of the caches that belong to the first tokens.
    cached: usize,
    /// The oldest position that the ring still holds.
    floor: usize,
    ring: Option<Ring>,
    computed: u64,
    aligned: Option<Aligned>,
}

/// How runs are cut where the same tokens always give the same rows, to the bit, whatever was cached: at multiples of a
/// chunk. Rows of whole chunks come from runs of a chunk, those after the last one from runs of one token. A chunk that
/// steps have filled is run again before the step after it.
#[derive(Debug, Clone, Copy)]
struct Aligned {
    /// Tokens of a chunk.
    chunk: usize,
    /// Rows that runs of a chunk have written.
    filled: usize,
}

impl History {
    /// An empty one; the largest window of any layer is `window`, a run has at most `longest` tokens. With `aligned`
    /// its runs are cut at multiples of so many tokens, with `whole_pictures` never within a picture.
    pub(super) fn new(window: Option<usize>, longest: usize, aligned: Option<usize>, whole_pictures: bool) -> Self {
        let ring = window.map(|window| Ring { window, rows: window + longest });
        let aligned = aligned.map(|chunk| Aligned { chunk, filled: 0 });
        Self { prompt: Prompt::new(), whole_pictures, cached: 0, floor: 0, ring, computed: 0, aligned }
    }

    /// An empty one of the same model.
    pub(super) fn fresh(&self) -> Self {
        let aligned = self.aligned.map(|aligned| Aligned { filled: 0, ..aligned });
        let Self { whole_pictures, ring, .. } = *self;
        Self { prompt: Prompt::new(), whole_pictures, cached: 0, floor: 0, computed: 0, ring, aligned }
    }

    /// The same tokens for other caches, which hold none of the rows.
    pub(super) fn uncached(&self) -> Self {
        Self { prompt: self.prompt.clone(), ..self.fresh() }
    }

    /// The same tokens and rows; nothing computed yet.
    pub(super) fn fork(&self) -> Self {
        Self { computed: 0, ..self.clone() }
    }

    pub(super) fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    pub(super) fn tokens(&self) -> &[u32] {
        self.prompt.tokens()
    }

    pub(super) fn len(&self) -> usize {
        self.prompt.len()
    }

    /// The tokens of a run from the cached ones up to `end`.
    pub(super) fn run(&self, end: usize) -> RunTokens<'_> {
        RunTokens { tokens: &self.tokens()[self.cached..end], start: self.cached, soft: self.prompt.spans() }
    }

    /// All tokens, whatever is cached.
    pub(super) fn whole_run(&self) -> RunTokens<'_> {
        RunTokens { tokens: self.tokens(), start: 0, soft: self.prompt.spans() }
    }

    /// The picture that a run may not end or begin in, at `row`.
    fn picture_around(&self, row: usize) -> Option<Range<usize>> {
        let pictures = self.prompt.spans().iter().filter(|span| self.whole_pictures && span.rows.modality() == Modality::Image);
        pictures.map(|span| span.range()).find(|picture| picture.start < row && row < picture.end)
    }

    /// Where a run ends that begins after the cached rows and should end at `end`: before a picture of which it would
    /// have a part, or after one that it begins with.
    pub(super) fn whole_end(&self, end: usize) -> usize {
        self.whole_end_from(self.cached, end)
    }

    /// As [`whole_end`](Self::whole_end), of a run that begins at `start`.
    fn whole_end_from(&self, start: usize, end: usize) -> usize {
        match self.picture_around(end) {
            Some(picture) if picture.start > start => picture.start,
            Some(picture) => picture.end,
            None => end,
        }
    }

    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    pub(super) fn computed(&self) -> u64 {
        self.computed
    }

    pub(super) fn push(&mut self, token: u32) {
        self.prompt.push_token(token);
    }

    /// Takes the last token back.
    pub(super) fn pop(&mut self) {
        self.prompt.pop();
        self.cached = self.cached.min(self.len());
    }

    /// Rows that another prompt has in common with the cached ones. At least its last token is run again: its logits
    /// are wanted, and the caches do not hold them.
    pub(super) fn common(&self, prompt: &Prompt) -> usize {
        self.common_tokens(prompt).min(self.cached).min(prompt.len().saturating_sub(1))
    }

    /// Tokens that another prompt begins with.
    pub(super) fn common_tokens(&self, prompt: &Prompt) -> usize {
        self.prompt.common(prompt)
    }

    /// Another prompt, of which no more rows are held than were kept by a rewind to the [`common`](Self::common) ones.
    pub(super) fn replace(&mut self, prompt: Prompt) {
        self.prompt = prompt;
    }

    /// Returns `true` if the rings still hold the rows that the position `rows` reads.
    ///
    /// To go on at a position p, every sliding layer needs the rows from p − window + 1 on. Once the ring has dropped
    /// row 0, the positions it can serve are those from `floor` + window − 1 on, and 0. Where `rows` is less than the
    /// former, 0 is the last position that can be served: a dropped row of one layer follows from all earlier rows of
    /// the layers below, which the rings below have dropped too.
    pub(super) fn holds(&self, rows: usize) -> bool {
        self.serves(rows, self.floor)
    }

    /// As [`holds`](Self::holds), for rings whose oldest row is `floor`.
    pub(super) fn serves(&self, rows: usize, floor: usize) -> bool {
        self.ring.is_none_or(|ring| floor == 0 || rows + 1 >= floor + ring.window)
    }

    /// Returns `true` if a run that writes the rows up to `end` takes from the rings a row that the position `rows`
    /// reads.
    pub(super) fn would_lose(&self, rows: usize, end: usize) -> bool {
        let floor = self.ring.map_or(0, |ring| end.saturating_sub(ring.rows));
        self.holds(rows) && !self.serves(rows, self.floor.max(floor))
    }

    /// The oldest row of the rings.
    pub(super) fn floor(&self) -> usize {
        self.floor
    }

    /// Notes that the rings are again as they were when `floor` was their oldest row, and keeps the first `rows` rows.
    pub(super) fn restored(&mut self, rows: usize, floor: usize) {
        self.floor = floor;
        self.rewind(rows);
    }

    /// Of the cached rows those that runs of a chunk wrote; 0 where runs are not aligned.
    pub(super) fn filled(&self) -> usize {
        self.aligned.map_or(0, |aligned| aligned.filled)
    }

    /// Notes that the caches hold `rows` rows that were computed before, the rings from `floor` on, `filled` of
    /// them by aligned chunks.
    pub(super) fn put_back(&mut self, rows: usize, floor: usize, filled: usize) {
        (self.cached, self.floor) = (rows.min(self.len()), floor);
        self.aligned = self.aligned.map(|aligned| Aligned { filled, ..aligned });
    }

    /// The rows among the first `rows` that a rewind to them keeps: none of a picture that is cut, and where runs are
    /// aligned only whole chunks of those that such chunks have written.
    pub(super) fn whole(&self, rows: usize) -> usize {
        let rows = if rows < self.filled() { self.aligned_rows(rows) } else { rows };
        self.picture_around(rows).map_or(rows, |picture| picture.start)
    }

    /// Whole aligned chunks of the first `rows` rows; all of them where runs are not aligned.
    pub(super) fn aligned_rows(&self, rows: usize) -> usize {
        let Some(Aligned { chunk, .. }) = self.aligned else { return rows };
        if self.prompt.spans().is_empty() {
            return rows / chunk * chunk;
        }
        let ends = std::iter::successors(Some(0), |filled| Some(self.chunk_end(Aligned { chunk, filled: *filled })));
        ends.take_while(|end| *end <= rows).last().unwrap_or(0)
    }

    /// Where the chunk ends that follows those that are filled: before a picture of which it would have a part, or after
    /// one that it begins with.
    fn chunk_end(&self, Aligned { chunk, filled }: Aligned) -> usize {
        self.whole_end_from(filled, filled + chunk)
    }

    /// Keeps the [`whole`](Self::whole) ones of the first `rows` rows, or none where the ring has moved on.
    pub(super) fn rewind(&mut self, rows: usize) {
        let rows = self.whole(rows);
        self.cached = if self.holds(rows) { rows.min(self.cached) } else { 0 };
        if self.cached == 0 {
            self.floor = 0;
        }
        self.aligned = self.aligned.map(|aligned| Aligned { filled: aligned.filled.min(self.cached), ..aligned });
    }

    /// Returns `true` if runs are cut at multiples of a chunk.
    pub(super) fn is_aligned(&self) -> bool {
        self.aligned.is_some()
    }

    /// Returns `true` if the next chunk is full, its last token not counted: it is to be run before anything else.
    pub(super) fn chunk_is_full(&self, tokens: usize) -> bool {
        self.aligned.is_some_and(|aligned| tokens > self.chunk_end(aligned))
    }

    /// Where the next aligned run ends, its rows alone being wanted; `None` where the last token alone is left.
    pub(super) fn next_aligned_end(&mut self) -> Option<usize> {
        let aligned = self.aligned?;
        if self.chunk_is_full(self.len()) {
            self.cached = aligned.filled;
            return Some(self.chunk_end(aligned));
        }
        (self.cached + 1 < self.len()).then(|| self.whole_end(self.cached + 1))
    }

    /// Notes that a run is about to write the rows up to `end`: should it fail half way, rings may have lost what those
    /// rows displace.
    pub(super) fn writes(&mut self, end: usize) {
        if let Some(ring) = self.ring {
            self.floor = self.floor.max(end.saturating_sub(ring.rows));
        }
    }

    /// Notes that the rows up to `end` were computed after those that are cached.
    pub(super) fn wrote(&mut self, end: usize) {
        self.writes(end);
        if let Some(aligned) = self.aligned
            && self.cached == aligned.filled
            && end == self.chunk_end(aligned)
        {
            self.aligned = Some(Aligned { filled: end, ..aligned });
        }
        self.computed += (end - self.cached) as u64;
        self.cached = end;
    }
}

#[cfg(test)]
mod tests;
