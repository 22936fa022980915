//! Every case of every op on every tier of the device, against the reference; and that this comparison can fail.

mod common;

use common::{
    cases, expected, open, plan, plan_with, run, tiers, title,
    tolerance::{compare, compare_with},
};
use gemmaflow::{
    Error,
    ir::{Case, Compute, DType, Data, LowerOptions, Op, Value, ops::Linear},
    runtime::{GpuOptions, PipelineCache},
};

/// What `found` is reported for, over all cases of one tier.
fn failures(tier: &str, pipelines: &PipelineCache) -> Vec<String> {
    let target = pipelines.context().capabilities().target();
    let mut failures = Vec::new();
    for case in cases() {
        let start = std::time::Instant::now();
        let found = plan(&case, &target).and_then(|plan| run(pipelines, &plan, &case));
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
    let all: Vec<String> = tiers().iter().flat_map(|(tier, context)| failures(tier, &PipelineCache::new(context))).collect();
    assert!(all.is_empty(), "{} cases differ:\n{}", all.len(), all.join("\n"));
}

/// Products with f16 operands, rounded at least where they pass through workgroup memory (some drivers keep more digits in
/// registers); on a device without them the error that says so, and with `mixed` the f32 kernel and a note.
#[test]
fn products_agree_with_f16_operands_on_every_tier() {
    let f16 = LowerOptions { compute: Compute::F16, mixed: false, ..LowerOptions::default() };
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
        Err(Error::Shader { shader, problem }) => {
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
