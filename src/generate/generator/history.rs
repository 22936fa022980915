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
}

impl History {
    /// An empty one; the largest window of any layer is `window`, a run has at most `chunk` tokens.
    pub(super) fn new(window: Option<usize>, chunk: usize) -> Self {
        let ring = window.map(|window| Ring { window, rows: window + chunk });
        Self { tokens: Vec::new(), cached: 0, floor: 0, ring, computed: 0 }
    }

    /// An empty one of the same model.
    pub(super) fn fresh(&self) -> Self {
        Self { tokens: Vec::new(), cached: 0, floor: 0, computed: 0, ring: self.ring }
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

    /// Other tokens; keeps the rows of the common prefix, but runs at least the last token again: its logits are wanted, and
    /// the caches do not hold them.
    pub(super) fn replace(&mut self, tokens: &[u32]) {
        let common = self.tokens[..self.cached].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.tokens = tokens.to_vec();
        self.rewind(common.min(tokens.len().saturating_sub(1)));
    }

    /// Keeps the first `rows` rows, or none where the ring has moved on.
    ///
    /// To go on at a position p, every sliding layer needs the rows from p − window + 1 on. Once the ring has dropped row 0, the
    /// positions it can serve are those from `floor` + window − 1 on, and 0. Where `rows` is less than the former, 0 is the last
    /// position that can be served: a dropped row of one layer follows from all earlier rows of the layers below, which the rings
    /// below have dropped too.
    pub(super) fn rewind(&mut self, rows: usize) {
        let held = self.ring.is_none_or(|ring| self.floor == 0 || rows + 1 >= self.floor + ring.window);
        self.cached = if held { rows.min(self.cached) } else { 0 };
        if self.cached == 0 {
            self.floor = 0;
        }
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
        self.computed += (end - self.cached) as u64;
        self.cached = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(written: usize) -> History {
        let ring = Some(Ring { window: 9, rows: 9 + 8 });
        let mut history = History { tokens: (0..100).collect(), cached: 0, floor: 0, ring, computed: 0 };
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
        history.replace(&(0..10).chain([7, 7]).collect::<Vec<_>>());
        assert_eq!((history.cached(), history.computed()), (10, 12));
        history.wrote(12);
        history.replace(&(0..10).collect::<Vec<_>>());
        assert_eq!((history.cached(), history.computed(), history.len()), (9, 14, 10));
        assert_eq!((history.fork().cached(), history.fork().computed(), history.fresh().len()), (9, 0, 0));
    }

    #[test]
    fn a_model_without_sliding_layers_keeps_everything() {
        let mut history = History { ring: None, ..history(90) };
        history.rewind(1);
        assert_eq!(history.cached(), 1);
    }
}
