//! Hidden states, K and V of every layer against transformers; a long sequence against the reference; the tool that
//! finds the first node that differs, shown a planted mistake.

mod common;

use common::oracle::{CHECKPOINTS, GATE, Oracle, worst};
use gemmaflow::{
    flow::BuiltModel,
    gemma::GemmaFlow,
    generate::{GemmaGenerator, GeneratorOptions},
    internals::{ir::Case, trace::first_difference},
    ir::{
        DimBinding, MaskKind, Op, Value,
        ops::{Attention, Input, Role},
        sym,
    },
    runtime::{CompileOptions, Device, Session},
};

fn sessions() -> Vec<(&'static str, Session)> {
    let open = |device| Session::new(&device).expect("a device");
    vec![("reference", open(Device::Cpu)), ("gpu", open(Device::Gpu))]
}

fn values(outputs: &[(String, Value)], name: &str) -> Vec<f32> {
    let found = outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output '{name}'"));
    found.1.to_f32().unwrap().into_owned()
}

/// The oracle has `[1, K, T, H]`, the graph `[1, T, K·H]`.
fn by_token(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let [_, heads, tokens, dim] = shape.try_into().expect("K and V have four dimensions");
    let at = |t: usize, k: usize| &values[(k * tokens + t) * dim..][..dim];
    (0..tokens).flat_map(|t| (0..heads).flat_map(move |k| at(t, k))).copied().collect()
}

#[test]
fn hidden_states_and_kv_of_every_layer() {
    for (device, session) in sessions() {
        for name in CHECKPOINTS {
            let oracle = Oracle::open(name);
            let flow = GemmaFlow::new(&oracle.config).dynamic_seq().export_kv();
            let built = flow.build(oracle.loader().as_mut()).unwrap();
            let weights = session.load(&built.params).unwrap();
            let mut error = 0.0f32;
            // Each length is a plan of its own; a software driver compiles one a checkpoint.
            let prompts: &[&str] = if device == "gpu" { &["p33"] } else { &["p7", "p33"] };
            for prompt in prompts {
                let tokens = oracle.tokens(&format!("{prompt}.input_ids"));
                let binding = DimBinding::new().with(sym::SEQ, tokens.len());
                let mut compiled = session
                    .compile_with(&built.graph, &CompileOptions::default().with_dims(binding).with_weights(&weights))
                    .unwrap();
                let outputs = compiled.run(&[("input_ids", &tokens[..])]).unwrap();
                error = error.max(worst(&values(&outputs, "hidden"), &oracle.f32(&format!("{prompt}.hidden"))));
                for layer in 0..oracle.config.num_kv_layers() {
                    for what in ["k", "v"] {
                        let golden = format!("{prompt}.{what}.{layer}");
                        let expected = by_token(&oracle.f32(&golden), &oracle.shape(&golden));
                        error = error.max(worst(&values(&outputs, &format!("{what}_{layer}")), &expected));
                    }
                }
            }
            println!("{device:10} {name:26} {error:.1e}");
            assert!(error < oracle.gate(), "{device} {name}: {error}");
        }
    }
}

#[test]
fn a_thousand_tokens_through_the_ring() {
    let oracle = Oracle::open("gemma3-text");
    let mut config = oracle.config.clone();
    config.max_position_embeddings = 1024;
    let tokens: Vec<u32> =
        Case::numbers(1000, 11, 1.0).iter().map(|x| ((x + 1.0) * 0.5 * (config.vocab_size - 1) as f32) as u32).collect();
    let generator = |device, chunk| {
        let options = GeneratorOptions { prefill_chunk: Some(chunk), ..GeneratorOptions::default() };
        GemmaGenerator::with_options(config.clone(), oracle.loader().as_mut(), device, options).unwrap()
    };
    let expected = generator(Device::Cpu, 16).recompute_all_logits(&tokens).unwrap();
    let mut gpu = generator(Device::Gpu, 16);
    let mut found = gpu.all_logits(&tokens[..900]).unwrap();
    for token in &tokens[900..] {
        found.extend(gpu.decode_get_logits(*token).unwrap());
    }
    let error = worst(&found, &expected);
    println!("1,000 tokens, 900 in chunks of 16 and 100 steps: {error:.1e}");
    assert!(error < GATE, "{error}");
}

fn built(oracle: &Oracle) -> BuiltModel {
    GemmaFlow::new(&oracle.config).dynamic_seq().lm_head().build(oracle.loader().as_mut()).unwrap()
}

#[test]
fn a_planted_mistake_is_found_at_its_node() {
    let oracle = Oracle::open("gemma3-text");
    let built = built(&oracle);
    let tokens = oracle.tokens("p33.input_ids");
    let binding = DimBinding::new().with(sym::SEQ, tokens.len());
    let session = Session::new(&Device::Gpu).unwrap();
    let inputs = [("input_ids", Value::u32([1, tokens.len()], tokens))];
    let compare =
        |on_device| first_difference(&session, &built.graph, on_device, &built.params, &binding, &inputs, 1e-4).unwrap();
    assert_eq!(compare(&built.graph), None, "without a mistake nothing differs");

    let node = |label: &str| built.graph.ids().find(|id| built.graph.node(*id).name == label).expect("the layer has it");
    // "window w+1" of the oracle's MUTANTS.md: p33 is longer than the window of 9, and the first layer slides.
    let first = node("layer.0.attention");
    let visible = built.graph.node(first).inputs[3];
    let Op::Input(stock) = built.graph.node(visible).op.clone() else { panic!("what a layer sees is an input") };
    let Role::Visible { rule, mask: MaskKind::SlidingWindow(window), pictures } = stock.role.clone() else {
        panic!("layer 0 slides")
    };
    let mut broken = built.graph.clone();
    let role = Role::Visible { rule, mask: MaskKind::SlidingWindow(window + 1), pictures };
    broken.replace_op(visible, Input { role, ..stock });
    let found = compare(&broken).expect("the mistake shows");
    assert_eq!((found.node, found.label.as_str()), (first, "layer.0.attention"));

    // A scale, in one layer.
    let third = node("layer.2.attention");
    let Op::Attention(stock) = built.graph.node(third).op.clone() else { panic!("layer 2 has no attention") };
    let mut broken = built.graph.clone();
    broken.replace_op(third, Attention { scale: stock.scale * 1.1, ..stock });
    let found = compare(&broken).expect("the mistake shows");
    assert_eq!((found.node, found.label.as_str()), (third, "layer.2.attention"));
}
