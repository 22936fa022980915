//! The token sequence, and which of its rows the caches hold.

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
    tokens: Vec<u32>,
    /// Rows of the caches that belong to the first tokens.
    cached: usize,
    /// The oldest position that the ring still holds.
    floor: usize,
    ring: Option<Ring>,
    computed: u64,
    grid: Option<Grid>,
}

/// How runs are cut where the same tokens shall always give the same rows, to the bit, whatever was cached: rows of whole squares of
/// the grid come from runs of a square, those behind the last one from runs of one token. A square that steps have filled is run again
/// before the step after it.
#[derive(Debug, Clone, Copy)]
struct Grid {
    /// Tokens of a square.
    square: usize,
    /// Rows that runs of a square have written.
    filled: usize,
}

impl History {
    /// An empty one; the largest window of any layer is `window`, a run has at most `chunk` tokens. With a `square` its runs are cut on a
    /// grid.
    pub(super) fn new(window: Option<usize>, chunk: usize, square: Option<usize>) -> Self {
        let ring = window.map(|window| Ring { window, rows: window + chunk });
        let grid = square.map(|square| Grid { square, filled: 0 });
        Self { tokens: Vec::new(), cached: 0, floor: 0, ring, computed: 0, grid }
    }

    /// An empty one of the same model.
    pub(super) fn fresh(&self) -> Self {
        let grid = self.grid.map(|grid| Grid { filled: 0, ..grid });
        Self { tokens: Vec::new(), cached: 0, floor: 0, computed: 0, ring: self.ring, grid }
    }

    /// The same tokens for other caches, which hold none of the rows.
    pub(super) fn uncached(&self) -> Self {
        Self { tokens: self.tokens.clone(), ..self.fresh() }
    }

