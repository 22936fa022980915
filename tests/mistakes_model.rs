//! Mistakes of contract §4 in what a model computes. Each test shows that the crate is right and then plants the
//! mistake in a copy of the graph or of its inputs: the comparison with transformers must notice it.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::collections::BTreeSet;

use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaFlow, LayerKind},
    generate::{GemmaGenerator, SampleOpts, bucket_decode_mask},
    ir::{
        DimBinding, Graph, MaskKind, NodeId, Op, OpDef, Value,
        ops::{Attention, Const, Input, PositionRule, Role, RopeTable},
        sym,
    },
    runtime::{CompileOptions, Device, RunInput, Session},
};
use oracle::{GATE, Oracle, worst};

/// What a planted mistake must cost at least: far above the gate, far below what the oracle's own table of mistakes
/// says.
const RED: f32 = 0.05;

fn session(device: Device) -> Session {
    Session::new(&device).expect("a device")
}

fn run(
    session: &Session,
    graph: &Graph,
    model: &BuiltModel,
    dims: DimBinding,
    inputs: &[(&str, RunInput)],
) -> Vec<(String, Value)> {
    let weights = session.load(&model.params).unwrap();
    let options = CompileOptions::default().with_dims(dims).with_weights(&weights);
    session.compile_with(graph, &options).unwrap().run(inputs).unwrap()
}

fn logits(outputs: &[(String, Value)]) -> Vec<f32> {
    assert_eq!(outputs[0].0, "logits");
    outputs[0].1.to_f32().unwrap().into_owned()
}

/// A prefill of `p33` with logits everywhere.
struct Prefill {
    oracle: Oracle,
    model: BuiltModel,
    tokens: Vec<u32>,
}

impl Prefill {
    fn of(name: &str) -> Self {
        let oracle = Oracle::open(name);
        let tokens = oracle.tokens("p33.input_ids");
        let model = GemmaFlow::for_prefill(&oracle.config, 1, 33).lm_head().build(oracle.loader().as_mut()).unwrap();
        Self { oracle, model, tokens }
    }

    fn error(&self, graph: &Graph, device: Device) -> f32 {
        let inputs = [("input_ids", RunInput::U32(&self.tokens))];
        let outputs = run(&session(device), graph, &self.model, DimBinding::new(), &inputs);
        worst(&logits(&outputs), &self.oracle.f32("p33.logits"))
    }

    /// The stock graph is right on the reference and the GPU; the graph that `plant` changes is not.
    fn right_and_red(&self, what: &str, plant: impl FnOnce(&mut Graph)) {
        for device in [Device::Cpu, Device::Gpu] {
            let error = self.error(&self.model.graph, device.clone());
            assert!(error < self.oracle.gate(), "{device} {}: {error}", self.oracle.name);
        }
        let mut planted = self.model.graph.clone();
        plant(&mut planted);
        assert!(format!("{planted:?}") != format!("{:?}", self.model.graph), "{what} was planted");
        let error = self.error(&planted, Device::Cpu);
        println!("{what:45} {:20} {error:.3}", self.oracle.name);
        assert!(error > RED, "{what}, {}: only {error}", self.oracle.name);
    }
}

fn labelled<'g>(graph: &'g Graph, ending: &'g str) -> impl Iterator<Item = NodeId> + 'g {
    graph.ids().filter(move |id| graph.node(*id).name.ends_with(ending))
}

/// Everything that reads the nodes reads their first operand instead.
fn bypass(graph: &mut Graph, ending: &str) {
    let nodes: Vec<NodeId> = labelled(graph, ending).collect();
    assert!(!nodes.is_empty(), "there is no {ending}");
    for node in nodes {
        let before = graph.node(node).inputs[0];
        for user in graph.ids().collect::<Vec<_>>() {
            for index in 0..graph.node(user).inputs.len() {
                if graph.node(user).inputs[index] == node {
                    graph.replace_input(user, index, before);
                }
            }
        }
    }
}

