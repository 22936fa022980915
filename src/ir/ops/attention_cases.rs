//! Inputs on which every attention kernel must agree with the meaning.

use super::{Attention, DEAD_KEY};
use crate::ir::{Case, MaskKind, Value};

/// Rings, padding, both sorts of windows, narrow caches and heads of every width.
pub(super) fn cases() -> Vec<Case> {
    let positions = |from: i32, len: usize| Value::i32([1, len], (from..from + len as i32).collect::<Vec<_>>());
    let case = |name: &str, op: Attention, [new, heads, kv_heads, head_dim]: [usize; 4], query: Value, key: Value| {
        let cached = key.shape[1];
        let mut operands = vec![
            Case::values(&[1, new, heads, head_dim], 1, 2.0),
            Case::values(&[1, cached, kv_heads, head_dim], 2, 2.0),
            Case::values(&[1, cached, kv_heads, head_dim], 3, 1.0),
            query,
            key,
        ];
        if op.keep {
            operands.push(Value::f32([1, cached], (0..cached).map(|i| f32::from(i % 3 != 0)).collect::<Vec<_>>()));
        }
        Case::new(format!("{name} {new}x{heads}/{kv_heads}x{head_dim} over {cached}"), op, operands)
    };
    let causal = Attention { mask: MaskKind::Causal, scale: 0.3, softcap: None, keep: false };
    let window = Attention { mask: MaskKind::SlidingWindow(9), ..causal.clone() };
    let capped = Attention { softcap: Some(4.0), ..causal.clone() };
    let faint = Attention { scale: 0.05, ..causal.clone() };
    let all = Attention { mask: MaskKind::None, ..causal.clone() };
    let around = Attention { mask: MaskKind::SymmetricWindow(4), ..causal.clone() };
    let around_kept = Attention { keep: true, softcap: Some(4.0), ..around.clone() };
    let keep = Attention { keep: true, ..window.clone() };
    let ring = Value::i32([1, 12], vec![24, 25, 26, 15, 16, 17, 18, 19, 20, 21, 22, 23]);
    let dead = Value::i32([1, 9], vec![0, 1, 2, 3, 4, DEAD_KEY, DEAD_KEY, DEAD_KEY, DEAD_KEY]);
    let padded = Value::i32([1, 9], vec![DEAD_KEY, DEAD_KEY, 0, 1, 2, 3, 4, 5, 6]);
    // The same keys and values in a narrow cache.
    let narrow = |case: Case| {
        let half = |value: &Value| Value::f16(value.shape.clone(), &value.to_f32().unwrap_or_default());
        let mut inputs = case.inputs;
        inputs[1..3].iter_mut().for_each(|value| *value = half(value));
        Case { name: format!("f16 {}", case.name), inputs, ..case }
    };
    vec![
        narrow(case("one", causal.clone(), [1, 1, 1, 2], positions(0, 1), positions(0, 1))),
        narrow(case("decode", capped.clone(), [1, 8, 4, 64], positions(299, 1), positions(0, 300))),
        narrow(case("long decode", causal.clone(), [1, 4, 1, 256], positions(1029, 1), positions(0, 1030))),
        narrow(case("ring", window.clone(), [3, 4, 2, 12], positions(24, 3), ring.clone())),
        narrow(case("chunk", causal.clone(), [16, 4, 1, 70], positions(100, 16), positions(0, 116))),
        case("one", causal.clone(), [1, 1, 1, 2], positions(0, 1), positions(0, 1)),
        case("causal", causal.clone(), [33, 4, 2, 20], positions(0, 33), positions(0, 33)),
        case("decode", causal.clone(), [1, 8, 4, 64], positions(299, 1), positions(0, 300)),
        case("long decode", causal.clone(), [1, 4, 1, 256], positions(1029, 1), positions(0, 1030)),
        case("window", window.clone(), [33, 4, 1, 16], positions(0, 33), positions(0, 33)),
        case("ring", window.clone(), [3, 4, 2, 12], positions(24, 3), ring.clone()),
        case("softcap", capped, [7, 4, 4, 20], positions(0, 7), positions(0, 7)),
        case("bidirectional", all, [5, 2, 1, 16], positions(0, 5), positions(0, 5)),
        case("symmetric window", around.clone(), [33, 4, 1, 16], positions(0, 33), positions(0, 33)),
        case("symmetric window, wide heads", around.clone(), [20, 4, 1, 256], positions(0, 20), positions(0, 20)),
        case("symmetric window, padding", around.clone(), [9, 4, 2, 16], padded.clone(), padded),
        case("symmetric ring", around_kept, [3, 4, 2, 12], positions(20, 3), ring.clone()),
        case(
            "itself alone",
            Attention { mask: MaskKind::SymmetricWindow(0), ..around },
            [5, 2, 1, 16],
            positions(0, 5),
            positions(0, 5),
        ),
        case("keep", keep, [3, 4, 2, 12], positions(24, 3), ring),
        case("dead rows", causal.clone(), [1, 4, 2, 16], positions(4, 1), dead),
        case("nothing visible", window, [2, 2, 1, 16], positions(50, 2), positions(0, 9)),
        case("wide heads", causal.clone(), [5, 4, 1, 256], positions(36, 5), positions(0, 41)),
        case("widest heads", faint.clone(), [5, 4, 1, 512], positions(36, 5), positions(0, 41)),
        case("widest decode", faint.clone(), [1, 8, 1, 512], positions(1029, 1), positions(0, 1030)),
        narrow(case("widest chunk", faint, [20, 4, 2, 512], positions(60, 20), positions(0, 80))),
        case("chunk", causal, [16, 4, 1, 64], positions(100, 16), positions(0, 116)),
    ]
}
