//! Prefill and decode graphs run by name, with keys and values that the caller holds, in batches of unequal lengths, at
//! static and symbolic sizes: against transformers, on the reference and on the GPU.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    error::PromptError,
    flow::BuiltModel,
    gemma::{GemmaFlow, GemmaLayerCtx},
    generate::bucket_decode_mask,
    ir::{DimBinding, MaskKind, Value, sym},
    runtime::{CompileOptions, CompiledGraph, Device, RunInput, Session},
};
use oracle::{Oracle, worst};

const MODELS: [&str; 7] = ["gemma1-mha", "gemma2", "gemma3-text", "gemma3n", "gemma4-dense", "gemma4-e2b", "gemma4-moe"];

fn sessions() -> Vec<(&'static str, Session)> {
    let open = |device| Session::new(&device).expect("a device");
    vec![("reference", open(Device::Cpu)), ("gpu", open(Device::Gpu))]
}

/// A graph compiled with its own weights.
fn compile(session: &Session, built: &BuiltModel, dims: DimBinding) -> CompiledGraph {
    let weights = session.load(&built.params).unwrap();
    session.compile_with(&built.graph, &CompileOptions::default().with_dims(dims).with_weights(&weights)).unwrap()
}

fn past(rows: usize) -> DimBinding {
    DimBinding::new().with(sym::PAST_SEQ, rows)
}

fn values(outputs: &[(String, Value)], name: &str) -> Vec<f32> {
    let found = outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output '{name}'"));
    found.1.to_f32().unwrap().into_owned()
}

/// Rows of sequences of unequal lengths, each with `room` rows.
struct Batch {
    lengths: Vec<usize>,
    room: usize,
}

impl Batch {
    /// `rows(b)` of each sequence, after (`left`) or before the padding.
    fn place<T: Copy>(&self, width: usize, filler: T, left: bool, rows: impl Fn(usize) -> Vec<T>) -> Vec<T> {
        let place = |(b, &len): (usize, &usize)| {
            let own = rows(b);
            assert_eq!(own.len(), len * width);
            let pad = vec![filler; (self.room - len) * width];
            if left { [pad, own].concat() } else { [own, pad].concat() }
        };
        self.lengths.iter().enumerate().flat_map(place).collect()
    }
}

/// Sequences that all begin as `p70` does, so that its logits are theirs.
fn batch_of(size: usize) -> Batch {
    let lengths: Vec<usize> = [33, 7, 20, 1, 12, 29, 2, 16].into_iter().take(size).collect();
    Batch { room: 33, lengths }
}

#[test]
fn batches_of_unequal_lengths_padded_on_either_side() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let tokens = oracle.tokens("p70.input_ids");
        let (expected, vocab) = (oracle.f32("p70.logits"), oracle.config.vocab_size);
        for (device, session) in sessions() {
            for size in [2, 8] {
                let batch = batch_of(size);
                let flow = GemmaFlow::for_prefill(&oracle.config, size, batch.room).lm_head();
                let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new());
                for left in [true, false] {
                    let ids = batch.place(1, 0, left, |b| tokens[..batch.lengths[b]].to_vec());
                    let live = batch.place(1, 0.0, left, |b| vec![1.0; batch.lengths[b]]);
                    let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&live))];
                    let logits = values(&graph.run(&inputs).unwrap(), "logits");
                    for (b, len) in batch.lengths.iter().enumerate() {
                        let first = b * batch.room + if left { batch.room - len } else { 0 };
                        let error = worst(&logits[first * vocab..][..len * vocab], &expected[..len * vocab]);
                        assert!(error < oracle.gate(), "{device} {name}, {size} sequences, left {left}, sequence {b}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_oracles_own_batch_with_left_padding() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let (ids, mask) = (oracle.tokens("batch.input_ids"), oracle.tokens("batch.attention_mask"));
        let live: Vec<f32> = mask.iter().map(|&m| m as f32).collect();
        let (expected, vocab) = (oracle.f32("batch.logits"), oracle.config.vocab_size);
        for (device, session) in sessions() {
            let flow = GemmaFlow::for_prefill(&oracle.config, 2, 33);
            let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&live))];
            let all = flow.clone().lm_head().build(oracle.loader().as_mut()).unwrap();
            let logits = values(&compile(&session, &all, DimBinding::new()).run(&inputs).unwrap(), "logits");
            for row in (0..66).filter(|row| live[*row] > 0.5) {
                let error = worst(&logits[row * vocab..][..vocab], &expected[row * vocab..][..vocab]);
                assert!(error < oracle.gate(), "{device} {name}, row {row}: {error}");
            }
            let last = flow.last_token_logits().build(oracle.loader().as_mut()).unwrap();
            let mut last = compile(&session, &last, DimBinding::new());
            let logits = values(&pollster::block_on(last.run_async(&inputs)).unwrap(), "logits");
            for b in 0..2 {
                let error = worst(&logits[b * vocab..][..vocab], &expected[(b * 33 + 32) * vocab..][..vocab]);
                assert!(error < oracle.gate(), "{device} {name}, last of sequence {b}: {error}");
            }
        }
    }
}