/// Changes every attention.
fn attention(graph: &mut Graph, change: impl Fn(&mut Attention)) {
    for node in graph.ids().collect::<Vec<_>>() {
        if let Op::Attention(mut op) = graph.node(node).op.clone() {
            change(&mut op);
            graph.replace_op(node, op);
        }
    }
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

#[test]
fn mistake_01_bucketed_decode() {
    let oracle = Oracle::open("gemma3-text");
    let tokens = oracle.tokens("p70.input_ids");
    let expected = oracle.f32("p70.logits");
    let vocab = oracle.config.vocab_size;
    let width = oracle.config.kv_proj_dim();
    let reference = session(Device::Cpu);
    let prefill = GemmaFlow::for_prefill(&oracle.config, 1, 70).export_kv().build(oracle.loader().as_mut()).unwrap();
    let kv = run(&reference, &prefill.graph, &prefill, DimBinding::new(), &[("input_ids", RunInput::U32(&tokens))]);
    let decode = GemmaFlow::for_decode(&oracle.config, 1, 64).dynamic_past().custom_mask();
    let model = decode.build(oracle.loader().as_mut()).unwrap();
    let fault = |upper: usize, past: usize, position: u32, mask: &[f32], device: Device| {
        let names: Vec<String> = kv[1..].iter().map(|(name, _)| format!("past_{name}")).collect();
        // Rows that are not live hold what an earlier sequence left.
        let rows = |value: &Value| {
            let own = &value.to_f32().unwrap()[..past * width];
            [own, &vec![3.0; (upper - past) * width]].concat()
        };
        let pasts: Vec<Vec<f32>> = kv[1..].iter().map(|(_, value)| rows(value)).collect();
        let (ids, position) = ([tokens[past]], [position]);
        let mut inputs =
            vec![("input_ids", RunInput::U32(&ids)), ("position", RunInput::U32(&position)), ("mask", RunInput::F32(mask))];
        inputs.extend(names.iter().zip(&pasts).map(|(name, past)| (name.as_str(), RunInput::F32(past))));
        let outputs = run(&session(device), &model.graph, &model, DimBinding::new().with(sym::PAST_SEQ, upper), &inputs);
        let new = &outputs[1].1.to_f32().unwrap()[upper * width..];
        let row = worst(new, &kv[1].1.to_f32().unwrap()[past * width..][..width]);
        row.max(worst(&logits(&outputs), &expected[past * vocab..][..vocab]))
    };
    for (upper, past) in [(16, 15), (16, 16), (32, 17), (8, 7), (8, 8), (16, 9)] {
        let mask = bucket_decode_mask(past, upper).unwrap();
        let devices: &[Device] = if upper == 16 { &[Device::Cpu, Device::Gpu] } else { &[Device::Cpu] };
        for device in devices {
            let error = fault(upper, past, past as u32, &mask, device.clone());
            assert!(error < GATE, "{device} past {past} of {upper}: {error}");
        }
    }
    // RoPE at the bucket's upper bound; a mask that is read as additive; a mask that drops the new row.
    let keep = bucket_decode_mask(9, 16).unwrap();
    assert!(fault(16, 9, 16, &keep, Device::Cpu) > RED);
    let additive: Vec<f32> = keep.iter().map(|k| if *k > 0.5 { 0.0 } else { -1e9 }).collect();
    assert!(fault(16, 9, 9, &additive, Device::Cpu) > RED);
    let mut short = keep.clone();
    short[16] = 0.0;
    assert!(fault(16, 9, 9, &short, Device::Cpu) > RED);
}

#[test]
fn mistake_02_a_model_that_always_says_the_same() {
    for name in oracle::CHECKPOINTS {
        let oracle = Oracle::open(name);
        for prompt in ["p7", "p33"] {
            let expected = oracle.tokens(&format!("{prompt}.gen_tokens"));
            assert!(expected.iter().collect::<BTreeSet<_>>().len() >= 4, "{name} {prompt} varies");
        }
        // A text that says one thing would pass a comparison of tokens; one of logits it does not pass.
        let mut generator = GemmaGenerator::from_loader(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu).unwrap();
        generator.prefill(oracle.tokens("p7.input_ids")).unwrap();
        let row = generator.prefill_get_last_logits(oracle.tokens("p7.input_ids")).unwrap();
        assert!(worst(&row, &oracle.f32("p7.logits")[6 * row.len()..]) < oracle.gate());
        assert!(worst(&vec![row[0]; row.len()], &oracle.f32("p7.logits")[6 * row.len()..]) > RED);
        assert_eq!(generator.step_cached(&SampleOpts::greedy()).unwrap(), oracle.tokens("p7.gen_tokens")[0]);
    }
}

#[test]
fn mistake_03_no_post_attention_norm() {
    for name in ["gemma2", "gemma3-text"] {
        Prefill::of(name).right_and_red("no post-attention norm", |graph| bypass(graph, ".post_attention_norm"));
    }
}

#[test]
fn mistake_04_no_query_and_key_norm() {
    let model = Prefill::of("gemma3-text");
    model.right_and_red("no query norm", |graph| bypass(graph, ".query_norm"));
    model.right_and_red("no key norm", |graph| bypass(graph, ".key_norm"));
    Prefill::of("gemma3n").right_and_red("no value norm", |graph| bypass(graph, ".value_norm"));
    for name in ["gemma4-dense", "gemma4-e2b"] {
        let model = Prefill::of(name);
        model.right_and_red("no value norm", |graph| bypass(graph, ".value_norm"));
        model.right_and_red("no layer scalar", |graph| bypass(graph, ".output"));
    }
}

#[test]
fn mistake_05_every_gemma2_layer_sliding() {
    let model = Prefill::of("gemma2");
    let window = model.oracle.config.sliding_window.unwrap();
    let kinds: Vec<LayerKind> = model.oracle.config.layer_types.clone();
    assert!(kinds.iter().enumerate().all(|(i, kind)| (*kind == LayerKind::Sliding) == i.is_multiple_of(2)));
    model.right_and_red("all layers sliding", |graph| masks(graph, |_| MaskKind::SlidingWindow(window)));
    model.right_and_red("all layers full", |graph| masks(graph, |_| MaskKind::Causal));
}

#[test]
fn mistake_06_a_window_of_one_more() {
    for (name, by) in [("gemma2", 1), ("gemma3-text", 1), ("gemma3-text", -1)] {
        Prefill::of(name).right_and_red(&format!("window {by:+}"), |graph| {
            masks(graph, |mask| match mask {
                MaskKind::SlidingWindow(w) => MaskKind::SlidingWindow(w.saturating_add_signed(by)),
                mask => mask,
            });
        });
    }
}

/// A decode step after 20 rows of `p70` with a mask of the caller that keeps everything.
fn masked_step(plant: impl FnOnce(&mut Graph)) -> f32 {
    let oracle = Oracle::open("gemma2");
    let tokens = oracle.tokens("p70.input_ids");
    let reference = session(Device::Cpu);
    let prefill = GemmaFlow::for_prefill(&oracle.config, 1, 20).export_kv().build(oracle.loader().as_mut()).unwrap();
    let kv = run(&reference, &prefill.graph, &prefill, DimBinding::new(), &[("input_ids", RunInput::U32(&tokens[..20]))]);
    let model = GemmaFlow::for_decode(&oracle.config, 1, 20).custom_mask().build(oracle.loader().as_mut()).unwrap();
    let mut graph = model.graph.clone();
    plant(&mut graph);
    let (keep, names) = ([1.0; 21], kv[1..].iter().map(|(name, _)| format!("past_{name}")).collect::<Vec<_>>());
    let mut inputs = vec![("input_ids", RunInput::U32(&tokens[20..21])), ("mask", RunInput::F32(&keep))];
    inputs.extend(names.iter().zip(&kv[1..]).map(|(name, (_, value))| (name.as_str(), RunInput::Value(value))));
    let outputs = run(&reference, &graph, &model, DimBinding::new(), &inputs);
    worst(&logits(&outputs), &oracle.f32("p70.logits")[20 * 141..][..141])
}

#[test]
fn mistake_07_a_custom_mask_that_replaces_the_layers_own() {
    assert!(masked_step(|_| ()) < GATE);
    assert!(masked_step(|graph| masks(graph, |_| MaskKind::None)) > RED, "the window is dropped");
    assert!(masked_step(|graph| attention(graph, |op| op.scale = 1.0)) > RED, "the scale is dropped");
    assert!(masked_step(|graph| attention(graph, |op| op.softcap = None)) > RED, "the softcap is dropped");
}

#[test]
fn mistake_08_scale_softcap_mask_softmax() {
    let model = Prefill::of("gemma2");
    model.right_and_red("no attention softcap", |graph| attention(graph, |op| op.softcap = None));
    model.right_and_red("no score scale", |graph| attention(graph, |op| op.scale = 1.0));
    // The softcap before the scale: cap·tanh(q·k / cap) · scale is the softcap of `cap·scale` after a scale.
    model.right_and_red("softcap before scale", |graph| {
        attention(graph, |op| op.softcap = op.softcap.map(|cap| cap * op.scale));
    });
    // Masking before the softcap: a key that is not visible keeps the score −cap.
    let cap = model.oracle.config.attn_logit_softcapping.unwrap();
    model.right_and_red("mask before softcap", |graph| {
        *graph = with_attention_written_out(graph);
        for node in graph.ids().collect::<Vec<_>>() {
            if matches!(&graph.node(node).op, Op::Const(value) if value.value <= -1e29) {
                graph.replace_op(node, Const { value: -cap });
            }
            // The definition also drops such keys after the softmax, for queries that see no key at all.
            let first = graph.node(node).inputs.first().map(|x| graph.node(*x));
            if let (Op::MatMul(_), Some(Op::Binary(_))) = (&graph.node(node).op, first.map(|x| &x.op)) {
                let weights = first.expect("the product has operands").inputs[0];
                graph.replace_input(node, 0, weights);
            }
        }
    });
    assert!(model.error(&with_attention_written_out(&model.model.graph), Device::Cpu) < GATE, "written out it is the same");
}

/// The same graph with every attention replaced by its definition.
fn with_attention_written_out(graph: &Graph) -> Graph {
    let mut out = Graph::new(graph.name.clone());
    let mut moved: Vec<NodeId> = Vec::new();
    for node in graph.nodes() {
        let inputs: Vec<NodeId> = node.inputs.iter().map(|x| moved[x.index()]).collect();
        moved.push(match &node.op {
            Op::Attention(op) => op.decompose(&mut out, &inputs).expect("a composite").unwrap(),
            op => out.push(op.clone(), &inputs).unwrap(),
        });
    }
    graph.outputs().iter().for_each(|(name, id)| out.output(name.clone(), moved[id.index()]));
    out
}

#[test]
fn mistake_17_scale_without_the_root() {
    for name in ["gemma2", "gemma3-text"] {
        Prefill::of(name).right_and_red("1/query_pre_attn_scalar", |graph| attention(graph, |op| op.scale *= op.scale));
    }
}

#[test]
fn mistake_18_one_rotary_table_for_all_layers() {
    let model = Prefill::of("gemma3-text");
    assert!(model.model.params.keys().all(|name| !name.contains("rope")), "tables are no weights");
    let tables = model.model.graph.inputs().filter(|(_, input)| matches!(input.role, Role::RopeTable(_)));
    let tables: Vec<&str> = tables.map(|(_, input)| input.name.as_str()).collect();
    assert_eq!(tables.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["rope_full", "rope_sliding"]));
    for (from, to) in [("rope_full", "rope_sliding"), ("rope_sliding", "rope_full")] {
        model.right_and_red(&format!("{from} is {to}"), |graph| {
            let find = |name: &str| {
                let found = graph.inputs().find(|(_, input)| input.name == name);
                found.map(|(id, input)| (id, input.clone())).expect("a table")
            };
            let ((node, input), (_, other)) = (find(from), find(to));
            graph.replace_op(node, Input { role: other.role, ..input });
        });
    }
    // Other angles.
    model.right_and_red("frequencies times 1.25", |graph| {
        let tables: Vec<(NodeId, Input)> = graph.inputs().map(|(id, input)| (id, input.clone())).collect();
        for (id, input) in tables {
            if let Role::RopeTable(RopeTable { inv_freq, .. }) = &input.role {
                let scaled = inv_freq.iter().map(|f| f * 1.25).collect();
                let role = Role::RopeTable(RopeTable { inv_freq: scaled, rule: PositionRule::From(0) });
                graph.replace_op(id, Input { role, ..input });
            }
        }
    });
}

