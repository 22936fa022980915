//! Graphs with pictures and sounds against transformers; wrong graphs and wrong prompts are noticed.

use super::{
    Plant, RED, apart,
    common::{multimodal::Multimodal, oracle::worst},
    masks,
    media::{changed, error, open, oracle},
    run, sessions, values,
};
use gemmaflow::{
    checkpoint::load_from_path,
    flow::BuiltModel,
    gemma::GemmaFlow,
    internals::with_soft_tokens,
    ir::{
        Graph, MaskKind, Op, Value,
        ops::{Input, Role},
    },
    prompt::{Prompt, SoftTokens},
    runtime::{Device, RunInput, Session},
};

/// A graph for one prompt of `tokens` tokens.
fn built(oracle: &Multimodal, tokens: usize) -> BuiltModel {
    let flow = with_soft_tokens(GemmaFlow::for_prefill(&oracle.config, 1, tokens)).sentence_vectors();
    flow.build(load_from_path(&oracle.folder).unwrap().as_mut()).unwrap().with_extra_hir_outputs(["final_norm"]).unwrap()
}

/// The outputs of a graph for transformers' own rows of a case.
fn outputs(oracle: &Multimodal, session: &Session, graph: &Graph, model: &BuiltModel, case: &str) -> Vec<(String, Value)> {
    let prompt = oracle.merged_prompt(case);
    let width = oracle.config.hidden_size;
    let (mut ids, mut is_text) = (prompt.tokens().to_vec(), vec![1.0; prompt.len()]);
    let mut rows = vec![0.0; prompt.len() * width];
    for (start, soft) in prompt.soft_tokens() {
        ids[start..start + soft.len()].fill(0);
        is_text[start..start + soft.len()].fill(0.0);
        rows[start * width..][..soft.values().len()].copy_from_slice(soft.values());
    }
    let soft = [("soft_tokens", RunInput::F32(&rows)), ("is_text", RunInput::F32(&is_text))];
    run(session, graph, model, &[&[("input_ids", RunInput::U32(&ids))], &soft[..]].concat())
}

#[test]
fn hidden_states_are_those_of_transformers() {
    let oracle = oracle();
    for (what, session) in sessions() {
        // Every length is a plan of its own, whose kernels a software driver compiles for seconds.
        for case in if what == "reference" { &["picture", "two", "clip", "both"][..] } else { &["both"] } {
            let hidden = oracle.f32(&format!("{case}.hidden"));
            let model = built(&oracle, hidden.len() / oracle.config.hidden_size);
            let found = outputs(&oracle, &session, &model.graph, &model, case);
            let errors = [("final_norm", "hidden"), ("sentence", "pooled")]
                .map(|(output, name)| worst(&values(&found, output), &oracle.f32(&format!("{case}.{name}"))));
            println!("{what:22} {case:8} {errors:?}");
            assert!(errors.iter().all(|error| *error < oracle.gate()), "{what} {case}: {errors:?}");
        }
    }
}

#[test]
fn wrong_graphs_are_noticed() {
    let oracle = oracle();
    let session = Session::new(&Device::Cpu).unwrap();
    let model = built(&oracle, oracle.f32("both.hidden").len() / oracle.config.hidden_size);
    let causal = |graph: &mut Graph| masks(graph, |_| MaskKind::Causal);
    let as_generators = |graph: &mut Graph| {
        for node in graph.ids().collect::<Vec<_>>() {
            if let Op::Input(Input { role: Role::Visible { rule, .. }, name, ty }) = graph.node(node).op.clone() {
                let role = Role::Visible { rule, mask: MaskKind::Causal, pictures: true };
                graph.replace_op(node, Input { role, name, ty });
            }
        }
    };
    let no_windows = |graph: &mut Graph| masks(graph, |_| MaskKind::None);
    let plants: [(&str, Plant); 3] = [
        ("causal", Box::new(causal)),
        ("causal but within a picture", Box::new(as_generators)),
        ("no windows", Box::new(no_windows)),
    ];
    for (what, plant) in plants {
        let mut wrong = model.graph.clone();
        plant(&mut wrong);
        let found = outputs(&oracle, &session, &wrong, &model, "both");
        let error = apart(&values(&found, "sentence"), &oracle.f32("both.embedding"));
        println!("{what:32} {error:.1e}");
        assert!(error > RED, "{what}: only {error:e}");
    }
}

/// The same rows with other values.
fn with(soft: &SoftTokens, values: Vec<f32>) -> SoftTokens {
    SoftTokens::new(soft.modality(), soft.placeholder(), soft.width(), values).unwrap()
}

#[test]
fn planted_mistakes_are_noticed() {
    let oracle = oracle();
    let embedder = open(&oracle, Device::Cpu);
    let [two, clip, both] = ["two", "clip", "both"].map(|case| oracle.merged_prompt(case));
    let softs: Vec<SoftTokens> = two.soft_tokens().map(|(_, soft)| soft.clone()).collect();
    let rows = |soft: &SoftTokens| soft.values().chunks(soft.width()).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let [image, audio] = [oracle.config.multimodal.image.unwrap(), oracle.config.multimodal.audio.unwrap()];
    let scale = (oracle.config.hidden_size as f32).sqrt();
    let order = |prompt: &Prompt, change: fn(&mut Vec<Vec<f32>>)| {
        changed(prompt, |_, soft| {
            let mut rows = rows(soft);
            change(&mut rows);
            with(soft, rows.concat())
        })
    };
    let swapped = Prompt::from([2, image.begin]).then(softs[1].clone()).then(&two.tokens()[1 + 1 + softs[0].len()..][..3]);
    let swapped = swapped.then(softs[0].clone()).then([image.end]);
    assert_eq!(swapped.len(), two.len());
    let bare: Vec<u32> = clip.tokens().iter().copied().filter(|id| ![audio.begin, audio.end].contains(id)).collect();
    let at = bare.iter().position(|id| *id == audio.soft).unwrap();
    let heard = clip.soft_tokens().next().unwrap().1.clone();
    let bare = Prompt::from(&bare[..at]).then(heard.clone()).then(&bare[at + heard.len()..]);
    for (what, case, wrong) in [
        ("pictures swapped", "two", swapped),
        (
            "one picture twice",
            "two",
            changed(&two, |_, soft| {
                with(soft, rows(&softs[0]).into_iter().cycle().take(soft.len()).collect::<Vec<_>>().concat())
            }),
        ),
        ("ids in place of soft tokens", "two", Prompt::from(two.tokens())),
        (
            "soft tokens times the root of D",
            "both",
            changed(&both, |_, soft| with(soft, soft.values().iter().map(|value| value * scale).collect())),
        ),
        ("rows reversed", "clip", order(&clip, |rows| rows.reverse())),
        ("rows later by one", "clip", order(&clip, |rows| rows.rotate_right(1))),
        ("no rows", "both", changed(&both, |_, soft| with(soft, vec![0.0; soft.values().len()]))),
        ("nothing around a clip", "clip", bare),
        ("no BOS", "both", {
            let mut ids = both.soft_tokens();
            let [(_, seen), (_, heard)] = [ids.next().unwrap(), ids.next().unwrap()];
            let rest = &both.tokens()[1 + 1 + seen.len() + 2 + heard.len()..];
            Prompt::from([image.begin]).then(seen.clone()).then([image.end, audio.begin]).then(heard.clone()).then(rest)
        }),
    ] {
        let error = error(&oracle, &embedder, case, &wrong);
        println!("{what:32} {error:.1e}");
        assert!(error > RED, "{what}: only {error:e}");
    }
}
