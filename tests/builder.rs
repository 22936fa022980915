//! Every combination of the builder's options: which are legal, what they take and give, and that they compute what
//! transformers computes. The reference runs all of them, the GPU a few that have each option at least once.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::sync::{Arc, Mutex};

use gemmaflow::{
    Error,
    flow::{BuiltModel, FlowStage},
    gemma::{GemmaConfig, GemmaFlow},
    ir::{DType, DimBinding, Shape, Value, ops::Role, sym},
    runtime::{CompileOptions, Device, RunInput, Session},
    weights::{Tensor, WeightMap},
};
use oracle::{GATE, Oracle, worst};

const MODELS: [&str; 3] = ["gemma1-mha", "gemma2", "gemma3-text"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Head {
    Unsaid,
    Hidden,
    All,
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hooks {
    None,
    /// A `layer` hook that returns the stock layer.
    Layer,
    /// Stages before and after the layers and in the assembled flow that do nothing.
    Stages,
}

/// One combination of options.
#[derive(Debug, Clone, Copy)]
struct Choice {
    decode: bool,
    batch: usize,
    seq: bool,
    dynamic_seq: bool,
    past: bool,
    dynamic_past: bool,
    head: Head,
    export: bool,
    mask: bool,
    hooks: Hooks,
}

/// Tokens of a prefill: the oracle's prompt of 7, or its batch of two.
fn tokens_of(batch: usize) -> usize {
    if batch == 1 { 7 } else { 33 }
}

/// Live rows of a decode's past, by sequence.
fn past_of(choice: &Choice) -> Vec<usize> {
    match (choice.batch, choice.dynamic_past) {
        (1, _) => vec![32],
        (_, false) => vec![32, 32],
        (_, true) => vec![32, 20],
    }
}

impl Choice {
    /// All of them.
    fn all() -> Vec<Choice> {
        let heads = [Head::Unsaid, Head::Hidden, Head::All, Head::Last];
        let mut all = Vec::new();
        for bits in 0..1 << 8 {
            let bit = |i: usize| bits >> i & 1 == 1;
            for head in heads {
                for hooks in [Hooks::None, Hooks::Layer, Hooks::Stages] {
                    all.push(Choice {
                        decode: bit(0),
                        batch: 1 + usize::from(bit(1)),
                        seq: bit(2),
                        dynamic_seq: bit(3),
                        past: bit(4),
                        dynamic_past: bit(5),
                        head,
                        export: bit(6),
                        mask: bit(7),
                        hooks,
                    });
                }
            }
        }
        all
    }

    /// The options that the table of `GemmaFlow` refuses.
    fn refused(&self) -> Vec<&'static str> {
        let last = self.head == Head::Last;
        let table: &[(bool, &str)] = if self.decode {
            &[
                (self.seq, "seq"),
                (self.dynamic_seq, "dynamic_seq"),
                (!self.past && !self.dynamic_past, "past"),
                (last, "last_token_logits"),
                (self.export, "export_kv"),
            ]
        } else {
            &[(self.past, "past"), (self.dynamic_past, "dynamic_past"), (self.mask, "custom_mask")]
        };
        table.iter().filter(|(refused, _)| *refused).map(|(_, name)| *name).collect()
    }

    fn flow<'a>(&self, config: &'a GemmaConfig) -> GemmaFlow<'a> {
        let flow = GemmaFlow::new(config).batch(self.batch);
        let flow = if self.decode { flow.decode() } else { flow.prefill() };
        let flow = if self.seq { flow.seq(tokens_of(self.batch)) } else { flow };
        let flow = if self.dynamic_seq { flow.dynamic_seq() } else { flow };
        let flow = if self.past { flow.past(32) } else { flow };
        let flow = if self.dynamic_past { flow.dynamic_past() } else { flow };
        let flow = match self.head {
            Head::Unsaid => flow,
            Head::Hidden => flow.hidden_only(),
            Head::All => flow.lm_head(),
            Head::Last => flow.last_token_logits(),
        };
        let flow = if self.export { flow.export_kv() } else { flow };
        let flow = if self.mask { flow.custom_mask() } else { flow };
        let nothing = || FlowStage::custom("nothing", |_, x| Ok(x));
        match self.hooks {
            Hooks::None => flow,
            Hooks::Layer => flow.layer(|layer| layer.default_stage()),
            Hooks::Stages => {
                flow.before_layers([nothing()]).after_layers([nothing()]).patch_flow(move |flow| flow.raw_stage(nothing()))
            }
        }
    }

    fn hidden(&self) -> bool {
        self.head == Head::Hidden || (self.head == Head::Unsaid && !self.decode)
    }

    /// The inputs of the docs: name, type, and whether it may be left out.
    fn inputs(&self, config: &GemmaConfig) -> Vec<(String, DType, String, bool)> {
        let b = self.batch;
        if !self.decode {
            let t = self.seq_dim();
            let mut inputs = vec![("input_ids".into(), DType::U32, format!("[{b}, {t}]"), false)];
            if b > 1 {
                inputs.push(("attention_mask".into(), DType::F32, format!("[{b}, {t}]"), true));
            }
            if self.dynamic_seq && self.head == Head::Last {
                inputs.push(("last_token_idx".into(), DType::U32, format!("[{b}]"), false));
            }
            return inputs;
        }
        let past = if self.dynamic_past { sym::PAST_SEQ.0.to_string() } else { "32".into() };
        let keys = if self.dynamic_past { format!("{past}+1") } else { "33".into() };
        let mut inputs = vec![("input_ids".into(), DType::U32, format!("[{b}, 1]"), false)];
        if self.dynamic_past {
            inputs.push(("position".into(), DType::U32, format!("[{b}]"), false));
        }
        let tables: &[&str] = if config.rope_full == config.rope_sliding { &[""] } else { &["_sliding", "_full"] };
        for table in tables {
            for part in ["cos", "sin"] {
                inputs.push((format!("rope_{part}{table}"), DType::F32, format!("[1, {}]", config.head_dim / 2), true));
            }
        }
        if self.mask {
            inputs.push(("mask".into(), DType::F32, format!("[{b}, {keys}]"), false));
        }
        for layer in 0..config.num_hidden_layers {
            for what in ["k", "v"] {
                let shape = format!("[{b}, {past}, {}]", config.kv_proj_dim());
                inputs.push((format!("past_{what}_{layer}"), DType::F32, shape, false));
            }
        }
        inputs
    }

    fn seq_dim(&self) -> String {
        match (self.dynamic_seq, self.seq) {
            (true, _) => sym::SEQ.0.to_string(),
            (false, true) => tokens_of(self.batch).to_string(),
            (false, false) => "128".into(),
        }
    }

    /// The outputs of the docs: name and shape.
    fn outputs(&self, config: &GemmaConfig) -> Vec<(String, String)> {
        let (b, width) = (self.batch, config.kv_proj_dim());
        let t = if self.decode { "1".into() } else { self.seq_dim() };
        let keys = match (self.decode, self.dynamic_past) {
            (false, _) => t.clone(),
            (true, true) => format!("{}+1", sym::PAST_SEQ.0),
            (true, false) => "33".into(),
        };
        let rows = if self.head == Head::Last { "1".into() } else { t };
        let mut outputs = if self.hidden() {
            vec![("hidden".into(), format!("[{b}, {rows}, {}]", config.hidden_size))]
        } else {
            vec![("logits".into(), format!("[{b}, {rows}, {}]", config.vocab_size))]
        };
        if self.export || self.decode {
            let names = (0..config.num_hidden_layers).flat_map(|layer| ["k", "v"].map(|what| format!("{what}_{layer}")));
            outputs.extend(names.map(|name| (name, format!("[{b}, {keys}, {width}]"))));
        }
        outputs
    }
}

