use super::{EmbedderWeights, embedded};
use crate::weights::Tensor;

#[test]
fn rows_are_normed_projected_and_normed_again() {
    let embedder = |rows: &[f32]| EmbedderWeights {
        table: Tensor::from_f32("table", vec![rows.len() / 2, 2], rows),
        gain: Tensor::from_f32("gain", vec![2], &[1.0, 2.0]),
        projection: Tensor::from_f32("projection", vec![3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        eps: 0.0,
    };
    let tensor = embedded("rows", [3, 3], vec![embedder(&[3.0, 4.0, -1.0, 0.0]), embedder(&[0.0, 5.0])]);
    // A row's own length does not matter: [3, 4] is [3, 8] after the gain, [3, 8, 11] after the projection.
    let unit = |row: [f32; 3]| {
        let root = (row.iter().map(|x| x * x).sum::<f32>() / 3.0).sqrt();
        row.map(|x| x / root)
    };
    let expected = [unit([3.0, 8.0, 11.0]), unit([-1.0, 0.0, -1.0]), unit([0.0, 1.0, 1.0])].concat();
    let found = tensor.to_f32().unwrap();
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    let mut part = [0; 7];
    tensor.read_bytes(9, &mut part).unwrap();
    assert_eq!(part, bytemuck::cast_slice::<f32, u8>(&found)[9..16]);
}
