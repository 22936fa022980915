//! Which keys a query may see.

use super::ops::DEAD_KEY;

/// Which keys the queries of a layer see, as a rule instead of a tensor.
///
/// Positions are those of the sequence, never rows of a buffer: query at position `q`, key at position `k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskKind {
    /// Every query sees every key.
    None,
    /// `k <= q`.
    Causal,
    /// `q - w < k <= q`: exactly `w` keys, the query's own among them. `k = q - w` is not visible.
    SlidingWindow(usize),
    /// `|q - k| <= r`: the query's own key and up to `r` on either side.
    SymmetricWindow(usize),
    /// A keep-mask operand decides: below 0.5 drops.
    Custom,
    /// An operand is added to the scores.
    Bias,
}

impl MaskKind {
    /// Returns `true` if the rule lets the query at position `q` see the key at position `k`.
    ///
    /// `Custom` and `Bias` leave the decision to their operand and answer `true`.
    pub const fn allows(self, q: usize, k: usize) -> bool {
        match self {
            MaskKind::None | MaskKind::Custom | MaskKind::Bias => true,
            MaskKind::Causal => k <= q,
            MaskKind::SlidingWindow(w) => k <= q && q - k < w,
            MaskKind::SymmetricWindow(r) => q.abs_diff(k) <= r,
        }
    }

    /// The first and the last position that the query at `position` sees, as [`Attention`](super::ops::Attention) takes
    /// them. A query at [`DEAD_KEY`] sees none: its last comes before its first.
    ///
    /// `Custom` and `Bias` leave the decision to their operand and give all positions.
    pub fn visible(self, position: i32) -> [i32; 2] {
        let most = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let last = DEAD_KEY - 1;
        if position == DEAD_KEY {
            return [0, -1];
        }
        match self {
            MaskKind::None | MaskKind::Custom | MaskKind::Bias => [0, last],
            MaskKind::Causal => [0, position],
            MaskKind::SlidingWindow(w) => [position.saturating_sub(most(w)).saturating_add(1).max(0), position],
            MaskKind::SymmetricWindow(r) => [position.saturating_sub(most(r)).max(0), position.saturating_add(most(r)).min(last)],
        }
    }
}

impl std::fmt::Display for MaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaskKind::None => f.write_str("none"),
            MaskKind::Causal => f.write_str("causal"),
            MaskKind::SlidingWindow(w) => write!(f, "window({w})"),
            MaskKind::SymmetricWindow(r) => write!(f, "symmetric window({r})"),
            MaskKind::Custom => f.write_str("custom"),
            MaskKind::Bias => f.write_str("bias"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DEAD_KEY, MaskKind};

    #[test]
    fn a_window_keeps_exactly_its_own_number_of_keys() {
        for w in [1, 2, 9] {
            for q in 0..20usize {
                let seen: Vec<usize> = (0..20).filter(|&k| MaskKind::SlidingWindow(w).allows(q, k)).collect();
                assert_eq!(seen.len(), w.min(q + 1), "w {w} q {q}");
                assert_eq!(seen.last(), Some(&q));
            }
        }
    }

    #[test]
    fn a_symmetric_window_keeps_its_radius_on_either_side() {
        for r in [0, 1, 4] {
            for q in 0..20usize {
                let seen: Vec<usize> = (0..20).filter(|&k| MaskKind::SymmetricWindow(r).allows(q, k)).collect();
                assert_eq!((seen.first(), seen.last()), (Some(&q.saturating_sub(r)), Some(&(q + r).min(19))), "r {r} q {q}");
                assert_eq!(seen.len(), 1 + r.min(q) + r.min(19 - q));
            }
        }
    }

    #[test]
    fn the_positions_between_the_bounds_are_those_that_the_rule_allows() {
        let windows = [0, 1, 4, 30].into_iter().flat_map(|n| [MaskKind::SlidingWindow(n), MaskKind::SymmetricWindow(n)]);
        for mask in windows.chain([MaskKind::None, MaskKind::Causal]) {
            for q in 0..20usize {
                let [first, last] = mask.visible(q as i32);
                let between = |k: usize| (first..=last).contains(&(k as i32));
                assert!((0..20).all(|k| between(k) == mask.allows(q, k)), "{mask}, query {q}: {first} to {last}");
            }
            let [first, last] = mask.visible(DEAD_KEY);
            assert!(last < first, "{mask}: padding sees nothing");
            for position in [0, 7, DEAD_KEY - 1] {
                let [first, last] = mask.visible(position);
                assert!(first >= 0 && last < DEAD_KEY, "{mask}: {first} to {last}");
            }
        }
        let widest = [MaskKind::SlidingWindow(usize::MAX), MaskKind::SymmetricWindow(usize::MAX)];
        assert_eq!(widest.map(|mask| mask.visible(9)), [[0, 9], [0, DEAD_KEY - 1]]);
    }

    #[test]
    fn causal_sees_the_past_and_itself() {
        assert!(MaskKind::Causal.allows(3, 3) && MaskKind::Causal.allows(3, 0) && !MaskKind::Causal.allows(3, 4));
        assert!(MaskKind::None.allows(0, 9));
    }
}
