use super::*;

#[test]
fn the_softmax_over_all_divided_by_the_sum_of_the_chosen() {
    let logits = [0.5f32, -1.0, 2.0, 2.0, f32::NAN, 1.5];
    let scales = [1.0, 2.0, 0.5, -1.0, 3.0, 4.0];
    let mut out = [0.0; 6];
    Route { k: 3 }.choose(&logits, &scales, &mut out);
    assert_eq!(out[..3], [2.0, 3.0, 5.0], "the lower index of two equals comes first");
    let all: f64 = logits.iter().filter(|x| !x.is_nan()).map(|x| f64::from(*x).exp()).sum();
    let soft = |e: usize| f64::from(logits[e]).exp() / all;
    let sum = soft(2) + soft(3) + soft(5);
    for (share, e) in out[3..].iter().zip([2, 3, 5]) {
        assert!((f64::from(*share) - soft(e) / sum * f64::from(scales[e])).abs() < 1e-6, "{e}: {share}");
    }
}
