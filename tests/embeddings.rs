//! EmbeddingGemma 1 and 2 against transformers, and against the exact values of GGUF files: hidden states, vectors,
//! batches with padding on either side; pictures and sounds; what the embedder promises; planted mistakes are noticed.

mod common;
#[path = "embeddings/embedder.rs"]
mod embedder;
#[path = "embeddings/files.rs"]
mod files;
#[path = "embeddings/media.rs"]
mod media;
#[path = "embeddings/media_graphs.rs"]
mod media_graphs;
#[path = "embeddings/texts.rs"]
mod texts;

use common::{
    gguf::GgufOracle,
    oracle::{Oracle, gate, worst},
};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{GemmaGenerator, GeneratorOptions},
    ir::{
        DimBinding, Graph, MaskKind, Op, Value,
        ops::{Const, DEAD_KEY, Input, Role},
    },
    runtime::{CompileOptions, Device, GpuOptions, KernelTier, RunInput, Session},
};

/// The oracle's checkpoints of models that embed texts.
pub const EMBEDDERS: [&str; 2] = ["embeddinggemma", "embeddinggemma2-text"];

/// What 1 − cosine may be.
pub const GATE: f64 = 1e-6;

/// What a planted mistake must cost at least.
pub const RED: f64 = 1e-4;

pub fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn sessions() -> Vec<(&'static str, Session)> {
    let portable = GpuOptions { kernels: KernelTier::Portable, ..GpuOptions::default() };
    vec![
        ("reference", Session::new(&Device::Cpu).unwrap()),
        ("gpu", Session::new(&Device::Gpu).unwrap()),
        ("gpu, portable kernels", Session::with_options(&Device::Gpu, &portable).unwrap()),
    ]
}

fn run(session: &Session, graph: &Graph, model: &BuiltModel, inputs: &[(&str, RunInput)]) -> Vec<(String, Value)> {
    let weights = session.load(&model.params).unwrap();
    session.compile_with(graph, &CompileOptions::default().with_weights(&weights)).unwrap().run(inputs).unwrap()
}

fn values(outputs: &[(String, Value)], name: &str) -> Vec<f32> {
    let found = outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output '{name}'"));
    found.1.to_f32().unwrap().into_owned()
}

/// A graph for `batch` texts of `seq` tokens that gives everything the oracle has.
fn built(oracle: &Oracle, batch: usize, seq: usize) -> BuiltModel {
    let flow = GemmaFlow::for_prefill(&oracle.config, batch, seq).sentence_vectors();
    let built = flow.build(oracle.loader().as_mut()).unwrap();
    let layers: Vec<String> = (0..oracle.config.num_hidden_layers).map(|i| format!("layer.{i}.output")).collect();
    let projected = if oracle.has("p7.projected") { vec!["embedding_projection"] } else { Vec::new() };
    let labels = ["final_norm", "mean"].into_iter().chain(projected).chain(layers.iter().map(String::as_str));
    built.with_extra_hir_outputs(labels).unwrap()
}

/// The rows of live tokens.
fn live(values: &[f32], mask: &[f32]) -> Vec<f32> {
    let width = values.len() / mask.len();
    values.chunks(width).zip(mask).filter(|(_, live)| **live > 0.5).flat_map(|(row, _)| row.to_vec()).collect()
}

/// Compares all that a run gives for `prompt` with the oracle's values.
fn check(oracle: &Oracle, prompt: &str, mask: &[f32], outputs: &[(String, Value)], what: &str) {
    let expected = |name: &str| oracle.f32(&format!("{prompt}.{name}"));
    let close = |found: Vec<f32>, expected: Vec<f32>, name: &str| {
        let error = worst(&found, &expected);
        println!("{what:24} {:22} {prompt:12} {name:12} {error:.1e}", oracle.name);
        assert!(error < oracle.gate(), "{what} {} {prompt}.{name}: {error}", oracle.name);
    };
    close(live(&values(outputs, "final_norm"), mask), live(&expected("hidden"), mask), "hidden");
    close(values(outputs, "mean"), expected("pooled"), "pooled");
    if oracle.has("p7.projected") {
        close(live(&values(outputs, "embedding_projection"), mask), live(&expected("projected"), mask), "projected");
    } else {
        close(values(outputs, "sentence"), expected("dense"), "dense");
    }
    for i in (0..oracle.config.num_hidden_layers).filter(|_| prompt == "p7") {
        close(values(outputs, &format!("layer.{i}.output")), expected(&format!("layer_out.{i}")), "a layer");
    }
    let (sentence, embedding) = (values(outputs, "sentence"), expected("embedding"));
    let width = oracle.config.embedding_width();
    for (found, expected) in sentence.chunks(width).zip(embedding.chunks(width)) {
        let error = apart(found, expected);
        assert!(error < GATE, "{what} {} {prompt}.embedding: 1 - cosine is {error:e}", oracle.name);
    }
}

