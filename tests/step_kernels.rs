//! The kernels of a decode step for every sort of device, on this driver, against the reference: rows made inside
//! attention, norms that follow norms, joined products, products that norm their operand. Heads are as wide as those of
//! released models.

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use common::open;
use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow, GemmaLayerCtx, random_weights},
    internals::{
        ir::{
            LowerOptions,
            kernel::{Operand, Target, Tier},
        },
        lower::{Residency, lower, weights_of_one_operand},
        plan::Plan,
        reference,
        runtime::{Bindings, PipelineCache, PreparedPlan, ResidentWeight, ScratchPool, Step, WeightUploader},
    },
    ir::{
        DType, Data, DimBinding, Op, Value,
        ops::{DEAD_KEY, Role, rope_rows},
        sym,
    },
    profile::{CompileProfile, Precision},
    runtime::{Buffer, GpuContext, GpuOptions, wgpu::BufferUsages},
};

/// Position of the step's token; linear caches and rings hold fewer rows, so that both have wrapped.
const POSITION: usize = 700;
const CACHE: usize = 1024;
const RING: usize = 640;

/// A model with wide heads and little else.
fn model(name: &str, kv: DType) -> BuiltModel {
    rotating(name, kv, None)
}

/// The same, of whose heads the first `n_rot` dimensions rotate.
fn rotating(name: &str, kv: DType, n_rot: Option<usize>) -> BuiltModel {
    let mut config = GemmaConfig::preset(name).expect("a preset");
    (config.hidden_size, config.intermediate_size, config.vocab_size) = (64, 128, 256);
    if name.starts_with("gemma-4") {
        config.per_layer_config.values_mut().for_each(|own| own.intermediate_size = own.intermediate_size.map(|_| 256));
        if let Some(input) = &mut config.per_layer_input {
            input.vocab_size = Some(config.vocab_size);
        }
        config.num_kv_shared_layers = 30;
    }
    // The first full layer of Gemma 3 is the sixth; of Gemma 4 the first five layers own keys and values.
    config.effective_num_layers = Some(match &name[..7] {
        "gemma-3" => 6,
        "gemma-4" => 10,
        _ => 2,
    });
    let precision = Precision { kv, ..Precision::default() };
    let flow = GemmaFlow::resident(&config).profile(CompileProfile { precision, ..CompileProfile::default() });
    let flow = flow.layer(move |mut layer| {
        if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer {
            attn.n_rot = n_rot.unwrap_or(attn.n_rot);
        }
        layer.default_stage()
    });
    flow.last_token_logits().build(&mut random_weights(&config, DType::BF16, 3).unwrap()).unwrap()
}

struct Lying<'a>(&'a HashMap<String, ResidentWeight>);

impl Residency for Lying<'_> {
    fn shards(&self, _: &str) -> Option<Vec<Range<usize>>> {
        None
    }

    fn adjoin(&self, first: &str, second: &str) -> bool {
        let [a, b] = [first, second].map(|name| &self.0[name].shards[0]);
        Arc::ptr_eq(&a.buffer, &b.buffer) && a.offset + a.bytes == b.offset
    }
}

fn upload(context: &Arc<GpuContext>, built: &BuiltModel) -> HashMap<String, ResidentWeight> {
    let mut order: Vec<String> = weights_of_one_operand(&built.graph).concat();
    order.extend(built.params.keys().filter(|name| !order.contains(name)).cloned().collect::<Vec<_>>());
    let mut uploader = WeightUploader::new(context).unwrap();
    uploader.reserve(order.iter().map(|name| (built.params[name].dtype(), built.params[name].shape()))).unwrap();
    let weights = order.iter().map(|name| (name.clone(), uploader.upload(&built.params[name]).unwrap())).collect();
    uploader.finish().unwrap();
    weights
}

/// Values for every input: a token, its position, and caches of pseudo-random rows of the positions before it.
fn inputs(built: &BuiltModel, binding: &DimBinding) -> BTreeMap<String, Arc<Value>> {
    let mut state = 1u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let mut given = BTreeMap::new();
    for (_, input) in built.graph.inputs() {
        let shape = input.ty.shape.bind(binding).unwrap();
        let len: usize = shape.iter().product();
        let rows = shape.get(1).copied().unwrap_or(1);
        // The newest position before the step's that lies in a row.
        let held = |row: usize| (0..POSITION).rev().find(|p| p % rows == row).map_or(DEAD_KEY, |p| p as i32);
        let value = match &input.role {
            Role::Positions(_) => Value::i32(shape, vec![POSITION as i32]),
            Role::Visible { mask, .. } => Value::i32(shape, mask.visible(POSITION as i32).to_vec()),
            Role::RopeTable(table) => Value::f32(shape, rope_rows(&table.inv_freq, POSITION, 1)),
            Role::Cache if input.ty.dtype == DType::I32 => Value::i32(shape, (0..len).map(held).collect::<Vec<_>>()),
            Role::Cache => {
                let values: Vec<f32> = (0..len).map(|_| noise()).collect();
                if input.ty.dtype == DType::F16 { Value::f16(shape, &values) } else { Value::f32(shape, values) }
            }
            _ if input.name == "last_token_idx" => Value::u32(shape, vec![0]),
            _ => Value::u32(shape, vec![77; len]),
        };
        given.insert(input.name.clone(), Arc::new(value));
    }
    given
}

