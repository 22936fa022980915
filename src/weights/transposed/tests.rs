use super::*;
use crate::{
    Error,
    error::WeightError,
    quant::DType,
    weights::{WeightLoader, WeightMap},
};

fn loader() -> WeightMap {
    let bytes: Vec<u8> = (0..5 * 7 * 2).collect();
    let matrix = Tensor::from_bytes("m", DType::BF16, vec![5, 7], bytes).unwrap();
    let numbers: Vec<f32> = (0..6).map(|x| x as f32).collect();
    let wide = Tensor::from_f32("w", vec![2, 3], &numbers);
    WeightMap::from_tensors(vec![matrix, wide, Tensor::from_f32("v", vec![6], &numbers)])
}

#[test]
fn a_transposed_matrix_has_its_elements_exchanged_and_its_type_kept() {
    let tensor = loader().take_transposed("m").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape(), tensor.byte_len()), (DType::BF16, &[7, 5][..], 70));
    let mut all = vec![0; 70];
    tensor.read_bytes(0, &mut all).unwrap();
    for (k, n) in (0..7).flat_map(|k| (0..5).map(move |n| (k, n))) {
        let from = (n * 7 + k) as u8 * 2;
        assert_eq!(all[(k * 5 + n) * 2..][..2], [from, from + 1], "{k} {n}");
    }
    // Any part, also one that begins and ends within an element.
    for (start, len) in [(0, 1), (3, 9), (11, 40), (69, 1), (5, 0)] {
        let mut part = vec![0; len];
        tensor.read_bytes(start, &mut part).unwrap();
        assert_eq!(part, all[start..start + len], "{start} {len}");
    }
    assert_eq!(loader().take_transposed("w").unwrap().to_f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

#[test]
fn matrices_of_pieces_are_transposed_each() {
    // Two matrices [2, 3] of pieces of two bytes.
    let tensor = Tensor::from_bytes("m", DType::F16, vec![2, 2, 3], (0..24).collect()).unwrap();
    let tensor = transposed_each(tensor, [2, 3], 2, vec![2, 3, 2]);
    let expected: Vec<u8> = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].into_iter().flat_map(|x| [2 * x, 2 * x + 1]).collect();
    for (start, len) in [(0, 24), (1, 3), (5, 14), (12, 12), (23, 1)] {
        let mut part = vec![0; len];
        tensor.read_bytes(start, &mut part).unwrap();
        assert_eq!(part, expected[start..start + len], "{start} {len}");
    }
}

#[test]
fn what_is_no_matrix_is_refused_and_stays() {
    let mut loader = loader();
    let text = loader.take_transposed("v").unwrap_err().to_string();
    assert!(text.contains("'v'") && text.contains("[6]"), "{text}");
    assert_eq!(loader.take("v").unwrap().len(), 6);
    assert!(matches!(loader.take_transposed("v"), Err(Error::Weight(WeightError::Missing { .. }))));
}
