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
