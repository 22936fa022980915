//! Which keys a query may see.

/// The mask of an attention op, as a rule instead of a tensor.
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
    /// Whether the rule lets the query at position `q` see the key at position `k`.
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
    use super::MaskKind;

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
    fn causal_sees_the_past_and_itself() {
        assert!(MaskKind::Causal.allows(3, 3) && MaskKind::Causal.allows(3, 0) && !MaskKind::Causal.allows(3, 4));
        assert!(MaskKind::None.allows(0, 9));
    }
}
