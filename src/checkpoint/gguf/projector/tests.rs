//! Tensors of a projector's file as a checkpoint has them.

use super::*;
use crate::{
    quant::DType,
    weights::{WeightLoader, row_bytes},
};

fn stored(tensor: Tensor, values: ProjectorValues, shape: ProjectorShape) -> Result<Tensor, String> {
    as_stored(tensor, &ProjectorWeight { key: "x".into(), values, shape })
}

fn counted(shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|x| x as f32).collect();
    Tensor::from_f32("x", shape.to_vec(), &values)
}

/// A tensor in Q8_0 whose blocks have the factor 1 and the numbers 0 to 31.
fn packed(shape: &[usize]) -> Tensor {
    let dtype = DType::Packed(crate::quant::Packed::by_name("Q8_0").unwrap());
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let bytes = row_bytes(Ok(dtype), shape[shape.len() - 1]).unwrap() as usize * rows;
    let block = half::f16::ONE.to_le_bytes().into_iter().chain(0..32);
    Tensor::from_bytes("x", dtype, shape.to_vec(), block.cycle().take(bytes).collect()).unwrap()
}

#[test]
fn pixels_come_before_channels() {
    let expected = |row: usize| (0..8).flat_map(move |pixel| [0, 1, 2].map(|channel| (row * 24 + channel * 8 + pixel) as f32));
    let expected: Vec<f32> = (0..5).flat_map(expected).collect();
    let weight = stored(counted(&[5, 3, 2, 4]), ProjectorValues::ChannelsFirst, ProjectorShape::Same).unwrap();
    assert_eq!((weight.shape(), weight.to_f32().unwrap()), (&[5, 24][..], expected.clone()));
    let weight = stored(counted(&[5, 24]), ProjectorValues::FlatChannelsFirst, ProjectorShape::Same).unwrap();
    assert_eq!((weight.shape(), weight.to_f32().unwrap()), (&[5, 24][..], expected.clone()));
    let row = stored(counted(&[24]), ProjectorValues::FlatChannelsFirst, ProjectorShape::Same).unwrap();
    assert_eq!((row.shape(), row.to_f32().unwrap()), (&[24][..], expected[..24].to_vec()));
    let places = stored(counted(&[2, 3, 4]), ProjectorValues::Exchanged, ProjectorShape::Same).unwrap();
    let expected: Vec<f32> = [0, 3, 1, 4, 2, 5].into_iter().flat_map(|row| (0..4).map(move |x| (4 * row + x) as f32)).collect();
    assert_eq!((places.shape(), places.to_f32().unwrap()), (&[3, 2, 4][..], expected));
}

#[test]
fn packed_rows_are_widened_where_elements_move() {
    let pixels = stored(packed(&[2, 3, 1, 32]), ProjectorValues::ChannelsFirst, ProjectorShape::Same).unwrap();
    assert_eq!(pixels.to_f32().unwrap()[..7], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0]);
    let projection = stored(packed(&[4, 64]), ProjectorValues::Transposable, ProjectorShape::Same).unwrap();
    let mut weights = WeightMap::from_tensors(vec![projection]);
    assert_eq!(weights.take_transposed("x").unwrap().to_f32().unwrap()[..5], [0.0, 0.0, 0.0, 0.0, 1.0]);
    let places = stored(packed(&[2, 3, 32]), ProjectorValues::Exchanged, ProjectorShape::Same).unwrap();
    assert!(matches!(places.dtype(), DType::Packed(_)), "rows move whole");
}

#[test]
fn dimensions_are_those_of_a_checkpoint() {
    let shape = |found: &[usize], shape| stored(counted(found), ProjectorValues::Same, shape).unwrap().shape().to_vec();
    assert_eq!(shape(&[1], ProjectorShape::Scalar), Vec::<usize>::new());
    assert_eq!(shape(&[1, 8, 1, 1], ProjectorShape::Flat), [8]);
    assert_eq!(shape(&[8], ProjectorShape::Flat), [8]);
    assert_eq!(shape(&[8, 5], ProjectorShape::Depthwise), [8, 1, 5]);
    assert_eq!(shape(&[8, 1, 5], ProjectorShape::Depthwise), [8, 1, 5]);
    for (shape, values) in [
        (&[2, 4, 3, 3][..], ProjectorValues::ChannelsFirst),
        (&[7], ProjectorValues::ChannelsFirst),
        (&[2, 7], ProjectorValues::FlatChannelsFirst),
        (&[2, 7], ProjectorValues::Exchanged),
    ] {
        assert!(stored(counted(shape), values, ProjectorShape::Same).unwrap_err().contains("shape"), "{shape:?}");
    }
}
