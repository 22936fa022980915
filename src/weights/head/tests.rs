//! Copies of the embedding and heads of their own.

use super::*;
use crate::weights::WeightLoader;

/// Values that f16 and bf16 hold exactly, more than are compared at a time.
fn values() -> Vec<f32> {
    (0..2 * AT_ONCE + 6).map(|i| (i % 127) as f32 - 63.0).collect()
}

fn tensor(name: &str, dtype: DType, values: &[f32]) -> Tensor {
    let shape = vec![values.len() / 2, 2];
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        _ => return Tensor::from_f32(name, shape, values),
    };
    Tensor::from_bytes(name, dtype, shape, bytes).unwrap()
}

fn stored(head: Tensor) -> StoredHead {
    WeightMap::from_tensors(vec![tensor(EMBED_KEY, DType::F32, &values()), head]).stored_head().unwrap()
}

#[test]
fn a_copy_is_one_in_any_type_and_another_value_anywhere_makes_a_head() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert_eq!(stored(tensor(HEAD_KEY, dtype, &values())), StoredHead::Copy, "{dtype}");
        for at in [0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 5] {
            let mut changed = values();
            changed[at] += 1.0;
            assert_eq!(stored(tensor(HEAD_KEY, dtype, &changed)), StoredHead::Own, "{dtype} {at}");
        }
    }
    assert_eq!(stored(tensor(HEAD_KEY, DType::F32, &values()[2..])), StoredHead::Own, "fewer rows");
    assert_eq!(stored(tensor("norm.weight", DType::F32, &[1.0; 2])), StoredHead::Absent);
}

#[test]
fn a_head_alone_stands_in_the_embeddings_place() {
    let mut map = WeightMap::from_tensors(vec![tensor(HEAD_KEY, DType::BF16, &values())]);
    assert_eq!(map.stored_head().unwrap(), StoredHead::Own, "as it was given");
    map.embed_by_head();
    assert_eq!((map.stored_head().unwrap(), map.remaining_keys()), (StoredHead::Alone, vec![EMBED_KEY.to_string()]));
    assert_eq!(map.take(EMBED_KEY).unwrap().to_f32().unwrap(), values());
}
