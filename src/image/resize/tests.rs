use super::*;
use crate::image::tests::{noise, short_hash};

/// Weights as the specification lists them, those that are 0 left out at either end.
fn rows(axis: &Axis) -> Vec<(usize, Vec<i16>)> {
    let row = |(span, weights): (&Range<usize>, &[i16])| {
        let start = weights.iter().position(|weight| *weight != 0).unwrap();
        let end = weights.iter().rposition(|weight| *weight != 0).unwrap();
        (span.start + start, weights[start..=end].to_vec())
    };
    axis.taps().map(row).collect()
}

/// torchvision's weights for five samples.
#[test]
fn weights_are_those_of_torchvision() {
    let bilinear = Axis::new(5, 3, Filter::Bilinear).unwrap();
    let expected = [(0, vec![18725, 14043]), (1, vec![7282, 18204, 7282]), (3, vec![14043, 18725])];
    assert_eq!((rows(&bilinear), bilinear.bits), (expected.to_vec(), 15));
    let bicubic = Axis::new(5, 3, Filter::Bicubic).unwrap();
    let expected =
        [(0, vec![19157, 14620, 0, -1008]), (0, vec![-1219, 8078, 19051, 8078, -1219]), (1, vec![-1008, 0, 14620, 19157])];
    assert_eq!((rows(&bicubic), bicubic.bits), (expected.to_vec(), 15));
    let enlarged = Axis::new(5, 8, Filter::Bicubic).unwrap();
    assert_eq!((&rows(&enlarged)[..2], enlarged.bits), (&[(0, vec![17563, -1179]), (0, vec![9916, 7293, -825])][..], 14));
    assert_eq!(Axis::new(5, 8, Filter::Bilinear).unwrap().bits, 14);
    assert!(Axis::new(5, 5, Filter::Bicubic).is_none());
}

/// torchvision's pixels for a row and a column of five.
#[test]
fn pixels_of_a_line_are_those_of_torchvision() {
    let line: Vec<u8> = [0, 50, 100, 200, 255].into_iter().flat_map(|grey| [grey; 3]).collect();
    for (to, filter, expected) in [
        (3, Filter::Bilinear, &[21, 111, 231][..]),
        (3, Filter::Bicubic, &[16, 110, 237]),
        (8, Filter::Bilinear, &[0, 22, 53, 84, 131, 194, 231, 255]),
        (8, Filter::Bicubic, &[0, 17, 53, 81, 129, 195, 238, 255]),
    ] {
        let expected: Vec<u8> = expected.iter().flat_map(|grey| [*grey; 3]).collect();
        assert_eq!(resize(&line, [5, 1], [to, 1], filter), expected, "{filter:?} row");
        assert_eq!(resize(&line, [1, 5], [1, to], filter), expected, "{filter:?} column");
    }
}

/// Digests of what a program in numpy makes of the same noise, which equals torchvision bit for bit.
#[test]
fn noise_is_resized_to_the_bit() {
    for (from, to, bilinear, bicubic) in [
        ([1, 1], [7, 5], "223fa4aef2c2fd1c", "223fa4aef2c2fd1c"),
        ([37, 23], [37, 23], "608e9ea56727f7fe", "608e9ea56727f7fe"),
        ([37, 23], [37, 60], "ce1613e952f92911", "af9e226dcde8c34f"),
        ([37, 23], [60, 23], "9b31d17e53d63c9f", "f750a63fce2b5421"),
        ([64, 48], [20, 33], "2102cf2d158e9a41", "7c4f3a28250d4c89"),
        ([3, 200], [48, 48], "24770746bd979d75", "313bf9428fe807f1"),
        ([200, 3], [48, 96], "5f2972813d7a4444", "35105f785297d087"),
        ([301, 217], [224, 224], "0835c5bfc6861425", "3e53a7b0e92a18a3"),
        ([5, 7], [160, 130], "d539590c8a52bbb1", "45a0391b1ef6cf33"),
        ([1000, 1], [13, 1], "25b8196af5297abe", "56831992b67ac4b3"),
        ([129, 400], [128, 12], "42cbda48872ae13a", "bf3cd1a52b275429"),
        ([255, 256], [254, 257], "a5843c819aaebdeb", "f637d937034543eb"),
    ] {
        let image = noise(from[0], from[1]);
        for (filter, expected) in [(Filter::Bilinear, bilinear), (Filter::Bicubic, bicubic)] {
            assert_eq!(short_hash(resize(image.rgb(), from, to, filter)), expected, "{from:?} to {to:?}, {filter:?}");
        }
    }
}

/// The largest sums of negative and positive weights stay within 32 bits and clamp.
#[test]
fn extremes_stay_extremes() {
    for (from, to) in [(2, 9), (9, 2), (1, 3), (4001, 3), (3, 4001)] {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for value in [0, 255] {
                let line = vec![value; from * 3];
                assert_eq!(resize(&line, [from, 1], [to, 1], filter), vec![value; to * 3], "{from} to {to}");
                assert_eq!(resize(&line, [1, from], [1, to], filter), vec![value; to * 3], "{from} to {to}");
            }
        }
    }
}
