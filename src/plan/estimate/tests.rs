use super::*;

#[test]
fn slices_are_consecutive_and_within_the_time_where_a_dispatch_is() {
    let ends = |seconds: &[f64], most| {
        let slices = cut(&moving(seconds), most);
        slices.iter().map(|slice| (slice.start, slice.end)).collect::<Vec<_>>()
    };
    assert_eq!(ends(&[1.0, 1.0, 1.0, 5.0, 1.0, 1.0], 2.0), [(0, 2), (2, 3), (3, 4), (4, 6)]);
    assert_eq!(ends(&[1.0; 3], f64::INFINITY), [(0, 3)]);
    assert_eq!(ends(&[1.0; 3], 0.0), [(0, 1), (1, 2), (2, 3)]);
    assert_eq!(ends(&[], 1.0), [(0, 0)]);
}