#[test]
fn mistake_20_the_number_of_layers_has_one_source() {
    let oracle = Oracle::open("gemma3-text");
    let all = oracle.config.num_hidden_layers;
    for layers in [1, 3, all] {
        let mut config = oracle.config.clone();
        config.effective_num_layers = (layers < all).then_some(layers);
        let model = GemmaFlow::for_prefill(&config, 1, 7).lm_head().export_kv().build(oracle.loader().as_mut()).unwrap();
        assert_eq!(labelled(&model.graph, ".attention").count(), layers);
        assert_eq!(model.output_names().len(), 1 + 2 * layers);
        let last = format!("layer.{}.", layers - 1);
        assert!(model.params.keys().any(|name| name.starts_with(&last)));
        assert!(!model.params.keys().any(|name| name.starts_with(&format!("layer.{layers}."))), "no more layers than that");
    }
    let mut config = oracle.config.clone();
    config.num_hidden_layers += 1;
    let text = GemmaFlow::new(&config).build(oracle.loader().as_mut()).unwrap_err().to_string();
    assert!(text.contains("layer_types has"), "the two lists of layers must agree: {text}");
}

#[test]
fn mistake_26_a_copy_of_the_embedding_as_head() {
    let oracle = Oracle::open("gemma3-mm-bf16");
    assert!(oracle.config.tie_word_embeddings);
    let model = GemmaFlow::for_prefill(&oracle.config, 1, 7).lm_head().build(oracle.loader().as_mut()).unwrap();
    let [vocab, width] = [oracle.config.vocab_size, oracle.config.hidden_size];
    let tables: Vec<_> = model.params.iter().filter(|(_, t)| t.shape().contains(&vocab)).collect();
    assert_eq!(tables.len(), 1, "one table is both");
    assert_eq!((tables[0].1.shape(), tables[0].1.byte_len()), (&[vocab, width][..], vocab * width * 2));
    // Nothing is transposed on the way: the head reads the weight itself.
    let head = labelled(&model.graph, "unembed").next().expect("a head");
    let Op::Linear(_) = model.graph.node(head).op else { panic!("the head is a product") };
    let Op::Weight(weight) = &model.graph.node(model.graph.node(head).inputs[1]).op else { panic!("with a weight") };
    assert_eq!(weight.name, "embed");
    let gpu = session(Device::Gpu);
    let before = gpu.context().expect("a GPU").counters().snapshot().bytes_uploaded;
    gpu.load(&model.params).unwrap();
    let uploaded = gpu.context().expect("a GPU").counters().snapshot().bytes_uploaded - before;
    let stored: usize = model.params.values().map(|t| t.byte_len()).sum();
    assert!((uploaded as usize) < stored + stored / 4, "{uploaded} of {stored}: stored types travel as they are");
}
