use super::*;
use crate::weights::WeightMap;

#[test]
fn matrices_of_whole_blocks_are_packed_and_the_rest_is_not() {
    let numbers: Vec<f32> = (0..70 * 64).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let tensor = |name: &str, shape: Vec<usize>| {
        let len = shape.iter().product();
        Tensor::from_f32(name, shape, &numbers[..len])
    };
    let mut map = WeightMap::from_tensors(vec![
        tensor("matrix", vec![70, 64]),
        tensor("ragged", vec![4, 33]),
        tensor("norm", vec![64]),
        tensor("turned", vec![64, 32]),
    ]);
    let mut loader = QuantisedLoader::new(&mut map, Quantise::Q8_0);
    let packed = DType::Packed(Quantise::Q8_0.format());
    assert_eq!(loader.peek("matrix").unwrap(), TensorInfo { dtype: packed, shape: &[70, 64] });
    assert_eq!(loader.take_transposed("turned").unwrap().dtype(), DType::F32);
    assert_eq!(loader.take("ragged").unwrap().dtype(), DType::F32);
    assert_eq!(loader.take("norm").unwrap().dtype(), DType::F32);
    let matrix = loader.take("matrix").unwrap();
    assert_eq!((matrix.dtype(), matrix.byte_len(), loader.len()), (packed, 70 * 2 * 34, 0));
    let mut all = vec![0; matrix.byte_len()];
    Quantise::Q8_0.quantise(&numbers, &mut all);
    for (start, len) in [(0, all.len()), (1, 40), (34, 34), (33, 4000), (all.len() - 1, 1), (7, 0)] {
        let mut part = vec![0; len];
        matrix.read_bytes(start, &mut part).unwrap();
        assert!(part == all[start..start + len], "{start} {len}");
    }
}