/// K and V of every layer for the first tokens of `p70`, `[70, K·H]` each, from a prefill on the reference.
fn keys_and_values(oracle: &Oracle) -> Vec<[Vec<f32>; 2]> {
    let session = Session::new(&Device::Cpu).unwrap();
    let flow = GemmaFlow::for_prefill(&oracle.config, 1, 70).export_kv();
    let outputs = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new())
        .run(&[("input_ids", &oracle.tokens("p70.input_ids")[..])])
        .unwrap();
    let layer = |i| ["k", "v"].map(|what| values(&outputs, &format!("{what}_{i}")));
    (0..oracle.config.num_kv_layers()).map(layer).collect()
}

/// Runs one decode step for sequences whose pasts are the beginnings of `p70`, and checks logits and the grown K and V.
fn check_step(graph: &mut CompiledGraph, oracle: &Oracle, kv: &[[Vec<f32>; 2]], batch: &Batch, extra: &[(&str, RunInput)]) {
    let tokens = oracle.tokens("p70.input_ids");
    let expected = oracle.f32("p70.logits");
    let vocab = oracle.config.vocab_size;
    let ids: Vec<u32> = batch.lengths.iter().map(|&len| tokens[len]).collect();
    let names: Vec<[String; 2]> = (0..kv.len()).map(|i| ["k", "v"].map(|what| format!("past_{what}_{i}"))).collect();
    // What lies in rows that are not live must not matter.
    let place =
        |values: &Vec<f32>, width: usize| batch.place(width, 77.0, false, |b| values[..batch.lengths[b] * width].to_vec());
    let width = |layer: usize| oracle.config.layer_kv_dim(layer);
    let pasts: Vec<[Vec<f32>; 2]> = kv.iter().enumerate().map(|(i, [k, v])| [place(k, width(i)), place(v, width(i))]).collect();
    let mut inputs = vec![("input_ids", RunInput::U32(&ids))];
    inputs.extend(extra.iter().copied());
    for (names, pasts) in names.iter().zip(&pasts) {
        inputs.extend(names.iter().zip(pasts).map(|(name, past)| (name.as_str(), RunInput::F32(past))));
    }
    let outputs = graph.run(&inputs).unwrap();
    let logits = values(&outputs, "logits");
    for (b, len) in batch.lengths.iter().enumerate() {
        let error = worst(&logits[b * vocab..][..vocab], &expected[len * vocab..][..vocab]);
        assert!(error < oracle.gate(), "{} past {len} of {}, sequence {b}: {error}", oracle.name, batch.room);
        for (i, layer) in kv.iter().enumerate() {
            let width = width(i);
            for (what, all) in ["k", "v"].iter().zip(layer) {
                let grown = values(&outputs, &format!("{what}_{i}"));
                let rows = &grown[b * (batch.room + 1) * width..][..(batch.room + 1) * width];
                assert_eq!(rows[..len * width], all[..len * width], "{what}_{i}: the past stays");
                let error = worst(&rows[batch.room * width..], &all[len * width..][..width]);
                assert!(error < oracle.gate(), "{} {what}_{i}: the new row is last: {error}", oracle.name);
            }
        }
    }
}

#[test]
fn decode_after_a_static_past() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let kv = keys_and_values(&oracle);
        for (device, session) in sessions() {
            let pasts: &[usize] = if device == "gpu" { &[12] } else { &[1, 8, 9, 40] };
            for &rows in pasts {
                for size in [1, 3] {
                    let flow = GemmaFlow::for_decode(&oracle.config, size, rows);
                    let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new());
                    check_step(&mut graph, &oracle, &kv, &Batch { lengths: vec![rows; size], room: rows }, &[]);
                }
            }
        }
    }
}

#[test]
fn decode_after_pasts_of_unequal_lengths_in_one_graph() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let kv = keys_and_values(&oracle);
        for (_, session) in sessions() {
            for size in [1, 8] {
                let flow = GemmaFlow::for_decode(&oracle.config, size, 40).dynamic_past();
                let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), past(40));
                // One graph serves every size up to its own, without a plan of its own for each.
                for room in [33, 40] {
                    let lengths: Vec<usize> = batch_of(size).lengths.iter().map(|len| (*len).min(room)).collect();
                    let position: Vec<u32> = lengths.iter().map(|&len| len as u32).collect();
                    let batch = Batch { lengths, room };
                    check_step(&mut graph, &oracle, &kv, &batch, &[("position", RunInput::U32(&position))]);
                }
            }
        }
    }
}