#[test]
fn texts_alone_and_in_batches_padded_on_either_side() {
    for (what, session) in sessions() {
        for name in EMBEDDERS {
            let oracle = Oracle::open(name);
            assert!(oracle.config.use_bidirectional_attention);
            // Every length is a plan of its own, whose kernels a software driver compiles for seconds.
            let prompts = if what == "reference" { &["p1", "p2", "p7", "p33", "p70"][..] } else { &["p1", "p7", "p70"] };
            for prompt in prompts {
                let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
                let model = built(&oracle, 1, tokens.len());
                let outputs = run(&session, &model.graph, &model, &[("input_ids", RunInput::U32(&tokens))]);
                check(&oracle, prompt, &vec![1.0; tokens.len()], &outputs, what);
            }
            let model = built(&oracle, 2, 33);
            for side in ["batch_left", "batch_right"] {
                let (ids, mask) = (oracle.tokens(&format!("{side}.input_ids")), oracle.tokens(&format!("{side}.attention_mask")));
                let mask: Vec<f32> = mask.iter().map(|live| *live as f32).collect();
                assert!(mask.contains(&0.0), "{side} has padding");
                let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&mask))];
                check(&oracle, side, &mask, &run(&session, &model.graph, &model, &inputs), what);
            }
        }
    }
}

#[test]
fn gguf_files_give_their_exact_values() {
    for (what, device) in [("reference", Device::Cpu), ("gpu", Device::Gpu)] {
        let session = Session::new(&device).unwrap();
        for oracle in GgufOracle::embedders() {
            let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
            let prompts = if what == "reference" { &["p1", "p7", "p33"][..] } else { &["p33"] };
            for prompt in prompts {
                let mut loader = load_from_path(&oracle.path).unwrap();
                let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
                let flow = GemmaFlow::for_prefill(&config, 1, tokens.len()).sentence_vectors();
                let model = flow.build(loader.as_mut()).unwrap().with_extra_hir_outputs(["final_norm"]).unwrap();
                assert!(loader.is_empty(), "{}: {:?} are never used", oracle.name, loader.remaining_keys());
                let outputs = run(&session, &model.graph, &model, &[("input_ids", RunInput::U32(&tokens))]);
                let exact = |name: &str| oracle.f32(&format!("exact.{prompt}.{name}"));
                let errors = [("final_norm", "hidden"), ("sentence", "dense")]
                    .map(|(output, name)| worst(&values(&outputs, output), &exact(name)));
                let cosine = apart(&values(&outputs, "sentence"), &exact("embedding"));
                let theirs = apart(&values(&outputs, "sentence"), &oracle.f32(&format!("llamacpp.{prompt}.embedding")));
                println!("{what:12} {:24} {prompt:4} {errors:?} 1-cos {cosine:.1e}, llama.cpp's {theirs:.1e}", oracle.name);
                assert!(errors.iter().all(|error| *error < gate(config.arch)), "{what} {} {prompt}: {errors:?}", oracle.name);
                assert!(cosine < GATE, "{what} {} {prompt}: {cosine:e}", oracle.name);
                // Their activations have 8 or 16 bits.
                assert!(theirs < 2e-3, "{what} {} {prompt}: {theirs:e} from llama.cpp", oracle.name);
            }
        }
    }
}

/// 1 − cosine of a batch's vectors with the oracle's, the worst of them.
fn error(oracle: &Oracle, graph: &Graph, model: &BuiltModel) -> f64 {
    let (ids, mask) = (oracle.tokens("batch_left.input_ids"), oracle.tokens("batch_left.attention_mask"));
    let mask: Vec<f32> = mask.iter().map(|live| *live as f32).collect();
    let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&mask))];
    let outputs = run(&Session::new(&Device::Cpu).unwrap(), graph, model, &inputs);
    let (found, expected) = (values(&outputs, "sentence"), oracle.f32("batch_left.embedding"));
    let width = found.len() / 2;
    found.chunks(width).zip(expected.chunks(width)).map(|(a, b)| apart(a, b)).fold(0.0, f64::max)
}

/// Changes what the layers see.
fn masks(graph: &mut Graph, change: impl Fn(MaskKind) -> MaskKind) {
    for node in graph.ids().collect::<Vec<_>>() {
        if let Op::Input(Input { role: Role::Visible { rule, mask, pictures }, name, ty }) = graph.node(node).op.clone() {
            let role = Role::Visible { rule, mask: change(mask), pictures };
            graph.replace_op(node, Input { role, name, ty });
        }
    }
}