/// A checkpoint in memory, so that hundreds of graphs do not open it.
struct Model {
    oracle: Oracle,
    weights: WeightMap,
}

impl Model {
    fn open(name: &str) -> Self {
        let oracle = Oracle::open(name);
        let mut loader = oracle.loader();
        let tensors: Vec<Tensor> = loader.remaining_keys().iter().map(|key| loader.take(key).unwrap()).collect();
        Self { oracle, weights: WeightMap::from_tensors(tensors) }
    }

    fn build(&self, flow: GemmaFlow) -> Result<BuiltModel, Error> {
        flow.build(&mut self.weights.clone())
    }

    /// K or V of a prompt by token, `[T, K·H]`.
    fn rows(&self, prompt: &str, what: &str, layer: usize) -> Vec<f32> {
        let name = format!("{prompt}.{what}.{layer}");
        let (values, shape) = (self.oracle.f32(&name), self.oracle.shape(&name));
        let heads = shape[1];
        let tokens = shape[2];
        let dim = shape[3];
        let at = |t: usize, k: usize| &values[(k * tokens + t) * dim..][..dim];
        (0..tokens).flat_map(|t| (0..heads).flat_map(move |k| at(t, k))).copied().collect()
    }
}

fn check_interface(choice: &Choice, built: &BuiltModel, config: &GemmaConfig) {
    let callers = built.graph.inputs().filter(|(_, input)| matches!(input.role, Role::Caller | Role::Optional));
    let inputs: Vec<_> = callers
        .map(|(_, input)| (input.name.clone(), input.ty.dtype, shown(&input.ty.shape), input.role == Role::Optional))
        .collect();
    assert_eq!(inputs, choice.inputs(config), "{choice:?}");
    let outputs: Vec<_> = built.graph.outputs().iter().map(|(name, id)| (name.clone(), shown(built.graph.shape(*id)))).collect();
    assert_eq!(outputs, choice.outputs(config), "{choice:?}");
    assert!(built.graph.outputs().iter().all(|(_, id)| built.graph.ty(*id).dtype == DType::F32));
    assert_eq!(built.graph.name, if choice.decode { "gemma_decode" } else { "gemma" });
    built.graph.verify().unwrap();
}