#[test]
fn a_symbolic_prefill_serves_every_length() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let (expected, vocab) = (oracle.f32("p70.logits"), oracle.config.vocab_size);
        let tokens = oracle.tokens("p70.input_ids");
        for (device, session) in sessions() {
            let flow = GemmaFlow::for_prefill(&oracle.config, 1, 70).dynamic_seq().last_token_logits().export_kv();
            let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new());
            for len in [1, 9, 33, 69, 70] {
                let last = [len as u32 - 1];
                let inputs = [("input_ids", RunInput::U32(&tokens[..len])), ("last_token_idx", RunInput::U32(&last))];
                let outputs = graph.run(&inputs).unwrap();
                let error = worst(&values(&outputs, "logits"), &expected[(len - 1) * vocab..][..vocab]);
                assert!(error < oracle.gate(), "{device} {name} {len}: {error}");
                assert_eq!(outputs[1].1.shape, [1, len, oracle.config.kv_proj_dim()], "{device} {name}");
            }
            let too_long = [("input_ids", RunInput::U32(&[2; 71])), ("last_token_idx", RunInput::U32(&[70]))];
            let text = graph.run(&too_long).unwrap_err().to_string();
            assert!(text.contains("input_ids") && text.contains("T = 71 exceeds 70"), "{text}");
        }
    }
}

#[test]
fn rotary_rows_of_the_callers_own() {
    let oracle = Oracle::open("gemma3-text");
    let kv = keys_and_values(&oracle);
    let config = &oracle.config;
    let flow = GemmaFlow::for_decode(config, 1, 12);
    let built = flow.build(oracle.loader().as_mut()).unwrap();
    let rows = |full: bool, position| {
        let rope = if full { &config.rope_full } else { &config.rope_sliding };
        gemmaflow::gemma::rope_slice(&gemmaflow::gemma::resolve_inv_freq(rope, config.head_dim, None).unwrap(), position)
    };
    let ((full_cos, full_sin), (cos, sin)) = (rows(true, 12), rows(false, 12));
    for (_, session) in sessions() {
        let mut graph = compile(&session, &built, DimBinding::new());
        let own = [
            ("rope_cos_full", RunInput::F32(&full_cos)),
            ("rope_sin_full", RunInput::F32(&full_sin)),
            ("rope_cos_sliding", RunInput::F32(&cos)),
            ("rope_sin_sliding", RunInput::F32(&sin)),
        ];
        let batch = Batch { lengths: vec![12], room: 12 };
        check_step(&mut graph, &oracle, &kv, &batch, &own);
    }
}

/// A keep-mask that keeps everything changes nothing; one that drops keys acts beside window and softcap: as if these
/// rows were not live.
#[test]
fn a_mask_of_the_callers_own_joins_the_layers_mask() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let kv = keys_and_values(&oracle);
        for (_, session) in sessions() {
            let flow = GemmaFlow::for_decode(&oracle.config, 1, 40).dynamic_past().custom_mask();
            let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new());
            for live in [20usize, 39, 40] {
                let batch = Batch { lengths: vec![live], room: 40 };
                let mask = bucket_decode_mask(live, 40).unwrap();
                let position = [live as u32];
                let given = [("position", RunInput::U32(&position)), ("mask", RunInput::F32(&mask))];
                check_step(&mut graph, &oracle, &kv, &batch, &given);
                let keep_all = vec![1.0; 41];
                let given = [("position", RunInput::U32(&position)), ("mask", RunInput::F32(&keep_all))];
                check_step(&mut graph, &oracle, &kv, &batch, &given);
            }
        }
    }
}

/// A layer whose mask is the caller's alone is one that sees everything where the caller keeps everything.
#[test]
fn a_layer_may_leave_its_mask_to_the_caller() {
    let oracle = Oracle::open("gemma1-mha");
    let kv = keys_and_values(&oracle);
    let custom = |flow: GemmaFlow| {
        flow.layer(|mut layer| {
            match &mut layer {
                GemmaLayerCtx::Prefill { attn, .. } => attn.mask = MaskKind::Custom,
                GemmaLayerCtx::Decode { spec, .. } => spec.mask = MaskKind::Custom,
                _ => {}
            }
            layer.default_stage()
        })
        .build(oracle.loader().as_mut())
    };
    let built = custom(GemmaFlow::for_decode(&oracle.config, 1, 12).custom_mask()).unwrap();
    let session = Session::new(&Device::Cpu).unwrap();
    let given = [("mask", RunInput::F32(&[1.0; 13]))];
    check_step(&mut compile(&session, &built, DimBinding::new()), &oracle, &kv, &Batch { lengths: vec![12], room: 12 }, &given);
    let error = custom(GemmaFlow::for_decode(&oracle.config, 1, 12)).unwrap_err();
    assert!(matches!(&error, Error::Builder(text) if text.contains("custom_mask")), "{error}");
}

