use super::zeros;

#[test]
fn the_odd_zero_is_behind() {
    // TensorFlow's rule: size, kernel, stride, zeros.
    for (size, kernel, stride, expected) in [
        (768, 3, 2, [0, 1]),
        (768, 5, 2, [1, 2]),
        (7, 3, 2, [1, 1]),
        (7, 5, 2, [2, 2]),
        (48, 3, 1, [1, 1]),
        (48, 5, 1, [2, 2]),
        (5, 1, 2, [0, 0]),
    ] {
        assert_eq!(zeros(size, kernel, stride), expected, "{size} {kernel} {stride}");
    }
}
