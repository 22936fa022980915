//! Padding at the end of each part of a size.

use super::*;
use crate::ir::{Dim, sym};

#[test]
fn each_symbol_is_padded_at_its_own_end() {
    let keys = Dim::from(sym::PAST_SEQ).checked_add(sym::SEQ.into()).unwrap();
    let shape = Shape(vec![2.into(), keys, 2.into()]);
    let sizes = |past, new| DimBinding::new().with(sym::PAST_SEQ, past).with(sym::SEQ, new);
    let padding = Padding::new(&shape, &sizes(1, 2), &sizes(3, 3)).unwrap();
    let own: Vec<i32> = (1..=12).collect();
    let value = Value::i32([2, 3, 2], own.clone());
    let padded = padding.pad(&value, -1);
    assert_eq!(padded.shape, [2, 6, 2]);
    let Data::I32(v) = &padded.data else { panic!("integers stay integers") };
    assert_eq!(v[..12], [1, 2, -1, -1, -1, -1, 3, 4, 5, 6, -1, -1]);
    let Data::I32(v) = padding.crop(&padded).data else { panic!("integers stay integers") };
    assert_eq!(v, own);
    assert!(!padding.is_none() && Padding::new(&shape, &sizes(3, 3), &sizes(3, 3)).unwrap().is_none());
}

#[test]
fn a_number_is_the_last_part() {
    let shape = Shape(vec![Dim::from(sym::PAST_SEQ).checked_add(1.into()).unwrap()]);
    let sizes = |past| DimBinding::new().with(sym::PAST_SEQ, past);
    let padding = Padding::new(&shape, &sizes(2), &sizes(4)).unwrap();
    let Data::F32(v) = padding.pad(&Value::f32([3], vec![1.0, 2.0, 3.0]), 0).data else { panic!("floats stay floats") };
    assert_eq!(v, [1.0, 2.0, 0.0, 0.0, 3.0]);
}
