use super::*;
use crate::plan::moving;

#[test]
fn slices_follow_what_earlier_ones_took() {
    let second = |seconds| Some(Duration::from_secs_f64(seconds));
    let mut pace = Pace::new(moving(&[1.0; 8]).into(), false);
    assert_eq!(pace.slice(0, None), Some(0..8));
    assert_eq!(pace.slice(0, second(2.0)), Some(0..2), "as slow as the slowest");
    pace.learn(0..2, Duration::from_secs(1));
    assert_eq!(pace.slice(2, second(2.0)), Some(2..6), "twice as fast");
    pace.learn(2..6, Duration::from_secs(6));
    assert_eq!(pace.slice(6, second(0.1)), Some(6..7), "one at least");
    pace.learn(6..7, Duration::ZERO);
    assert_eq!(pace.slice(7, second(2.0)), Some(7..8));
    assert_eq!(pace.slice(8, second(2.0)), None);
    assert_eq!(Pace::new(moving(&[1.0; 8]).into(), true).slice(0, second(16.0)), Some(0..2), "on the CPU");
}
