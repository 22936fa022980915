//! Packed weights on a device: how they lie there, two of them in one kernel, split by rows, and what they take.

mod common;

use common::{
    gguf::GgufOracle,
    open,
    oracle::{GATE, worst},
    tiers, title,
};
use gemmaflow::{
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions},
    internals::{
        ir::{Case, LowerOptions},
        lower::{Unplaced, lower},
        reference::{compare, expected},
        runtime::{PipelineCache, WeightUploader},
    },
    ir::{
        BinaryFn, DType, DimBinding, Graph, Packed, Value,
        ops::{Linear, Role},
    },
    runtime::{Device, GpuOptions},
    weights::Tensor,
};

/// Bytes of a block, and which of them are its factors: as the structs of ggml-common.h have them.
fn layout(format: Packed) -> (usize, std::ops::Range<usize>) {
    match format.name() {
        "Q4_0" | "IQ4_NL" => (18, 0..2),
        "Q4_1" => (20, 0..4),
        "Q5_0" => (22, 0..2),
        "Q5_1" => (24, 0..8),
        "Q8_0" => (34, 0..2),
        "Q2_K" => (84, 80..84),
        "Q3_K" => (110, 108..110),
        "Q4_K" => (144, 0..16),
        "Q5_K" => (176, 0..16),
        "Q6_K" => (210, 208..210),
        "IQ4_XS" => (136, 0..8),
        "MXFP4" => (17, 0..1),
        other => panic!("{other} is new: say how it lies on a device"),
    }
}

/// A row on the device, byte by byte.
fn arranged(row: &[u8], (bytes, factors): (usize, std::ops::Range<usize>)) -> Vec<u8> {
    let part = |of_factors| {
        let belongs = |(i, byte): (usize, &u8)| (factors.contains(&(i % bytes)) == of_factors).then_some(*byte);
        row.iter().enumerate().filter_map(belongs).collect::<Vec<_>>()
    };
    let mut out = [part(false), part(true)].concat();
    out.resize(out.len().next_multiple_of(16), 0);
    out
}

#[test]
fn rows_lie_on_the_device_as_documented_however_they_are_split() {
    for max_binding in [None, Some(16 << 10)] {
        let context = open(&GpuOptions { max_binding, ..GpuOptions::default() });
        let mut split = 0;
        for format in Packed::all() {
            let columns = 3 * format.block_elements();
            let value = Case::weight(&[150, columns], 3, 1.0, DType::Packed(format));
            let gemmaflow::ir::Data::Stored(tensor) = &value.data else { panic!("a stored weight") };
            let (bytes, _) = layout(format);
            assert_eq!(tensor.byte_len(), 150 * 3 * bytes, "{format:?}");
            let mut stored = vec![0; tensor.byte_len()];
            tensor.read_bytes(0, &mut stored).unwrap();
            let mut uploader = WeightUploader::new(&context).unwrap();
            let weight = uploader.upload(tensor).unwrap();
            uploader.finish().unwrap();
            let mut found = Vec::new();
            for shard in &weight.shards {
                let mut part = vec![0; shard.bytes as usize];
                context.read_back(&shard.buffer, shard.offset, &mut part).unwrap();
                found.extend(part);
            }
            let expected: Vec<u8> = stored.chunks(3 * bytes).flat_map(|row| arranged(row, layout(format))).collect();
            assert!(found == expected, "{format:?} with bindings of {max_binding:?}");
            assert_eq!(weight.byte_len(), expected.len() as u64, "{format:?}");
            split += usize::from(weight.shards.len() > 1);
        }
        assert!((split > 5) == max_binding.is_some(), "{split} weights are split");
    }
}

/// x·a − x·b, two products in one kernel, is the one product of (x, x) with (a, −b) of what the blocks mean.
#[test]
fn two_packed_weights_share_a_kernel_on_every_tier() {
    for (tier, context) in tiers() {
        let (pipelines, target) = (PipelineCache::new(&context), context.capabilities().target());
        for format in Packed::all() {
            let dtype = DType::Packed(format);
            let inner = 2 * format.block_elements();
            let out = 70;
            // Barriers make software drivers compile for seconds: many rows where they cost none.
            for rows in if tier == "software" { vec![1, 9] } else { vec![1] } {
                let (x, a) = (Case::values(&[1, rows, inner], 1, 1.0), Case::weight(&[out, inner], 2, 1.0, dtype));
                let b = Case::weight(&[out, inner], 5, 1.0, dtype);
                let pair = Case::new(format!("{format:?}, {rows} rows"), Linear, vec![x.clone(), a.clone(), b.clone()]);
                let mut graph = Graph::new("pair");
                let input = graph.input("operand 0", Role::Caller, DType::F32, &[1, rows, inner][..]).unwrap();
                let products = [1, 2].map(|i| {
                    let weight = graph.weight(format!("operand {i}"), dtype, &[out, inner]).unwrap();
                    graph.linear(input, weight).unwrap()
                });
                let result = graph.binary(BinaryFn::Sub, products[0], products[1]).unwrap();
                graph.output("result", result);
                let plan = lower(&graph, &DimBinding::new(), &target, &LowerOptions::default(), &Unplaced).unwrap();
                assert_eq!(plan.dispatches.len(), 1, "{plan}");
                let found = common::run(&pipelines, &plan, &pair).unwrap_or_else(|e| panic!("{tier}, {}: {e}", title(&pair)));
                let twice: Vec<f32> = x.to_f32().unwrap().chunks(inner).flat_map(|row| [row, row].concat()).collect();
                let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
                let negative: Vec<f32> = b.iter().map(|w| -w).collect();
                let rows_of_both = a.chunks(inner).zip(negative.chunks(inner));
                let both: Vec<f32> = rows_of_both.flat_map(|(a, b)| [a, b].concat()).collect();
                let weight = Value::stored(Tensor::from_f32("ab", vec![out, 2 * inner], &both));
                let one = Case::new("one", Linear, vec![Value::f32([1, rows, 2 * inner], twice), weight]);
                let worst = compare(&one, &expected(&one).unwrap(), &found);
                let worst = worst.unwrap_or_else(|e| panic!("{tier}, {}: {e}", title(&pair)));
                println!("{tier}, {}: {worst:.2} of what is allowed", title(&pair));
            }
        }
    }
}