fn shown(shape: &Shape) -> String {
    shape.to_string().replace(" + ", "+")
}

/// Runs the combination on the oracle's prompts; the largest error of logits, hidden states, K and V.
fn error(choice: &Choice, built: &BuiltModel, model: &Model, session: &Session) -> f32 {
    let weights = session.load(built.params()).unwrap();
    let tokens = tokens_of(choice.batch);
    let dims = match (choice.decode, choice.dynamic_seq, choice.dynamic_past) {
        (false, true, _) => DimBinding::new().with(sym::SEQ, tokens),
        (true, _, true) => DimBinding::new().with(sym::PAST_SEQ, 32),
        _ => DimBinding::new(),
    };
    let options = CompileOptions::default().with_dims(dims).with_weights(&weights);
    let mut graph = session.compile_with(&built.graph, &options).unwrap();
    let inputs = if choice.decode { decode_inputs(choice, model) } else { prefill_inputs(choice, model) };
    let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, value)| (name.as_str(), RunInput::Value(value))).collect();
    let outputs = graph.run(&given).unwrap();
    let golden = if choice.decode { decode_golden(choice, model) } else { prefill_golden(choice, model) };
    let values: Vec<Vec<f32>> = outputs.iter().map(|(_, value)| value.to_f32().unwrap().into_owned()).collect();
    golden.into_iter().map(|(output, at, expected)| worst(&values[output][at..][..expected.len()], &expected)).fold(0.0, f32::max)
}