    /// The same tokens and rows; nothing computed yet.
    pub(super) fn fork(&self) -> Self {
        Self { computed: 0, ..self.clone() }
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    pub(super) fn computed(&self) -> u64 {
        self.computed
    }

    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Takes the last token back.
    pub(super) fn pop(&mut self) {
        self.tokens.pop();
        self.cached = self.cached.min(self.tokens.len());
    }

    /// Rows that other tokens have in common with the cached ones. At least their last token is run again: its logits are wanted, and
    /// the caches do not hold them.
    pub(super) fn common(&self, tokens: &[u32]) -> usize {
        self.common_tokens(tokens).min(self.cached).min(tokens.len().saturating_sub(1))
    }

    /// Tokens that others begin with.
    pub(super) fn common_tokens(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Other tokens, of which no more rows are held than were kept by a rewind to the [`common`](Self::common) ones.
    pub(super) fn replace(&mut self, tokens: &[u32]) {
        self.tokens = tokens.to_vec();
    }

    /// Whether the rings still hold what the position `rows` reads.
    ///
    /// To go on at a position p, every sliding layer needs the rows from p − window + 1 on. Once the ring has dropped row 0, the
    /// positions it can serve are those from `floor` + window − 1 on, and 0. Where `rows` is less than the former, 0 is the last
    /// position that can be served: a dropped row of one layer follows from all earlier rows of the layers below, which the rings
    /// below have dropped too.
    pub(super) fn holds(&self, rows: usize) -> bool {
        self.serves(rows, self.floor)
    }

    /// As [`holds`](Self::holds), for rings whose oldest row is `floor`.
    pub(super) fn serves(&self, rows: usize, floor: usize) -> bool {
        self.ring.is_none_or(|ring| floor == 0 || rows + 1 >= floor + ring.window)
    }

    /// Whether a run that writes the rows up to `end` takes from the rings what the position `rows` reads.
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

    /// Whether runs are cut on a grid.
    pub(super) fn has_grid(&self) -> bool {
        self.grid.is_some()
    }

    /// Of the cached rows those that runs of a square wrote; 0 without a grid.
    pub(super) fn filled(&self) -> usize {
        self.grid.map_or(0, |grid| grid.filled)
    }

    /// Notes that the caches hold `rows` rows that were computed before, the rings from `floor` on, `filled` of them by squares.
    pub(super) fn put_back(&mut self, rows: usize, floor: usize, filled: usize) {
        (self.cached, self.floor) = (rows.min(self.tokens.len()), floor);
        self.grid = self.grid.map(|grid| Grid { filled, ..grid });
    }

    /// The rows among the first `rows` that a rewind to them keeps: on a grid only whole squares of those that squares have written.
    pub(super) fn whole(&self, rows: usize) -> usize {
        if rows < self.filled() { self.whole_squares(rows) } else { rows }
    }

    /// Whole squares of the first `rows` rows; all of them without a grid.
    pub(super) fn whole_squares(&self, rows: usize) -> usize {
        self.grid.map_or(rows, |grid| rows / grid.square * grid.square)
    }

    /// Keeps the [`whole`](Self::whole) ones of the first `rows` rows, or none where the ring has moved on.
    pub(super) fn rewind(&mut self, rows: usize) {
        let rows = self.whole(rows);
        self.cached = if self.holds(rows) { rows.min(self.cached) } else { 0 };
        if self.cached == 0 {
            self.floor = 0;
        }
        self.grid = self.grid.map(|grid| Grid { filled: grid.filled.min(self.cached), ..grid });
    }

    /// Whether runs are cut on a grid.
    pub(super) fn on_grid(&self) -> bool {
        self.grid.is_some()
    }

    /// Whether the next square is full, its last token not counted: it is to be run before anything else.
    pub(super) fn square_is_full(&self, tokens: usize) -> bool {
        self.grid.is_some_and(|grid| tokens > grid.filled + grid.square)
    }

    /// Where the next run on the grid ends, its rows alone being wanted; `None` where the last token alone is left.
    pub(super) fn next_on_grid(&mut self) -> Option<usize> {
        let grid = self.grid?;
        if self.square_is_full(self.len()) {
            self.cached = grid.filled;
            return Some(grid.filled + grid.square);
        }
        (self.cached + 1 < self.len()).then_some(self.cached + 1)
    }

    /// Notes that a run is about to write the rows up to `end`: should it fail half way, rings may have lost what those rows displace.
    pub(super) fn writes(&mut self, end: usize) {
        if let Some(ring) = self.ring {
            self.floor = self.floor.max(end.saturating_sub(ring.rows));
        }
    }

    /// Notes that the rows up to `end` were computed after those that are cached.
    pub(super) fn wrote(&mut self, end: usize) {
        self.writes(end);
        if let Some(grid) = &mut self.grid
            && self.cached == grid.filled
            && end == grid.filled + grid.square
        {
            grid.filled = end;
        }
        self.computed += (end - self.cached) as u64;
        self.cached = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(written: usize) -> History {
        let ring = Some(Ring { window: 9, rows: 9 + 8 });
        let mut history = History { tokens: (0..100).collect(), cached: 0, floor: 0, ring, computed: 0, grid: None };
        history.wrote(written);
        history
    }

    /// Against a ring that is written row by row.
    #[test]
    fn a_rewind_keeps_what_the_ring_can_serve_and_nothing_else() {
        for written in 1..60 {
            let mut ring = [usize::MAX; 17];
            (0..written).for_each(|p| ring[p % 17] = p);
            for rows in 0..=written {
                let mut history = history(written);
                history.rewind(rows);
                let served = (rows.saturating_sub(8)..rows).all(|p| ring[p % 17] == p);
                assert_eq!(history.cached(), if served { rows } else { 0 }, "{written} written, back to {rows}");
            }
        }
    }

    #[test]
    fn a_common_prefix_is_computed_once() {
        let mut history = history(12);
        let replace = |history: &mut History, tokens: &[u32]| {
            history.rewind(history.common(tokens));
            history.replace(tokens);
        };
        replace(&mut history, &(0..10).chain([7, 7]).collect::<Vec<_>>());
        assert_eq!((history.cached(), history.computed()), (10, 12));
        history.wrote(12);
        replace(&mut history, &(0..10).collect::<Vec<_>>());
        assert_eq!((history.cached(), history.computed(), history.len()), (9, 14, 10));
        assert_eq!((history.fork().cached(), history.fork().computed(), history.fresh().len()), (9, 0, 0));
    }

    #[test]
    fn a_model_without_sliding_layers_keeps_everything() {
        let mut history = History { ring: None, ..history(90) };
        history.rewind(1);
        assert_eq!(history.cached(), 1);
    }

    /// The rows of a square come from one run of it, in whatever order the tokens came.
    #[test]
    fn the_cuts_on_a_grid_are_those_of_the_tokens_alone() {
        let new = || History { tokens: Vec::new(), grid: Some(Grid { square: 4, filled: 0 }), ..history(0) };
        // The run that wrote each row last, after a step has run the last token.
        let run = |history: &mut History, rows: &mut [(usize, usize)]| {
            let mut write = |history: &mut History, end: usize| {
                (history.cached..end).for_each(|row| rows[row] = (history.cached, end));
                history.wrote(end);
            };
            while let Some(end) = history.next_on_grid() {
                write(history, end);
            }
            write(history, history.len());
        };
        for len in 1..40 {
            let (mut at_once, mut whole) = (new(), vec![(0, 0); len]);
            at_once.replace(&(0..len as u32).collect::<Vec<_>>());
            run(&mut at_once, &mut whole);
            for first in 1..=len {
                let (mut stepwise, mut rows) = (new(), vec![(0, 0); len]);
                stepwise.replace(&(0..first as u32).collect::<Vec<_>>());
                run(&mut stepwise, &mut rows);
                for token in first..len {
                    stepwise.push(token as u32);
                    run(&mut stepwise, &mut rows);
                }
                assert_eq!(rows, whole, "{first} of {len}");
                for back in 0..len {
                    let (mut history, mut again) = (stepwise.clone(), rows.clone());
                    history.rewind(back.min(len - 1));
                    run(&mut history, &mut again);
                    assert_eq!(again, whole, "{len}, back to {back}");
                }
            }
        }
    }
}
