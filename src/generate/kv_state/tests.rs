use super::*;

/// Outputs of two layers whose widths differ, batch 2; each element says where it comes from.
fn outputs(first: &str, positions: usize, rows: usize) -> Vec<(String, Value)> {
    let value = |tag: usize, shape: [usize; 3]| {
        let len = shape.iter().product::<usize>();
        Value::f32(shape, (0..len).map(|i| (tag * 1000 + i) as f32).collect())
    };
    let kv = [("k_0", 3), ("v_0", 3), ("k_1", 2), ("v_1", 2)];
    let named = kv.into_iter().enumerate().map(|(i, (name, width))| (name.to_string(), value(i + 1, [2, rows, width])));
    [(first.to_string(), value(0, [2, positions, 5]))].into_iter().chain(named).collect()
}

fn error(outputs: &[(String, Value)], layers: usize) -> String {
    kv_from_prefill_outputs(outputs, layers).unwrap_err().to_string()
}

#[test]
fn outputs_become_a_cache_layer_by_layer() {
    for first in ["logits", "hidden"] {
        let state = kv_from_prefill_outputs(&outputs(first, 4, 4), 2).unwrap();
        assert_eq!((state.past_len, state.layers_k.len(), state.layers_v.len()), (4, 2, 2));
        assert_eq!((state.layers_k[1][0], state.layers_v[0][23]), (3000.0, 2023.0));
    }
    let (logits, state) = split_decode_logits_kv(outputs("logits", 1, 7), 2).unwrap();
    assert_eq!((logits.len(), logits[9], state.past_len), (10, 9.0, 7));
    assert_eq!((state.layers_k[0].len(), state.layers_v[1].len()), (2 * 7 * 3, 2 * 7 * 2));
}

#[test]
fn counts_names_and_lengths_are_checked() {
    let good = outputs("hidden", 4, 4);
    assert!(error(&good, 3).contains("found 5 outputs, expected 7"));
    assert!(error(&good[..3], 2).contains("found 3 outputs"));
    assert!(error(&[], 0).contains("found 0 outputs, expected 1"));
    let with = |at: usize, change: &dyn Fn(&mut (String, Value))| {
        let mut outputs = good.clone();
        change(&mut outputs[at]);
        error(&outputs, 2)
    };
    assert!(with(0, &|o| o.0 = "k_0".into()).contains("logits or hidden"));
    assert!(with(2, &|o| o.0 = "k_1".into()).contains("output 2, expected 'v_0'"));
    assert!(with(3, &|o| o.1.shape = vec![2, 3, 2]).contains("[2, 4, K·H]"));
    assert!(with(3, &|o| o.1.shape = vec![8, 2]).contains("[B, rows, K·H]"));
    assert!(with(4, &|o| o.1 = Value::f32([2, 4, 3], vec![0.0; 24])).contains("found 24 elements, expected 16"));
    assert!(with(4, &|o| o.1 = Value::f32([2, 4, 2], vec![0.0; 9])).contains("found 9 elements"));
    assert!(with(1, &|o| o.1 = Value::u32([2, 4, 3], vec![0; 24])).contains("expected f32"));
    // A decode step has logits of one position, and one batch.
    assert!(split_decode_logits_kv(outputs("hidden", 1, 4), 2).is_err());
    assert!(split_decode_logits_kv(outputs("logits", 2, 4), 2).unwrap_err().to_string().contains("[B, 1, V]"));
    let mut other = outputs("logits", 1, 4);
    other[0].1 = Value::f32([3, 1, 5], vec![0.0; 15]);
    assert!(split_decode_logits_kv(other, 2).unwrap_err().to_string().contains("batch of 3"));
}

#[test]
fn the_mask_keeps_the_live_rows_and_the_new_one() {
    assert_eq!(bucket_decode_mask(2, 4).unwrap(), [1.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(bucket_decode_mask(4, 4).unwrap(), [1.0; 5]);
    assert_eq!(bucket_decode_mask(0, 3).unwrap(), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(bucket_decode_mask(0, 0).unwrap(), [1.0]);
    assert!(bucket_decode_mask(5, 4).unwrap_err().to_string().contains("5 live rows"));
}