fn prefill_inputs(choice: &Choice, model: &Model) -> Vec<(String, Value)> {
    let (b, t) = (choice.batch, tokens_of(choice.batch));
    let prompt = if b == 1 { "p7" } else { "batch" };
    // Without `seq` and `dynamic_seq` there are 128 tokens: causal, so that those after the prompt do not matter.
    let room = if choice.seq || choice.dynamic_seq { t } else { 128 };
    let spread = |values: Vec<f32>| -> Vec<f32> {
        values.chunks(t).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, room - t))).collect()
    };
    let ids = model.oracle.tokens(&format!("{prompt}.input_ids")).into_iter().map(|id| id as f32).collect();
    let ids = spread(ids).into_iter().map(|id| id as u32).collect();
    let mut inputs = vec![("input_ids".to_string(), Value::u32([b, room], ids))];
    if b > 1 {
        let live = model.oracle.tokens("batch.attention_mask").into_iter().map(|m| m as f32).collect();
        inputs.push(("attention_mask".into(), Value::f32([b, room], spread(live))));
    }
    if choice.dynamic_seq && choice.head == Head::Last {
        inputs.push(("last_token_idx".into(), Value::u32([b], vec![t as u32 - 1; b])));
    }
    inputs
}

/// What is known of each output: its index, the first element, and the values from there on.
type Golden = Vec<(usize, usize, Vec<f32>)>;

fn prefill_golden(choice: &Choice, model: &Model) -> Golden {
    let (b, t) = (choice.batch, tokens_of(choice.batch));
    let room = if choice.seq || choice.dynamic_seq { t } else { 128 };
    let (what, width) =
        if choice.hidden() { ("hidden", model.oracle.config.hidden_size) } else { ("logits", model.oracle.config.vocab_size) };
    let prompt = if b == 1 { "p7" } else { "batch" };
    let all = model.oracle.f32(&format!("{prompt}.{what}"));
    let live: Vec<bool> =
        if b == 1 { vec![true; t] } else { model.oracle.tokens("batch.attention_mask").iter().map(|m| *m == 1).collect() };
    let mut golden = Golden::new();
    for row in (0..b * t).filter(|row| live[*row]) {
        let (sequence, token) = (row / t, row % t);
        let at = match choice.head {
            Head::Last if token + 1 < t || (room > t && b == 1) => continue,
            Head::Last => sequence,
            _ => sequence * room + token,
        };
        golden.push((0, at * width, all[row * width..][..width].to_vec()));
    }
    if choice.export && b == 1 {
        for layer in 0..model.oracle.config.num_hidden_layers {
            golden.extend(["k", "v"].iter().zip(1..).map(|(what, i)| (2 * layer + i, 0, model.rows("p7", what, layer))));
        }
    }
    golden
}

fn decode_inputs(choice: &Choice, model: &Model) -> Vec<(String, Value)> {
    let (past, width) = (past_of(choice), model.oracle.config.kv_proj_dim());
    let (b, tokens) = (choice.batch, model.oracle.tokens("p33.input_ids"));
    let mut inputs = vec![("input_ids".to_string(), Value::u32([b, 1], past.iter().map(|rows| tokens[*rows]).collect()))];
    if choice.dynamic_past {
        inputs.push(("position".into(), Value::u32([b], past.iter().map(|rows| *rows as u32).collect())));
    }
    if choice.mask {
        let keep = past.iter().flat_map(|rows| (0..33).map(move |row| f32::from(row < *rows || row == 32)));
        inputs.push(("mask".into(), Value::f32([b, 33], keep.collect())));
    }
    for layer in 0..model.oracle.config.num_hidden_layers {
        for what in ["k", "v"] {
            let all = model.rows("p33", what, layer);
            let rows = |live: &usize| {
                all[..live * width].iter().copied().chain(std::iter::repeat_n(9.0, (32 - live) * width)).collect::<Vec<_>>()
            };
            inputs.push((format!("past_{what}_{layer}"), Value::f32([b, 32, width], past.iter().flat_map(rows).collect())));
        }
    }
    inputs
}

