use super::*;

// Quantiles of the standard normal distribution as tables give them.
#[test]
fn known_quantiles() {
    for (p, x) in [(0.95, 1.644_853_626_951_472_2), (0.9, 1.281_551_565_544_600_4), (0.8, 0.841_621_233_572_914_2)] {
        assert!((deviations(p) - x).abs() < 1e-13, "{p}: {}", deviations(p));
        assert!((deviations(1.0 - p) + x).abs() < 1e-13);
    }
    assert_eq!(deviations(0.95) as f32, 1.644_853_6);
    assert!(deviations(0.5).abs() < 1e-15);
}
