use super::*;

fn map() -> WeightMap {
    let names = ["norm.weight", "layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight", "layers.1.mlp.up_proj.weight"];
    WeightMap::from_tensors(names.iter().map(|n| Tensor::from_f32(*n, vec![2], &[1.0, 2.0])).collect())
}

#[test]
fn a_weight_is_taken_once() {
    let mut map = map();
    assert_eq!(map.peek("norm.weight").unwrap(), TensorInfo { dtype: DType::F32, shape: &[2] });
    assert_eq!(map.take("norm.weight").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    assert_eq!((map.len(), map.remaining_keys().len()), (3, 3));
    assert!(matches!(map.take("norm.weight"), Err(Error::Weight(WeightError::Missing { nearest: None, .. }))));
}

#[test]
fn a_missing_weight_names_the_nearest_key() {
    let text = map().take("layers.0.mlp.upproj.weight").unwrap_err().to_string();
    assert!(text.contains("'layers.0.mlp.upproj.weight'") && text.contains("'layers.0.mlp.up_proj.weight'"), "{text}");
    let text = map().peek("lm_head.weight").unwrap_err().to_string();
    assert!(!text.contains("nearest"), "{text}");
}

#[test]
fn a_weight_of_a_foreign_type_is_refused_by_its_type() {
    let mut map = map();
    map.insert_foreign("x.weight", Foreign { name: "F8_E4M3".into(), advice: "take another".into() });
    let text = map.take("x.weight").unwrap_err().to_string();
    assert!(text.contains("x.weight") && text.contains("F8_E4M3") && text.contains("take another"), "{text}");
    assert_eq!((map.len(), map.remaining_keys()[4].as_str()), (5, "x.weight"));
}

#[test]
fn edit_distances_of_the_textbook() {
    let pairs = [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("same", "same", 0)];
    for (a, b, distance) in pairs {
        assert_eq!(edit_distance(a.as_bytes(), b.as_bytes()), distance, "{a} {b}");
    }
}
