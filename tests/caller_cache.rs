//! A batch of unequal lengths from a prefill through several decode steps, with keys and values in the caller's hands.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    gemma::GemmaFlow,
    generate::{KvCacheState, bucket_decode_mask, kv_from_prefill_outputs, split_decode_logits_kv},
    ir::Value,
    runtime::{CompileOptions, Device, RunInput, Session},
};
use oracle::{Oracle, worst};

const ROOM: usize = 33;
const STEPS: usize = 4;

#[test]
fn eight_sequences_of_unequal_lengths_for_several_steps() {
    let lengths = [33usize, 7, 20, 1, 12, 29, 2, 16];
    let batch = lengths.len();
    for name in ["gemma2", "gemma3-text", "gemma4-e2b"] {
        let oracle = Oracle::open(name);
        let (tokens, expected) = (oracle.tokens("p70.input_ids"), oracle.f32("p70.logits"));
        let (vocab, layers) = (oracle.config.vocab_size, oracle.config.num_kv_layers());
        let prefill = GemmaFlow::for_prefill(&oracle.config, batch, ROOM).last_token_logits().export_kv();
        let prefill = prefill.build(oracle.loader().as_mut()).unwrap();
        let decode = GemmaFlow::for_decode(&oracle.config, batch, ROOM + STEPS).dynamic_past();
        let decode = decode.build(oracle.loader().as_mut()).unwrap();
        for device in [Device::Cpu, Device::Gpu] {
            let session = Session::new(&device).unwrap();
            let options = CompileOptions::default().with_weights(&session.load(&prefill.params).unwrap());
            let mut step = session.compile_with(&decode.graph, &options).unwrap();
            // Padding on the left: the live rows of K and V are last, and are moved to the front.
            let place = |pad: f32, len: usize| [vec![0.0; ROOM - len], vec![pad; len]].concat();
            let live: Vec<f32> = lengths.iter().flat_map(|&len| place(1.0, len)).collect();
            let ids: Vec<u32> = lengths.iter().flat_map(|&len| [&vec![0; ROOM - len], &tokens[..len]].concat()).collect();
            let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&live))];
            let outputs = session.compile_with(&prefill.graph, &options).unwrap().run(&inputs).unwrap();
            let mut cache = kv_from_prefill_outputs(&outputs, layers).unwrap();
            let mut position = cache.live_rows_first(&live).unwrap();
            assert_eq!(position, lengths.map(|len| len as u32));
            for _ in 0..STEPS {
                let ids: Vec<u32> = position.iter().map(|&p| tokens[p as usize]).collect();
                let (logits, grown) = split_decode_logits_kv(run(&mut step, &ids, &position, &cache), layers).unwrap();
                for (b, &p) in position.iter().enumerate() {
                    let error = worst(&logits[b * vocab..][..vocab], &expected[p as usize * vocab..][..vocab]);
                    assert!(error < oracle.gate(), "{device} {name}, sequence {b} at {p}: {error}");
                }
                let before = cache.past_len;
                cache = grown;
                let live: Vec<f32> = position.iter().flat_map(|&p| bucket_decode_mask(p as usize, before).unwrap()).collect();
                let next = cache.live_rows_first(&live).unwrap();
                assert_eq!(next, position.iter().map(|p| p + 1).collect::<Vec<_>>());
                position = next;
            }
        }
    }
}

fn run(
    graph: &mut gemmaflow::runtime::CompiledGraph,
    ids: &[u32],
    position: &[u32],
    cache: &KvCacheState,
) -> Vec<(String, Value)> {
    let names: Vec<[String; 2]> = (0..cache.layers_k.len()).map(|i| ["k", "v"].map(|what| format!("past_{what}_{i}"))).collect();
    let mut inputs = vec![("input_ids", RunInput::U32(ids)), ("position", RunInput::U32(position))];
    for (i, [k, v]) in names.iter().enumerate() {
        inputs.push((k, RunInput::F32(&cache.layers_k[i])));
        inputs.push((v, RunInput::F32(&cache.layers_v[i])));
    }
    graph.run(&inputs).unwrap()
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let mut cache = KvCacheState { past_len: 3, layers_k: vec![vec![1.0; 12]], layers_v: vec![vec![2.0; 12]] };
    for live in [&[][..], &[1.0, 0.0], &[1.0; 9], &[1.0; 15]] {
        assert!(matches!(cache.live_rows_first(live), Err(Error::Input { .. })), "{live:?}");
    }
    assert_eq!(cache.live_rows_first(&[0.0, 1.0, 0.0, 0.0, 1.0, 1.0]).unwrap(), [1, 2]);
    assert_eq!((cache.past_len, cache.layers_k[0].len()), (2, 8));
    assert!(bucket_decode_mask(0, usize::MAX).is_err());
}