fn decode_golden(choice: &Choice, model: &Model) -> Golden {
    let config = &model.oracle.config;
    let (what, width) = if choice.hidden() { ("hidden", config.hidden_size) } else { ("logits", config.vocab_size) };
    let all = model.oracle.f32(&format!("p33.{what}"));
    let mut golden = Golden::new();
    for (sequence, rows) in past_of(choice).into_iter().enumerate() {
        golden.push((0, sequence * width, all[rows * width..][..width].to_vec()));
        let width = config.kv_proj_dim();
        for layer in 0..config.num_hidden_layers {
            for (what, i) in ["k", "v"].iter().zip(1..) {
                let all = model.rows("p33", what, layer);
                let first = sequence * 33 * width;
                golden.push((2 * layer + i, first, all[..rows * width].to_vec()));
                golden.push((2 * layer + i, first + 32 * width, all[rows * width..][..width].to_vec()));
            }
        }
    }
    golden
}

#[test]
fn every_legal_combination_builds_and_equals_transformers() {
    let session = Session::new(&Device::Cpu).unwrap();
    for name in MODELS {
        let model = Model::open(name);
        let legal: Vec<Choice> = Choice::all().into_iter().filter(|choice| choice.refused().is_empty()).collect();
        // Prefill: batch × (seq, dynamic_seq) × head × export; decode: batch × three pasts × three heads × mask; hooks.
        assert_eq!(legal.len(), (2 * 4 * 4 * 2 + 2 * 3 * 3 * 2) * 3);
        for choice in legal {
            let built = model.build(choice.flow(&model.oracle.config)).unwrap_or_else(|e| panic!("{choice:?}: {e}"));
            check_interface(&choice, &built, &model.oracle.config);
            let error = error(&choice, &built, &model, &session);
            assert!(error < GATE, "{name} {choice:?}: {error}");
        }
    }
}

