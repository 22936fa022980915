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
mod tests;
