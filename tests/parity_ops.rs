//! Every case of every op on every tier of the device, against the reference; and that this comparison can fail.

mod common;

use std::collections::BTreeSet;

use common::{cases, cooperative, open, plan, plan_with, product, products, run, tiers, title};
use gemmaflow::{
    Error,
    error::DeviceError,
    internals::{
        ir::{
            Case, LowerOptions,
            kernel::{CooperativeTile, Target, Tier},
        },
        lower::{Unplaced, lower},
        plan::Plan,
        reference::{compare, compare_with, expected},
        runtime::PipelineCache,
    },
    ir::{
        BinaryFn, Compute, DType, Data, DimBinding, Graph, Op, Value,
        ops::{Attention, Conv2d, Linear, Role},
    },
    runtime::GpuOptions,
    weights::Tensor,
};

/// What `found` is reported for, over all cases of one tier. A case whose plan another tier ran too is left out.
fn failures(tier: &str, pipelines: &PipelineCache, ran: &mut BTreeSet<String>) -> Vec<String> {
    let target = pipelines.context().capabilities().target();
    let mut failures = Vec::new();
    for case in cases() {
        let start = std::time::Instant::now();
        let lowered = plan(&case, &target);
        if lowered.as_ref().is_ok_and(|plan| !ran.insert(format!("{} {plan:?}", title(&case)))) {
            continue;
        }
        let found = lowered.and_then(|plan| run(pipelines, &plan, &case));
        let outcome = match (found, expected(&case)) {
            (Ok(found), Ok(expected)) => compare(&case, &expected, &found),
            (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
        };
        match outcome {
            Ok(worst) => eprintln!("{tier}: {}: {worst:.2} of what is allowed, {:.1?}", title(&case), start.elapsed()),
            Err(problem) => failures.push(format!("{tier}: {}: {problem}", title(&case))),
        }
    }
    failures
}

#[test]
fn every_op_agrees_with_the_reference_on_every_tier() {
    assert!(cases().len() > 100, "the ops lost their cases");
    let mut ran = BTreeSet::new();
    let all: Vec<String> =
        tiers().iter().flat_map(|(tier, context)| failures(tier, &PipelineCache::new(context), &mut ran)).collect();
    assert!(all.is_empty(), "{} cases differ:\n{}", all.len(), all.join("\n"));
}

/// Products with f16 operands, rounded at least where they pass through workgroup memory (some drivers keep more digits
/// in registers); on a device without them the error that says so, and with `mixed` the f32 kernel and a note.
#[test]
fn products_agree_with_f16_operands_on_every_tier() {
    let f16 = in_f16();
    let mixed = LowerOptions { mixed: true, ..f16.clone() };
    let (mut ran, mut rounded) = (0, 0);
    for (tier, context) in tiers() {
        let (pipelines, target) = (PipelineCache::new(&context), context.capabilities().target());
        // Barriers make software drivers compile for seconds; the weights' types are the same text in every tier.
        let brief = |case: &Case| tier == "software" || case.inputs[1].dtype() == DType::BF16;
        for case in Op::from(Linear).cases().into_iter().filter(brief) {
            let right = expected(&case).unwrap();
            if !target.f16 {
                let refused = plan_with(&case, &target, &f16).unwrap_err();
                assert!(matches!(refused, Error::Unsupported(_)) && refused.to_string().contains("f16"), "{refused}");
                let fallback = plan_with(&case, &target, &mixed).unwrap();
                assert!(fallback.report.notes.iter().any(|note| note.contains("f16")), "{}", fallback.report);
                compare(&case, &right, &run(&pipelines, &fallback, &case).unwrap()).unwrap();
                continue;
            }
            let plan = plan_with(&case, &target, &f16).unwrap();
            assert!(plan.dispatches[0].kernel.options.contains(&("COMPUTE", "f16".into())), "{plan}");
            let found = run(&pipelines, &plan, &case).unwrap();
            let worst = compare_with(&case, Compute::F16, &right, &found).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
            rounded += usize::from(compare(&case, &right, &found).is_err());
            eprintln!("{tier}, f16: {}: {worst:.2} of what is allowed", title(&case));
            ran += 1;
        }
    }
    eprintln!("{ran} cases in f16, {rounded} of them beyond what f32 may be off by");
    assert!(ran == 0 || rounded > 0, "nothing was rounded");
}

/// An activation beyond f16's range is the largest f16, never an infinity.
#[test]
fn operands_beyond_f16_stay_finite() {
    let f16 = LowerOptions { compute: Compute::F16, ..LowerOptions::default() };
    let mut case = linear_case();
    let large: Vec<f32> = case.inputs[0].to_f32().unwrap().iter().map(|x| x * 3e5).collect();
    let clamped: Vec<f32> = large.iter().map(|x| x.clamp(-65504.0, 65504.0)).collect();
    let shape = case.inputs[0].shape.clone();
    for (_, context) in tiers().into_iter().filter(|(_, context)| context.capabilities().f16) {
        let pipelines = PipelineCache::new(&context);
        case.inputs[0] = Value::f32(shape.clone(), large.clone());
        let found = run(&pipelines, &plan_with(&case, &context.capabilities().target(), &f16).unwrap(), &case).unwrap();
        case.inputs[0] = Value::f32(shape.clone(), clamped.clone());
        compare_with(&case, Compute::F16, &expected(&case).unwrap(), &found).unwrap();
    }
}

/// A device that multiplies tiles of f16 and sums them in f32.
struct Matrices {
    pipelines: PipelineCache,
    target: Target,
    tile: CooperativeTile,
    /// Of its least subgroup.
    size: u32,
}

impl Matrices {
    fn of_the_device() -> Option<Self> {
        let context = cooperative()?;
        let target = context.capabilities().target();
        let tile = target.cooperative.expect("matrices");
        Some(Self { pipelines: PipelineCache::new(&context), target, tile, size: context.capabilities().subgroup_min })
    }
}

/// How what goes through matrices is lowered.
fn in_f16() -> LowerOptions {
    LowerOptions { compute: Compute::F16, mixed: false, ..LowerOptions::default() }
}

/// A product (or a convolution) in f16 on the device with cooperative matrices, through them.
fn through_matrices(pipelines: &PipelineCache, plan: &Plan, case: &Case) -> Value {
    let shaders: Vec<_> = plan.dispatches.iter().map(|dispatch| dispatch.kernel.shader).collect();
    assert_eq!(shaders, ["half_rows", "linear_coop"], "{}", title(case));
    run(pipelines, plan, case).unwrap_or_else(|e| panic!("{}: {e}", title(case)))
}

/// Runs where the adapter multiplies tiles of f16 and sums them in f32, which most software drivers do not: there
/// `tests/shaders.rs` alone says something of this kernel.
#[test]
fn products_agree_through_cooperative_matrices_where_there_are_any() {
    let Some(Matrices { pipelines, target, .. }) = Matrices::of_the_device() else { return };
    for case in products() {
        let right = expected(&case).unwrap();
        let found = through_matrices(&pipelines, &plan_with(&case, &target, &in_f16()).unwrap(), &case);
        let worst = compare_with(&case, Compute::F16, &right, &found).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
        assert!(compare(&case, &right, &found).is_err(), "{}: nothing was rounded", title(&case));
        eprintln!("{:?}: {}: {worst:.2} of what is allowed", target.cooperative, title(&case));
    }
}

/// Workgroups of one subgroup, which takes all pieces in turn, up to many, most of which only load; and the kernels for
/// subgroups of any size.
#[test]
fn workgroups_of_any_number_of_subgroups_multiply_all_where_there_are_cooperative_matrices() {
    let Some(Matrices { pipelines, target, tile, size }) = Matrices::of_the_device() else { return };
    let case = product(70, 72, 130, DType::BF16);
    let right = expected(&case).unwrap();
    for subgroups in [1, 2, 8, 16, 32].into_iter().filter(|count| count * size <= 256) {
        let cooperative = Some(CooperativeTile { lanes: subgroups * size, ..tile });
        let target = Target { tier: Tier::Subgroups, cooperative, ..target.clone() };
        let found = through_matrices(&pipelines, &plan_with(&case, &target, &in_f16()).unwrap(), &case);
        let worst = compare_with(&case, Compute::F16, &right, &found);
        let worst = worst.unwrap_or_else(|e| panic!("{subgroups} subgroups: {}: {e}", title(&case)));
        eprintln!("{subgroups} subgroups of {size}: {}: {worst:.2} of what is allowed", title(&case));
    }
}

/// Attention of many queries, by workgroups of one subgroup up to many: scores, values and what rescales sums are dealt
/// out over them.
#[test]
fn attention_agrees_through_cooperative_matrices_where_there_are_any() {
    let Some(Matrices { pipelines, target, tile, size }) = Matrices::of_the_device() else { return };
    let mut ran = 0;
    for case in Op::from(Attention { scale: 1.0, softcap: None, keep: false }).cases() {
        let right = expected(&case).unwrap();
        for lanes in [size, 2 * size, tile.lanes, 256] {
            let cooperative = Some(CooperativeTile { lanes, ..tile });
            let plan = plan_with(&case, &Target { cooperative, ..target.clone() }, &in_f16()).unwrap();
            if plan.dispatches[0].kernel.shader != "attention_coop" {
                continue;
            }
            let found = run(&pipelines, &plan, &case).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
            let worst = compare_with(&case, Compute::F16, &right, &found);
            let worst = worst.unwrap_or_else(|e| panic!("{lanes} lanes: {}: {e}", title(&case)));
            eprintln!("{lanes} lanes: {}: {worst:.2} of what is allowed", title(&case));
            ran += 1;
        }
    }
    assert!(ran > 8, "{ran} cases ran");
}

/// Convolutions of 32 positions and 32 products or more, without a bias.
#[test]
fn convolutions_agree_through_cooperative_matrices_where_there_are_any() {
    let Some(Matrices { pipelines, target, .. }) = Matrices::of_the_device() else { return };
    let mut ran = 0;
    for case in Op::from(Conv2d { stride: 1, padding: [0; 4], groups: 1, bias: false }).cases() {
        let plan = plan_with(&case, &target, &in_f16()).unwrap();
        if !plan.dispatches.iter().any(|dispatch| dispatch.kernel.uses_matrices()) {
            continue;
        }
        let right = expected(&case).unwrap();
        let found = through_matrices(&pipelines, &plan, &case);
        let worst = compare_with(&case, Compute::F16, &right, &found).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
        assert!(compare(&case, &right, &found).is_err(), "{}: nothing was rounded", title(&case));
        eprintln!("{}: {worst:.2} of what is allowed", title(&case));
        ran += 1;
    }
    assert!(ran > 1, "{ran} cases ran");
}

/// x·a − x·b, two products in one kernel, is the one product of (x, x) with (a, −b).
#[test]
fn pairs_agree_through_cooperative_matrices_where_there_are_any() {
    let Some(Matrices { pipelines, target, tile, size }) = Matrices::of_the_device() else { return };
    let rows = 45;
    let inner = 72;
    let out = 75;
    let x = Case::numbers(rows * inner, 1, 1.0);
    let a = Case::numbers(out * inner, 2, 1.0);
    let b = Case::numbers(out * inner, 3, 1.0);
    let stored = |name: &str, columns: usize, values: &[f32]| Value::stored(Tensor::from_f32(name, vec![out, columns], values));
    let operands = vec![Value::f32([1, rows, inner], x.clone()), stored("a", inner, &a), stored("b", inner, &b)];
    let pair = Case::new("pair", Linear, operands);
    let mut graph = Graph::new("pair");
    let input = graph.input("operand 0", Role::Caller, DType::F32, &[1, rows, inner][..]).unwrap();
    let products = [1, 2].map(|i| {
        let weight = graph.weight(format!("operand {i}"), DType::F32, &[out, inner]).unwrap();
        graph.linear(input, weight).unwrap()
    });
    let result = graph.binary(BinaryFn::Sub, products[0], products[1]).unwrap();
    graph.output("result", result);
    let twice: Vec<f32> = x.chunks(inner).flat_map(|row| [row, row].concat()).collect();
    let negative: Vec<f32> = b.iter().map(|w| -w).collect();
    let both: Vec<f32> = a.chunks(inner).zip(negative.chunks(inner)).flat_map(|(a, b)| [a, b].concat()).collect();
    let one = Case::new("one", Linear, vec![Value::f32([1, rows, 2 * inner], twice), stored("ab", 2 * inner, &both)]);
    for lanes in [size, tile.lanes, 256] {
        let target = Target { cooperative: Some(CooperativeTile { lanes, ..tile }), ..target.clone() };
        let plan = lower(&graph, &DimBinding::new(), &target, &in_f16(), &Unplaced).unwrap();
        let found = through_matrices(&pipelines, &plan, &pair);
        compare_with(&one, Compute::F16, &expected(&one).unwrap(), &found).unwrap_or_else(|e| panic!("{lanes} lanes: {e}"));
    }
}

/// Activations as large as Gemma's, beyond f16 and far above the rest of their row: rows are divided, not cut off.
#[test]
fn large_activations_agree_through_cooperative_matrices_where_there_are_any() {
    let Some(Matrices { pipelines, target, .. }) = Matrices::of_the_device() else { return };
    let rows = 48;
    let inner = 640;
    let out = 40;
    let mut x = Case::numbers(rows * inner, 5, 1.0);
    let mut w = Case::numbers(out * inner, 6, 4.0);
    for (t, row) in x.chunks_mut(inner).enumerate() {
        match t % 4 {
            0 => row.iter_mut().for_each(|x| *x *= 1e5),
            1 => row[7] = 3e5,
            2 => row.iter_mut().for_each(|x| *x *= 1e30),
            _ if t == 3 => row.fill(0.0),
            _ => {}
        }
    }
    // What stands beside the outlier decides its row.
    w.iter_mut().skip(7).step_by(inner).for_each(|w| *w = 0.0);
    let weight = Value::stored(Tensor::from_f32("w", vec![out, inner], &w));
    let case = Case::new("large", Linear, vec![Value::f32([1, rows, inner], x), weight]);
    let found = through_matrices(&pipelines, &plan_with(&case, &target, &in_f16()).unwrap(), &case);
    compare_with(&case, Compute::F16, &expected(&case).unwrap(), &found).unwrap();
}

fn linear_case() -> Case {
    let case = Op::from(Linear).cases().into_iter().find(|c| c.inputs[0].shape[1] == 3);
    case.expect("a case with three rows")
}

#[test]
fn a_wrong_shader_is_noticed() {
    let pipelines = PipelineCache::new(&open(&GpuOptions::default()));
    let case = linear_case();
    let mut plan = plan(&case, &pipelines.context().capabilities().target()).unwrap();
    let right = expected(&case).unwrap();
    compare(&case, &right, &run(&pipelines, &plan, &case).unwrap()).expect("the shader as it is");
    let kernel = &mut plan.dispatches[0].kernel;
    kernel.hole = "fn epilogue(i: u32, v: f32) -> f32 { return v + select(0.0, 1e-2, i == 70u); }\n".into();
    let problem = compare(&case, &right, &run(&pipelines, &plan, &case).unwrap()).unwrap_err();
    assert!(problem.contains("element 70"), "{problem}");
    plan.dispatches[0].kernel.hole = "fn epilogue(i: u32, v: f32) -> f32 { return v + nothing; }\n".into();
    match run(&pipelines, &plan, &case) {
        Err(Error::Device(DeviceError::Shader { shader, problem })) => {
            assert!(shader.starts_with("hole:1") && problem.contains("nothing"), "{shader}: {problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_plan_leaves_out_is_noticed() {
    let pipelines = PipelineCache::new(&open(&GpuOptions::default()));
    let case = linear_case();
    let mut plan = plan(&case, &pipelines.context().capabilities().target()).unwrap();
    plan.dispatches[0].workgroups[0] -= 1;
    let problem = compare(&case, &expected(&case).unwrap(), &run(&pipelines, &plan, &case).unwrap()).unwrap_err();
    assert!(problem.contains("NaN"), "{problem}");
}

#[test]
fn a_perturbed_result_is_noticed() {
    for case in cases() {
        let right = expected(&case).unwrap();
        let mut wrong = right.clone();
        match &mut wrong.data {
            Data::F32(v) => v[0] += v[0].abs().max(1.0) * 0.01,
            Data::F16(v) => v[0] = Value::narrow(v[0].to_f32() * 0.99 - 0.01),
            Data::I32(v) => v[0] += 1,
            Data::U32(v) => v[0] += 1,
            Data::Stored(_) => panic!("{}: a result is no weight", title(&case)),
        }
        // A sum of many products may be small by cancellation; its tolerance is that of the products.
        compare(&case, &right, &right).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
        assert!(compare(&case, &right, &wrong).is_err(), "{}: a change of 1 % passed", title(&case));
    }
}