#[test]
fn every_illegal_combination_names_its_option() {
    for name in MODELS {
        let model = Model::open(name);
        for choice in Choice::all() {
            let refused = choice.refused();
            if refused.is_empty() {
                continue;
            }
            match model.build(choice.flow(&model.oracle.config)) {
                Err(Error::Builder(text)) => {
                    assert!(
                        refused.iter().any(|option| text.split([' ', ';', ',']).any(|word| word == *option)),
                        "{choice:?}: {text}"
                    );
                }
                other => panic!("{choice:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn sizes_without_meaning_are_refused() {
    let model = Model::open("gemma2");
    let config = &model.oracle.config;
    let text = |flow| match model.build(flow) {
        Err(error @ (Error::Builder(_) | Error::ContextFull { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for (flow, word) in [
        (GemmaFlow::for_prefill(config, 0, 7), "batch is 0"),
        (GemmaFlow::for_prefill(config, 1, 0), "seq is 0"),
        (GemmaFlow::for_decode(config, 1, 0), "past is 0"),
        (GemmaFlow::for_prefill(config, 1, 513), "513"),
        (GemmaFlow::for_decode(config, 1, 512), "513"),
        (GemmaFlow::resident(config).decode().past(3), "decode"),
        (GemmaFlow::resident(config).batch(2), "batch"),
        (GemmaFlow::resident(config).seq(9), "seq"),
    ] {
        assert!(text(flow).contains(word), "{word}");
    }
    assert!(model.build(GemmaFlow::for_prefill(config, 1, 512)).is_ok());
    assert!(model.build(GemmaFlow::for_decode(config, 1, 511)).is_ok());
}

#[test]
fn the_gpu_computes_each_option() {
    let session = Session::new(&Device::Gpu).unwrap();
    let prefill = Choice {
        decode: false,
        batch: 1,
        seq: true,
        dynamic_seq: false,
        past: false,
        dynamic_past: false,
        head: Head::Hidden,
        export: true,
        mask: false,
        hooks: Hooks::None,
    };
    let decode = Choice { decode: true, seq: false, past: true, head: Head::All, export: false, ..prefill };
    let choices = [
        ("gemma1-mha", Choice { hooks: Hooks::Stages, ..prefill }),
        ("gemma2", Choice { batch: 2, dynamic_seq: true, head: Head::Last, hooks: Hooks::Layer, ..prefill }),
        ("gemma3-text", Choice { head: Head::All, export: false, ..prefill }),
        ("gemma1-mha", Choice { head: Head::Hidden, mask: true, hooks: Hooks::Layer, ..decode }),
        ("gemma2", Choice { batch: 2, dynamic_past: true, mask: true, ..decode }),
        ("gemma3-text", Choice { past: false, dynamic_past: true, hooks: Hooks::Stages, ..decode }),
    ];
    for (name, choice) in choices {
        let model = Model::open(name);
        let built = model.build(choice.flow(&model.oracle.config)).unwrap();
        let error = error(&choice, &built, &model, &session);
        assert!(error < GATE, "{name} {choice:?}: {error}");
    }
}

/// Mistake 19: called once, after the layers and `after_layers`, before gather and final norm, in both modes. What it
/// sees is transformers' last layer.
#[test]
fn patch_flow_is_called_once_at_one_point() {
    let session = Session::new(&Device::Cpu).unwrap();
    for name in MODELS {
        let model = Model::open(name);
        let config = &model.oracle.config;
        let golden = model.oracle.f32(&format!("p7.layer_out.{}", config.num_hidden_layers - 1));
        for decode in [false, true] {
            let calls = Arc::new(Mutex::new(Vec::new()));
            let seen = calls.clone();
            let flow = if decode {
                GemmaFlow::for_decode(config, 1, 6)
            } else {
                GemmaFlow::for_prefill(config, 1, 7).last_token_logits()
            };
            let double = FlowStage::custom("double", |context, x| Ok(context.graph.scale(x, 2.0)?));
            let flow = flow.after_layers([double]).patch_flow(move |flow| {
                seen.lock().unwrap().push(flow.len());
                flow.custom("tap", |context, x| {
                    context.side_output("patched", x);
                    Ok(x)
                })
            });
            let built = model.build(flow.clone()).unwrap();
            // Embedding, its scale, rotary tables, layers, `after_layers`.
            assert_eq!(*calls.lock().unwrap(), [3 + config.num_hidden_layers + 1], "{name}, decode {decode}");
            let weights = session.load(built.params()).unwrap();
            let mut graph = session.compile_with(&built.graph, &CompileOptions::default().with_weights(&weights)).unwrap();
            let tokens = model.oracle.tokens("p7.input_ids");
            let pasts: Vec<(String, Vec<f32>)> = (0..config.num_hidden_layers)
                .flat_map(|layer| ["k", "v"].map(|what| (what, layer)))
                .map(|(what, layer)| {
                    (format!("past_{what}_{layer}"), model.rows("p7", what, layer)[..6 * config.kv_proj_dim()].to_vec())
                })
                .collect();
            let mut inputs = vec![("input_ids", RunInput::U32(if decode { &tokens[6..] } else { &tokens }))];
            if decode {
                inputs.extend(pasts.iter().map(|(name, past)| (name.as_str(), RunInput::F32(past))));
            }
            let outputs = graph.run(&inputs).unwrap();
            let found = outputs.iter().find(|(name, _)| name == "patched").unwrap().1.to_f32().unwrap().into_owned();
            let expected: Vec<f32> = golden.iter().map(|x| 2.0 * x).collect();
            let expected = if decode { &expected[6 * config.hidden_size..] } else { &expected };
            assert!(worst(&found, expected) < GATE, "{name}, decode {decode}");
            // The norm after it does not see a factor: all logits are the oracle's.
            let logits = outputs[0].1.to_f32().unwrap();
            assert!(worst(&logits, &model.oracle.f32("p7.logits")[6 * config.vocab_size..]) < GATE, "{name}, decode {decode}");
        }
    }
}