fn bytes(value: &Value) -> &[u8] {
    match &value.data {
        Data::F32(v) => bytemuck::cast_slice(v),
        Data::F16(v) => bytemuck::cast_slice(v),
        Data::I32(v) => bytemuck::cast_slice(v),
        Data::U32(v) => bytemuck::cast_slice(v),
        Data::Stored(_) => &[],
    }
}

/// Logits and the caches after the step, by name.
fn run(
    context: &Arc<GpuContext>,
    plan: &Plan,
    weights: &HashMap<String, ResidentWeight>,
    given: &BTreeMap<String, Arc<Value>>,
) -> BTreeMap<String, Vec<u8>> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let mut buffers: HashMap<String, (Arc<Buffer>, u64)> = HashMap::new();
    for (name, value) in given {
        let content = bytes(value);
        let buffer = context.create_buffer(name, content.len().next_multiple_of(16) as u64 + 16, usage).unwrap();
        context.write(&buffer, 0, content).unwrap();
        buffers.insert(name.clone(), (Arc::new(buffer), 0));
    }
    let step = Arc::new(
        context.create_buffer("step", size_of::<Step>() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST).unwrap(),
    );
    let values = Step { end: POSITION as u32 + 1, capacity: CACHE as u32, ..Step::all(1) };
    context.write(&step, 0, bytemuck::bytes_of(&values)).unwrap();
    let bound = Bindings { weights, inputs: &buffers, step: &step };
    let prepared = PreparedPlan::new(&PipelineCache::new(context), plan, bound, &mut ScratchPool::default()).unwrap();
    let submission = context.run("a step", |encoder| {
        prepared.record(&mut encoder.begin_compute_pass(&Default::default()));
        Ok(())
    });
    context.wait(&submission.unwrap(), "a step").unwrap();
    let read = |buffer: &Buffer, offset: u64, len: usize| {
        let mut out = vec![0; len];
        context.read_back(buffer, offset, &mut out).unwrap();
        out
    };
    let caches = given.iter().filter(|(name, _)| name.starts_with("cache."));
    let mut found: BTreeMap<String, Vec<u8>> =
        caches.map(|(name, value)| (name.clone(), read(&buffers[name].0, 0, bytes(value).len()))).collect();
    let (buffer, offset, len) = prepared.output("logits").unwrap();
    found.insert("logits".into(), read(buffer, offset, len as usize));
    found
}

fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes).into_iter().map(f32::from).collect(),
        DType::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(bytes).into_iter().map(|x| x as f32).collect(),
        _ => bytemuck::pod_collect_to_vec(bytes),
    }
}

/// Shortcuts that a plan takes: rows made inside attention, second norms, joined products, products that norm.
fn shortcuts(plan: &Plan) -> [usize; 4] {
    let with = |name: &str, text: &str| {
        let has = |(n, t): &(&str, String)| *n == name && (t == text || text == "*" && t != "none");
        plan.dispatches.iter().filter(|dispatch| dispatch.kernel.options.iter().any(has)).count()
    };
    let joined = |(_, operand): &(u32, Operand)| matches!(operand, Operand::Concatenated(_));
    let joined = plan.dispatches.iter().filter(|dispatch| dispatch.bindings.iter().any(joined)).count();
    [with("PROLOGUE", "yes"), with("SECOND_NORM", "yes"), joined, with("NORM", "*")]
}

/// The largest error as a share of the largest value. A key or value rounded to f16 may fall to the other side, and
/// what follows with it; norms of values and gates by each token amplify what is rounded before them (docs/gemma.md,
/// Numerical precision).
fn allowed(built: &BuiltModel, kv: DType) -> f32 {
    let amplifies = built.params.contains_key("ple_embed");
    match kv {
        DType::F16 => 1e-3,
        _ if amplifies => 3e-4,
        _ => 2e-5,
    }
}

/// Lowers for `target`, runs a step and compares logits and caches with the reference.
fn check(context: &Arc<GpuContext>, built: &BuiltModel, kv: DType, target: &Target, what: &str) -> [usize; 4] {
    let weights = upload(context, built);
    let binding = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, CACHE).with(sym::RING, RING);
    let plan = lower(&built.graph, &binding, target, &LowerOptions::default(), &Lying(&weights)).unwrap();
    let given = inputs(built, &binding);
    let found = run(context, &plan, &weights, &given);
    let expected = reference::run(&built.graph, &binding, &given, &built.params).unwrap();
    let logits = expected.outputs.into_iter().filter(|(name, _)| name == "logits");
    for (name, value) in logits.chain(expected.caches) {
        let right = numbers(value.dtype(), bytes(&value));
        let largest = right.iter().fold(0.0f32, |most, x| most.max(x.abs())).max(1.0);
        let allowed = allowed(built, kv) * largest;
        let mine = numbers(value.dtype(), &found[&name]);
        let worst = right.iter().zip(&mine).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= allowed && mine.len() == right.len(), "{what}: {name} is off by {worst}, allowed {allowed}\n{plan}");
    }
    shortcuts(&plan)
}