/// A weight's bytes on the device by hand: blocks, and 0 to 15 bytes a row.
fn resident_bytes(tensor: &Tensor) -> u64 {
    let bytes = match (tensor.dtype(), tensor.shape()) {
        (DType::Packed(format), [rows @ .., columns]) => {
            rows.iter().product::<usize>() * (columns / format.block_elements() * layout(format).0).next_multiple_of(16)
        }
        (dtype, shape) => dtype.scalar_bytes().expect("a type of weights") * shape.iter().product::<usize>(),
    };
    bytes as u64
}

fn generator(oracle: &GgufOracle, max_binding: Option<u64>) -> GemmaGenerator {
    let gpu = GpuOptions { max_binding, ..GpuOptions::default() };
    let options = GeneratorOptions { gpu, prefill_chunk: Some(16), ..GeneratorOptions::default() };
    let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
    let mut loader = load_from_path(&oracle.path).unwrap();
    GemmaGenerator::with_options(config, loader.as_mut(), Device::Gpu, options).unwrap().with_decode_cache(64).unwrap()
}

#[test]
fn weights_take_their_packed_bytes_on_the_device() {
    // A file of 16-bit weights is there for the drafter of its model.
    for oracle in GgufOracle::runnable().into_iter().filter(|oracle| !oracle.name.ends_with("-f16")) {
        let mut loader = load_from_path(&oracle.path).unwrap();
        // Not what a file holds besides, such as divisors of rotary frequencies.
        let config = GemmaConfig::from_gguf(&oracle.path).unwrap();
        let keys = config.weights().filter_map(|position| position.hugging_face(config.arch));
        let tensors: Vec<Tensor> = keys.map(|key| loader.take(&key).unwrap()).collect();
        let expected: u64 = tensors.iter().map(resident_bytes).sum();
        let file = std::fs::metadata(&oracle.path).unwrap().len();
        let found = generator(&oracle, None).stats().weight_bytes;
        println!("{}: {found} bytes on the device, {file} in the file", oracle.name);
        assert_eq!(found, expected, "{}", oracle.name);
        let wide: usize = tensors.iter().map(|t| 4 * t.len()).sum();
        assert!(found * 3 < wide as u64, "{}: {found} of {wide} bytes", oracle.name);
    }
}

#[test]
fn split_packed_weights_give_the_same_logits() {
    for (name, max_binding) in [("gemma1-k-q4_k_m", 32 << 10), ("gemma2-s-q4_0-pure", 20 << 10)] {
        let oracle = GgufOracle::open(name);
        let mut generator = generator(&oracle, Some(max_binding));
        assert!(generator.stats().split_weights >= 1, "{name}: {:?}", generator.stats());
        let tokens = oracle.tokens("p33.input_ids");
        let mut logits = generator.all_logits(&tokens[..20]).unwrap();
        for token in &tokens[20..] {
            logits.extend(generator.decode_get_logits(*token).unwrap());
        }
        let error = worst(&logits, &oracle.f32("exact.p33.logits"));
        println!("{name}: {} split weights, {error:.1e}", generator.stats().split_weights);
        assert!(error < GATE, "{name}: {error}");
    }
}

/// The reference means by a packed product what it means by one of the widened numbers, but for the rounding of sums: a
/// block's one factor multiplies its sum.
#[test]
fn the_reference_multiplies_what_the_blocks_mean() {
    for format in Packed::all() {
        let inner = 2 * format.block_elements();
        let (x, w) = (Case::values(&[1, 3, inner], 1, 1.0), Case::weight(&[65, inner], 2, 1.0, DType::Packed(format)));
        let wide = Value::stored(Tensor::from_f32("wide", vec![65, inner], &w.to_f32().unwrap()));
        let [packed, wide] = [w, wide].map(|w| Case::new("product", Linear, vec![x.clone(), w]));
        let found = expected(&packed).unwrap();
        compare(&wide, &expected(&wide).unwrap(), &found).unwrap_or_else(|problem| panic!("{format:?}: {problem}"));
    }
}

#[test]
fn packed_types_are_refused_where_no_kernel_reads_them() {
    let format = Packed::by_name("Q4_0").unwrap();
    let mut graph = Graph::new("refused");
    let input = graph.input("x", Role::Caller, DType::Packed(format), [1, 32]).unwrap_err().to_string();
    assert!(input.contains("Q4_0") && input.contains("weights alone"), "{input}");
    let ragged = graph.weight("w", DType::Packed(format), &[4, 33]).unwrap_err().to_string();
    assert!(ragged.contains("33 elements") && ragged.contains("blocks of 32"), "{ragged}");
    let flat = graph.weight("w", DType::Packed(format), &[32]).unwrap_err().to_string();
    assert!(flat.contains("matrices"), "{flat}");
    let weight = graph.weight("w", DType::Packed(format), &[4, 64]).unwrap();
    let reshaped = graph.reshape(weight, [8, 32]).unwrap_err().to_string();
    assert!(reshaped.contains("packed"), "{reshaped}");
}