/// Makes a graph wrong.
pub type Plant = Box<dyn Fn(&mut Graph)>;

#[test]
fn planted_mistakes_are_noticed() {
    for name in EMBEDDERS {
        let oracle = Oracle::open(name);
        let model = GemmaFlow::for_prefill(&oracle.config, 2, 33).sentence_vectors().build(oracle.loader().as_mut()).unwrap();
        let right = error(&oracle, &model.graph, &model);
        assert!(right < GATE, "{name}: {right:e}");
        let radius = |by: isize| {
            move |mask: MaskKind| match mask {
                MaskKind::SymmetricWindow(radius) => MaskKind::SymmetricWindow(radius.saturating_add_signed(by)),
                mask => mask,
            }
        };
        let planted: [(&str, Plant); 6] = [
            ("causal", Box::new(|graph| masks(graph, |_| MaskKind::Causal))),
            ("no windows", Box::new(|graph| masks(graph, |_| MaskKind::None))),
            ("a window wider by one", Box::new(move |graph| masks(graph, radius(1)))),
            ("a window narrower by one", Box::new(move |graph| masks(graph, radius(-1)))),
            (
                "a window that looks back alone",
                Box::new(|graph| {
                    masks(graph, |mask| match mask {
                        MaskKind::SymmetricWindow(radius) => MaskKind::SlidingWindow(radius + 1),
                        mask => mask,
                    })
                }),
            ),
            (
                "the mean over padding too",
                Box::new(|graph| {
                    let dead = |graph: &Graph, id| graph.node(id).op == Op::from(Const { value: DEAD_KEY as f32 });
                    let nodes: Vec<_> = graph.ids().filter(|id| dead(graph, *id)).collect();
                    assert_eq!(nodes.len(), 1, "what tells padding in the mean");
                    graph.replace_op(nodes[0], Const { value: 2.0 * DEAD_KEY as f32 });
                }),
            ),
        ];
        for (what, plant) in &planted {
            let mut wrong = model.graph.clone();
            plant(&mut wrong);
            let error = error(&oracle, &wrong, &model);
            println!("{name:22} {what:32} {error:.1e}");
            assert!(error > RED, "{name}, {what}: only {error:e}");
        }
    }
    let oracle = Oracle::open("embeddinggemma");
    let bare = GemmaConfig { embedding_dense: Vec::new(), ..oracle.config.clone() };
    let model = GemmaFlow::for_prefill(&bare, 2, 33).sentence_vectors().build(oracle.loader().as_mut()).unwrap();
    let error = error(&oracle, &model.graph, &model);
    assert!(error > RED, "no dense modules: only {error:e}");
}

#[test]
fn generating_is_refused_and_so_is_embedding_by_a_generating_model() {
    let oracle = Oracle::open("embeddinggemma");
    let options = GeneratorOptions::default();
    let generator = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, options);
    let error = generator.unwrap_err();
    assert!(matches!(&error, Error::Unsupported(what) if what.contains("GemmaEmbedder")), "{error}");
    for flow in [
        GemmaFlow::for_decode(&oracle.config, 1, 4),
        GemmaFlow::new(&oracle.config).lm_head(),
        GemmaFlow::new(&oracle.config).last_token_logits(),
        GemmaFlow::resident(&oracle.config),
    ] {
        let error = flow.build(oracle.loader().as_mut()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
    let causal = Oracle::open("gemma3-text");
    let error = GemmaFlow::for_decode(&causal.config, 1, 4).sentence_vectors().build(causal.loader().as_mut()).unwrap_err();
    assert!(matches!(&error, Error::Builder(text) if text.contains("sentence_vectors")), "{error}");
    let embedder = gemmaflow::embed::GemmaEmbedder::from_path(&causal.folder, Device::Cpu);
    let error = embedder.unwrap_err();
    assert!(matches!(&error, Error::Unsupported(what) if what.contains("GemmaGenerator")), "{error}");
    // A graph for any length gives what one for a length gives.
    let tokens = oracle.tokens("p7.input_ids");
    for (what, session) in sessions() {
        let flow = GemmaFlow::new(&oracle.config).dynamic_seq().seq(64).sentence_vectors();
        let model = flow.build(oracle.loader().as_mut()).unwrap();
        let weights = session.load(&model.params).unwrap();
        let dims = DimBinding::batch_seq(1, 40);
        let options = CompileOptions::default().with_dims(dims).with_weights(&weights);
        let mut graph = session.compile_with(&model.graph, &options).unwrap();
        let sentence = values(&graph.run(&[("input_ids", RunInput::U32(&tokens))]).unwrap(), "sentence");
        assert!(apart(&sentence, &oracle.f32("p7.embedding")) < GATE, "{what}");
    }
}