/// Devices like GPUs without subgroups, with subgroups of this driver's size, and this driver itself; all bind as many
/// buffers as the shortcuts need.
#[test]
fn steps_agree_with_the_reference_by_every_shortcut() {
    let context = open(&GpuOptions::default());
    let own = context.capabilities().target();
    let gpu = Target { software: false, int64: false, ..own.clone() };
    let portable = Target { tier: Tier::Portable, ..gpu.clone() };
    for (name, layers) in [("gemma-2b", 2), ("gemma-2-2b", 2), ("gemma-3-270m", 6)] {
        for kv in [DType::F32, DType::F16] {
            let built = model(name, kv);
            for (sort, target) in [("own", &own), ("gpu", &gpu), ("portable", &portable)] {
                // Each takes the driver seconds to compile; whole models run its own kernels (tests/parity_models.rs).
                let chosen = [("gemma-3-270m", DType::F32), ("gemma-2b", DType::F16)].contains(&(name, kv));
                if sort != "gpu" && !chosen {
                    continue;
                }
                let [rows, sequels, joined, norms] = check(&context, &built, kv, target, &format!("{name}, {kv} cache, {sort}"));
                // Norms of queries and keys, which Gemma 3 has, are two buffers more.
                let enough = own.max_storage_buffers >= if name == "gemma-3-270m" { 11 } else { 9 };
                assert_eq!((rows, joined), (if enough { layers } else { 0 }, layers), "{name} {sort}");
                // Gemma 1 has no norms after attention and FFW: each of its norms precedes products. Otherwise only the
                // first does, and the last, which reads the last token alone.
                let (following, first) = if name == "gemma-2b" { (0, 2 * layers + 1) } else { (2 * layers - 1, 2) };
                assert_eq!((sequels, norms), (following, if sort == "own" { 0 } else { first }), "{name} {sort}");
            }
        }
    }
}

/// The widest heads, keys that several layers attend to, values that are normed, an input for each layer: of the five
/// layers that own keys and values those of two are read by others too, and are written beforehand.
#[test]
fn steps_of_gemma_4_agree_with_the_reference() {
    let context = open(&GpuOptions::default());
    let own = context.capabilities().target();
    let gpu = Target { software: false, int64: false, ..own.clone() };
    let portable = Target { tier: Tier::Portable, ..gpu.clone() };
    let built = model("gemma-4-e2b", DType::F32);
    for (sort, target) in [("own", &own), ("gpu", &gpu), ("portable", &portable)] {
        let [rows, ..] = check(&context, &built, DType::F32, target, &format!("gemma-4-e2b, {sort}"));
        assert_eq!(rows, if own.max_storage_buffers >= 11 { 3 } else { 0 }, "{sort}");
    }
}

/// Rows made inside attention of which a part rotates: with norms on queries and keys and without.
#[test]
fn steps_that_rotate_a_part_of_a_head_agree_with_the_reference() {
    let context = open(&GpuOptions::default());
    let own = context.capabilities().target();
    let gpu = Target { software: false, int64: false, ..own.clone() };
    let portable = Target { tier: Tier::Portable, ..gpu.clone() };
    for (name, n_rot) in [("gemma-3-270m", 64), ("gemma-2b", 130), ("gemma-2b", 136)] {
        let built = rotating(name, DType::F32, Some(n_rot));
        for (sort, target) in [("own", &own), ("gpu", &gpu), ("portable", &portable)] {
            let [rows, ..] = check(&context, &built, DType::F32, target, &format!("{name}, {n_rot} rotate, {sort}"));
            let enough = own.max_storage_buffers >= if name == "gemma-3-270m" { 11 } else { 9 };
            // Kernels for GPUs turn whole vectors of each half.
            let whole = sort == "own" || n_rot.is_multiple_of(8);
            assert_eq!(rows > 0, enough && whole, "{name} {sort}");
        }
    }
}

/// Nothing of a plan is left out: the graph has every op that the shortcuts take the place of.
#[test]
fn the_graph_has_what_the_kernels_absorb() {
    let built = model("gemma-3-270m", DType::F32);
    let count = |is: fn(&Op) -> bool| built.graph.nodes().iter().filter(|node| is(&node.op)).count();
    assert_eq!(count(|op| matches!(op, Op::Rope(_))), 12);
    assert_eq!(count(|op| matches!(op, Op::CacheWrite(_))), 14);
    assert_eq!(count(|op| matches!(op, Op::RmsNorm(_))), 6 * 6 + 1);
}