#[test]
fn a_size_that_the_graph_does_not_have_is_refused() {
    let oracle = Oracle::open("gemma1-mha");
    let built = GemmaFlow::for_prefill(&oracle.config, 2, 7).build(oracle.loader().as_mut()).unwrap();
    let session = Session::new(&Device::Cpu).unwrap();
    for (dims, part) in [
        (DimBinding::batch_seq(2, 5), "has no such size"),
        (DimBinding::batch_past_seq(2, 5), "has no such size"),
        (DimBinding::new().with(sym::BATCH, 3), "built for 2 sequences"),
    ] {
        let text = session.compile_with(&built.graph, &CompileOptions::default().with_dims(dims)).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    session.compile_with(&built.graph, &CompileOptions::default().with_dims(DimBinding::new().with(sym::BATCH, 2))).unwrap();
}

#[test]
fn sizes_of_nothing_and_of_too_much_are_refused() {
    let oracle = Oracle::open("gemma2");
    let built = GemmaFlow::for_prefill(&oracle.config, 1, 8).dynamic_seq().build(oracle.loader().as_mut()).unwrap();
    for (device, session) in sessions() {
        let mut graph = compile(&session, &built, DimBinding::new());
        let text = graph.run(&[("input_ids", &[0u32; 0][..])]).unwrap_err().to_string();
        assert!(text.contains("T is 0"), "{device}: {text}");
        let stored = Value::stored(gemmaflow::weights::Tensor::from_f32("ids", vec![1, 8], &[1.0; 8]));
        let text = graph.run(&[("input_ids", &stored)]).unwrap_err().to_string();
        assert!(text.contains("stored weight"), "{device}: {text}");
        let many = GemmaFlow::for_prefill(&oracle.config, usize::MAX / 2, 8).build(oracle.loader().as_mut()).unwrap();
        assert!(session.compile(&many.graph).is_err(), "{device}");
    }
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let oracle = Oracle::open("gemma2");
    for (device, session) in sessions() {
        let flow = GemmaFlow::for_decode(&oracle.config, 1, 8).dynamic_past();
        let mut graph = compile(&session, &flow.build(oracle.loader().as_mut()).unwrap(), DimBinding::new());
        let width = oracle.config.kv_proj_dim();
        let row = vec![0.5f32; 4 * width];
        let names: Vec<String> = (0..4).flat_map(|i| [format!("past_k_{i}"), format!("past_v_{i}")]).collect();
        let (ids, position) = ([3u32], [4u32]);
        let right: Vec<(&str, RunInput)> = [("input_ids", RunInput::U32(&ids)), ("position", RunInput::U32(&position))]
            .into_iter()
            .chain(names.iter().map(|name| (name.as_str(), RunInput::F32(&row))))
            .collect();
        graph.run(&right).unwrap();
        let long = vec![0.5f32; 9 * width];
        let with = |extra| [right.clone(), vec![extra]].concat();
        let without = |index| [&right[..index], &right[index + 1..]].concat();
        let changed = |index: usize, input| {
            let mut inputs = right.clone();
            inputs[index].1 = input;
            inputs
        };
        for (inputs, name, part) in [
            (with(("logits", RunInput::F32(&[1.0]))), "'logits'", "it takes input_ids, position"),
            (with(("position", RunInput::U32(&[4]))), "'position'", "given twice"),
            (without(1), "'position'", "missing; expected u32[1]"),
            (without(4), "'past_k_1'", "missing; expected f32[1, 4,"),
            (changed(0, RunInput::F32(&[3.0])), "'input_ids'", "expected u32[1, 1]"),
            (changed(0, RunInput::U32(&[3, 4])), "'input_ids'", "found 2 elements"),
            (changed(1, RunInput::U32(&[5])), "'position'", "5 live rows"),
            (changed(3, RunInput::F32(&row[1..])), "'past_v_0'", "expected f32[1, 4,"),
            (changed(2, RunInput::F32(&long)), "'past_k_0'", "P = 9 exceeds 8"),
        ] {
            let text = graph.run(&inputs).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(part), "{device}: {text}");
        }
        let mut inputs = right.clone();
        inputs[0].1 = RunInput::U32(&[141]);
        let error = graph.run(&inputs).unwrap_err();
        assert!(
            matches!(error, Error::Prompt(PromptError::TokenOutOfRange { token: 141, index: 0, vocab_size: 141 })),
            "{device}: {error}"
        );
        graph.run(&right).unwrap();
    }
}
