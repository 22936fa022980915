//! Which products go through cooperative matrices.

use crate::{
    ir::{
        Compute, DType, DimBinding, Graph, LowerOptions,
        kernel::{CooperativeTile, Kernel, Target, Tier},
        ops::Conv2d,
        sym,
    },
    lower::{
        Unplaced, lower,
        tests::{check, x},
    },
};

/// The kernels of one product by the weight `name`, whose rows are `inner` long.
fn product_kernels(target: &Target, options: &LowerOptions, name: &str, [rows, inner]: [usize; 2]) -> Vec<Kernel> {
    let mut g = Graph::new("product");
    let input = x(&mut g, "x", &[1, rows, inner]);
    let w = g.weight(name, DType::F32, &[128, inner]).unwrap();
    let y = g.linear(input, w).unwrap();
    let other = x(&mut g, "other", &[1, rows, 128]);
    let y = g.add(other, y).unwrap();
    g.output("y", y);
    // As many tokens, should they be of sequences that lie apart.
    let binding = DimBinding::new().with(sym::SEQ, rows);
    let plan = lower(&g, &binding, target, options, &Unplaced).unwrap();
    check(&g, &binding, target, options, &plan);
    plan.dispatches.into_iter().map(|dispatch| dispatch.kernel).collect()
}

fn product_shaders(target: &Target, options: &LowerOptions, name: &str, size: [usize; 2]) -> Vec<&'static str> {
    product_kernels(target, options, name, size).iter().map(|kernel| kernel.shader).collect()
}

#[test]
fn many_rows_in_f16_go_through_cooperative_matrices() {
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    let target = Target { tier: Tier::Subgroup(32), f16: true, cooperative: Some(tile), ..Target::portable() };
    let f16 = LowerOptions { compute: Compute::F16, ..LowerOptions::default() };
    let exact = LowerOptions::default();
    let auto = LowerOptions { compute: Compute::Auto, ..LowerOptions::default() };
    let through = |target: &Target, options: &LowerOptions, name: &str, size: [usize; 2]| {
        let found = product_shaders(target, options, name, size);
        assert_eq!(found.contains(&"half_rows"), found.contains(&"linear_coop"), "{found:?}");
        found.contains(&"linear_coop")
    };
    for (rows, inner) in [(32, 32), (33, 35), (128, 256)] {
        assert!(through(&target, &f16, "w", [rows, inner]), "{rows} rows of {inner}");
        let small = CooperativeTile { m: 8, n: 8, k: 8, lanes: 256, memory: 16 << 10 };
        assert!(through(&Target { cooperative: Some(small), tier: Tier::Subgroups, ..target.clone() }, &f16, "w", [rows, inner]));
        assert!(through(&target, &auto, "w", [rows, inner]), "{rows} rows of {inner}");
    }
    assert!(!through(&target, &LowerOptions::default(), "w", [128, 256]), "f32 stays f32");
    assert!(!through(&target, &f16, "ffw_down", [128, 256]), "what keeps f32 stays f32");
    for name in ["layer.0.ffw_down", "layer.0.router", "embed"] {
        assert!(!through(&target, &auto, name, [128, 256]), "{name} stays f32");
    }
    assert!(through(&target, &LowerOptions { mixed: false, ..f16.clone() }, "ffw_down", [128, 256]));
    assert!(through(&target, &LowerOptions { mixed: false, ..auto.clone() }, "ffw_down", [128, 256]));
    for (rows, inner) in [(1, 256), (31, 256), (128, 24)] {
        assert!(!through(&target, &f16, "w", [rows, inner]), "{rows} rows of {inner}");
        assert_eq!(product_kernels(&target, &auto, "w", [rows, inner]), product_kernels(&target, &exact, "w", [rows, inner]));
    }
    let others = [
        Target { cooperative: None, ..target.clone() },
        // x, y, the weight and the epilogue's operand leave no room for the scales.
        Target { max_storage_buffers: 4, ..target.clone() },
    ];
    for other in &others {
        assert!(!through(other, &f16, "w", [128, 256]), "{other:?}");
        assert_eq!(product_kernels(other, &auto, "w", [128, 256]), product_kernels(other, &exact, "w", [128, 256]));
    }
    let small = Target { max_binding: 64 * 256 * 4, ..target };
    assert_eq!(product_shaders(&small, &f16, "w", [32, 256]), ["half_rows", "linear_coop", "linear_coop"]);
}

/// Convolutions do where they add no bias: what lies under the taps at a position is a row.
#[test]
fn convolutions_go_through_cooperative_matrices() {
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    let target = Target { tier: Tier::Subgroup(32), f16: true, cooperative: Some(tile), ..Target::portable() };
    let of = |compute| LowerOptions { compute, ..LowerOptions::default() };
    let shaders = |target: &Target, compute, size: usize, op: Conv2d| {
        let mut g = Graph::new("convolution");
        let input = x(&mut g, "x", &[1, size, size, 8]);
        let weight = g.weight("w", DType::BF16, &[8, 8 / op.groups, 3, 3]).unwrap();
        let bias = op.bias.then(|| g.weight("b", DType::BF16, &[8]).unwrap());
        let operands: Vec<_> = [input, weight].into_iter().chain(bias).collect();
        let y = g.push(op, &operands).unwrap();
        g.output("y", y);
        let options = of(compute);
        let plan = lower(&g, &DimBinding::new(), target, &options, &Unplaced).unwrap();
        check(&g, &DimBinding::new(), target, &options, &plan);
        plan.dispatches.into_iter().map(|dispatch| dispatch.kernel.shader).collect::<Vec<_>>()
    };
    let op = Conv2d { stride: 1, padding: [1; 4], groups: 1, bias: false };
    for compute in [Compute::Auto, Compute::F16] {
        assert_eq!(shaders(&target, compute, 6, op.clone()), ["half_rows", "linear_coop"]);
        assert_eq!(shaders(&target, compute, 5, op.clone()), ["conv2d"], "25 positions");
        assert_eq!(shaders(&target, compute, 6, Conv2d { bias: true, ..op.clone() }), ["conv2d"]);
        assert_eq!(shaders(&target, compute, 6, Conv2d { groups: 8, ..op.clone() }), ["conv2d"]);
        // 36 rows of 96 numbers, the tail of each among them.
        let small = Target { max_binding: 36 * 96 * 2 - 1, ..target.clone() };
        assert_eq!(shaders(&small, compute, 6, op.clone()), ["conv2d"], "no room for the rows");
    }
    assert_eq!(shaders(&target, Compute::F32, 6, op), ["conv2d"]);
}

/// Steps stay exact: also one of several sequences, whose rows are many.
#[test]
fn steps_of_several_sequences_stay_exact() {
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    let target = Target { tier: Tier::Subgroup(32), f16: true, cooperative: Some(tile), ..Target::portable() };
    let of = |compute, batched| LowerOptions { compute, batched, ..LowerOptions::default() };
    let kernels = |options: &LowerOptions| product_kernels(&target, options, "w", [32, 256]);
    assert_ne!(kernels(&of(Compute::Auto, false)), kernels(&of(Compute::F32, false)));
    assert_eq!(kernels(&of(Compute::Auto, true)), kernels(&of(Compute::F32, true)));
}
