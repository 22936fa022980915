//! Every case of every op on every tier of the device, against the reference; and that this comparison can fail.

mod common;

use common::{cases, expected, open, plan, run, tiers, title, tolerance::compare};
use gemmaflow::{
    Error,
    ir::{Case, Data, Op, ops::Linear},
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
    let all: Vec<String> =
        tiers().iter().flat_map(|(tier, context)| failures(tier, &PipelineCache::new(context, false))).collect();
    assert!(all.is_empty(), "{} cases differ:\n{}", all.len(), all.join("\n"));
}

fn linear_case() -> Case {
    let case = Op::from(Linear).cases().into_iter().find(|c| c.inputs[0].shape[1] == 3);
    case.expect("a case with three rows")
}

#[test]
fn a_wrong_shader_is_noticed() {
    let pipelines = PipelineCache::new(&open(&GpuOptions::default()), false);
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
    let pipelines = PipelineCache::new(&open(&GpuOptions::default()), false);
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
            Data::I32(v) => v[0] += 1,
            Data::U32(v) => v[0] += 1,
            Data::Stored(_) => panic!("{}: a result is no weight", title(&case)),
        }
        // A sum of many products may be small by cancellation; its tolerance is that of the products.
        compare(&case, &right, &right).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
        assert!(compare(&case, &right, &wrong).is_err(), "{}: a change of 1 % passed", title(&case));
    }
}
