//! The head keeps the largest logit of each slice as it writes the logits, and the token chosen from these is the one
//! that a look at all logits chooses: for every kernel that may write them, whole and in shards.

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use common::open;
use gemmaflow::{
    internals::{
        ir::{
            Case, LowerOptions,
            kernel::{Target, Tier, row_shards},
        },
        lower::{Unplaced, lower},
        plan::{Plan, sampling},
        reference,
        runtime::{Bindings, PipelineCache, PreparedPlan, ResidentWeight, ScratchPool, Shard, Step},
    },
    ir::{
        DType, DimBinding, Graph, Value,
        ops::{Gain, Role},
    },
    runtime::{Buffer, GpuContext, GpuOptions, wgpu::BufferUsages},
    weights::Tensor,
};

/// Three slices, of which the last is not full.
const VOCAB: usize = 1500;
const WIDTH: usize = 16;

/// What a row of logits shall be, and which token is the likeliest.
struct Row {
    name: &'static str,
    logits: Vec<f32>,
    token: u32,
}

/// Multiples of 1/8 in ±16, which every type of weight holds, with these in their places.
fn row(name: &'static str, token: u32, planted: &[(usize, f32)]) -> Row {
    let mut logits: Vec<f32> = Case::numbers(VOCAB, token as u64 + 7, 127.0).iter().map(|x| x.round() / 8.0).collect();
    planted.iter().for_each(|(at, value)| logits[*at] = *value);
    Row { name, logits, token }
}

fn rows() -> Vec<Row> {
    let negative = |row: Row| Row { logits: row.logits.iter().map(|x| -x.abs()).collect(), ..row };
    let all = |name, value| Row { name, logits: vec![value; VOCAB], token: 0 };
    let mut negatives: Vec<(usize, f32)> = (0..VOCAB).map(|n| (n, 1.0 + (n % 50) as f32 / 8.0)).collect();
    [1023, 1025].iter().for_each(|at| negatives[*at].1 = 0.5);
    vec![
        row("the largest of all rows", 600, &[(600, 64.0)]),
        row("equals in several slices", 300, &[(1499, 20.0), (300, 20.0), (700, 20.0), (301, 20.0), (319, 20.0), (320, 20.0)]),
        row("equals in one workgroup", 515, &[(516, 20.0), (515, 20.0), (517, 20.0)]),
        row("in the last slice, which is not full", 1400, &[(1400, 17.0), (1499, 16.5)]),
        row("the last", 1499, &[(1499, 17.0)]),
        row("the first", 0, &[(0, 17.0), (1024, 17.0)]),
        row("around a shard's end", 255, &[(255, 18.0), (256, 18.0)]),
        negative(row("negative alone", 1023, &negatives)),
        all("equal alone", -3.25),
        all("zeros", 0.0),
    ]
}

/// What stands for no token.
const NONE: u32 = u32::MAX;

/// Rows with numbers that are none.
fn odd_rows() -> Vec<Row> {
    let all = |name, value| Row { name, logits: vec![value; VOCAB], token: NONE };
    let (nan, most) = (f32::NAN, f32::INFINITY);
    vec![
        Row { token: NONE, ..row("beside NaN", 800, &[(3, nan), (799, nan), (800, 17.0), (801, nan), (1400, 17.0)]) },
        Row { token: NONE, ..row("the last NaN", 800, &[(800, 17.0), (1499, -nan)]) },
        row("infinite", 900, &[(900, most), (20, -most), (1300, most)]),
        all("NaN alone", nan),
        all("minus infinity alone", -most),
    ]
}

/// A head that makes column k of its weight out of the k-th unit vector.
struct Head {
    dtype: DType,
    /// Whether something is left to compute after the product, and a norm before it.
    dressed: bool,
    graph: Graph,
    params: BTreeMap<String, Tensor>,
}

impl Head {
    fn new(rows: &[Row], dtype: DType, dressed: bool) -> Self {
        let column = |c: usize, n: usize| rows.get(c).map_or(0.0, |row| row.logits[n]);
        let numbers = (0..VOCAB * WIDTH).map(|i| column(i % WIDTH, i / WIDTH));
        let bytes: Vec<u8> = match dtype {
            DType::F16 => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            DType::BF16 => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            _ => numbers.flat_map(f32::to_le_bytes).collect(),
        };
        let head = Tensor::from_bytes("head", dtype, vec![VOCAB, WIDTH], bytes).unwrap();
        let gain = Tensor::from_f32("gain", vec![WIDTH], &[1.0; WIDTH]);
        let mut graph = Graph::new("head");
        let mut x = graph.input("x", Role::Caller, DType::F32, [1, 1, WIDTH]).unwrap();
        if dressed {
            let gain = graph.weight("gain", DType::F32, &[WIDTH]).unwrap();
            x = graph.rms_norm(x, gain, 1e-6, Gain::Plain).unwrap();
        }
        let weight = graph.weight("head", dtype, &[VOCAB, WIDTH]).unwrap();
        let mut logits = graph.linear(x, weight).unwrap();
        if dressed {
            logits = graph.scale(logits, 0.5).unwrap();
        }
        graph.output("logits", logits);
        Self { dtype, dressed, graph, params: [("head".into(), head), ("gain".into(), gain)].into() }
    }

    fn plan(&self, target: &Target) -> Plan {
        let options = LowerOptions { chosen_from: Some("logits".into()), ..LowerOptions::default() };
        let plan = lower(&self.graph, &DimBinding::new(), target, &options, &Unplaced).unwrap();
        let keeps = plan.dispatches.iter().filter(|d| d.kernel.options.contains(&("MAXIMA", "yes".into()))).count();
        let shards = row_shards(self.dtype, &[VOCAB, WIDTH], target.max_binding).unwrap().len();
        assert_eq!((keeps, plan.output("logits.maxima").unwrap().ty.len()), (shards, 3), "{plan}");
        plan
    }

    fn logits(&self, x: &Value) -> Vec<f32> {
        let given = BTreeMap::from([("x".to_string(), Arc::new(x.clone()))]);
        let run = reference::run(&self.graph, &DimBinding::new(), &given, &self.params).unwrap();
        run.outputs[0].1.to_f32().unwrap().into_owned()
    }
}

fn storage(context: &GpuContext, bytes: &[u8]) -> Arc<Buffer> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let buffer = context.create_buffer("operand", bytes.len().next_multiple_of(16) as u64 + 16, usage).unwrap();
    context.write(&buffer, 0, bytes).unwrap();
    Arc::new(buffer)
}

/// The weights as a device with such bindings holds them.
fn resident(context: &GpuContext, params: &BTreeMap<String, Tensor>, target: &Target) -> HashMap<String, ResidentWeight> {
    let weight = |(name, tensor): (&String, &Tensor)| {
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_bytes(0, &mut bytes).unwrap();
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let row = bytes.len() / shape[0];
        let shard = |rows: std::ops::Range<usize>| {
            let part = &bytes[rows.start * row..rows.end * row];
            Shard { buffer: storage(context, part), offset: 0, bytes: part.len() as u64, rows }
        };
        let shards = row_shards(dtype, &shape, target.max_binding).unwrap().into_iter().map(shard).collect();
        (name.clone(), ResidentWeight { dtype, shape, shards })
    };
    params.iter().map(weight).collect()
}

/// A head on a device with both ways to choose.
struct Chooser {
    context: Arc<GpuContext>,
    x: Arc<Buffer>,
    plan: PreparedPlan,
    /// By the maxima, and by all logits.
    argmax: [PreparedPlan; 2],
}

impl Chooser {
    fn new(context: &Arc<GpuContext>, head: &Head, target: &Target) -> Self {
        let (weights, pipelines) = (resident(context, &head.params, target), PipelineCache::new(context));
        let (x, step) = (
            storage(context, &[0; WIDTH * 4]),
            context.create_buffer("step", size_of::<Step>() as u64, BufferUsages::UNIFORM).unwrap(),
        );
        let (step, scratch) = (Arc::new(step), &mut ScratchPool::default());
        let mut prepare = |plan: &Plan, inputs: HashMap<String, (Arc<Buffer>, u64)>| {
            let bound = Bindings { weights: &weights, inputs: &inputs, step: &step };
            PreparedPlan::new(&pipelines, plan, bound, scratch).unwrap()
        };
        let plan = prepare(&head.plan(target), [("x".into(), (x.clone(), 0))].into());
        let of = |output: &str, input: &str| {
            let (buffer, offset, _) = plan.output(output).unwrap();
            (input.to_string(), (buffer.clone(), offset))
        };
        let inputs = HashMap::from([of("logits", "logits"), of("logits.maxima", "maxima")]);
        // Scratch of their own, as a sampler has.
        let scratch = &mut ScratchPool::default();
        let argmax = [true, false].map(|maxima| {
            let bound = Bindings { weights: &weights, inputs: &inputs, step: &step };
            PreparedPlan::new(&pipelines, &sampling::argmax(1, VOCAB, maxima, target), bound, scratch).unwrap()
        });
        assert_eq!(argmax.each_ref().map(PreparedPlan::dispatch_count), [1, 2]);
        Self { context: context.clone(), x, plan, argmax }
    }

    /// The logits of x, and the token by either way.
    fn run(&self, x: &Value, reset: bool) -> (Vec<f32>, [u32; 2]) {
        self.context.write(&self.x, 0, bytemuck::cast_slice(&x.to_f32().unwrap())).unwrap();
        let submission = self.context.run("a head", |encoder| {
            if reset {
                self.plan.reset(encoder);
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.plan.record(&mut pass);
            self.argmax.iter().for_each(|plan| plan.record(&mut pass));
            Ok(())
        });
        self.context.wait(&submission.unwrap(), "a head").unwrap();
        let read = |plan: &PreparedPlan, name: &str| {
            let (buffer, offset, bytes) = plan.output(name).unwrap();
            let mut out = vec![0u8; bytes as usize];
            self.context.read_back(buffer, offset, &mut out).unwrap();
            out
        };
        let token = |plan: &PreparedPlan| bytemuck::pod_read_unaligned(&read(plan, "token"));
        (bytemuck::pod_collect_to_vec(&read(&self.plan, "logits")), self.argmax.each_ref().map(token))
    }
}

fn unit(column: usize, value: f32) -> Value {
    Value::f32([1, 1, WIDTH], (0..WIDTH).map(|k| if k == column { value } else { 0.0 }).collect())
}

/// This driver's own kernels, with and without 64-bit integers, and those of GPUs with subgroups and without.
fn targets(context: &GpuContext) -> Vec<(&'static str, Target)> {
    let own = context.capabilities().target();
    let narrow = Target { int64: false, ..own.clone() };
    let gpu = Target { software: false, ..narrow.clone() };
    let portable = Target { tier: Tier::Portable, ..gpu.clone() };
    vec![("own", own), ("narrow", narrow), ("gpu", gpu), ("portable", portable)]
}

#[test]
fn the_largest_of_the_slices_is_the_largest_of_all() {
    let context = open(&GpuOptions::default());
    let rows = rows();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for dressed in [false, true] {
            let head = Head::new(&rows, dtype, dressed);
            for (sort, target) in targets(&context) {
                // The dressed head lies in shards that begin at multiples of 64 and not of a slice.
                let most =
                    if head.dressed { 320 * WIDTH as u64 * dtype.scalar_bytes().unwrap() as u64 } else { target.max_binding };
                let chooser = Chooser::new(&context, &head, &Target { max_binding: most, ..target });
                for (column, row) in rows.iter().enumerate() {
                    let x = unit(column, 1.0);
                    let (logits, [by_maxima, by_all]) = chooser.run(&x, true);
                    let what = format!("{dtype} {sort} {}", row.name);
                    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                    let first = logits.iter().position(|x| *x == largest).unwrap() as u32;
                    assert_eq!((by_maxima, by_all, first), (row.token, row.token, row.token), "{what}");
                    let worst = logits.iter().zip(head.logits(&x)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst <= 1e-4, "{what}: {worst}");
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_no_numbers_has_no_likeliest_token() {
    let context = open(&GpuOptions::default());
    let rows = odd_rows();
    for row in &rows {
        // A product with such a number is one: a weight of its own for each row.
        let head = Head::new(std::slice::from_ref(row), DType::F32, false);
        for (sort, target) in targets(&context) {
            let chooser = Chooser::new(&context, &head, &target);
            let (_, tokens) = chooser.run(&Value::f32([1, 1, WIDTH], vec![1.0; WIDTH]), true);
            assert_eq!(tokens, [row.token; 2], "{sort} {}", row.name);
        }
    }
}

/// The maxima of an earlier run would hide those of the next.
#[test]
fn every_run_begins_with_no_maxima() {
    let context = open(&GpuOptions::default());
    let rows = rows();
    let head = Head::new(&rows, DType::BF16, false);
    let chooser = Chooser::new(&context, &head, &context.capabilities().target());
    assert_eq!(chooser.run(&unit(0, 1.0), true).1, [600; 2]);
    assert_eq!(chooser.run(&unit(1, 1.0), true).1, [300; 2]);
    assert_eq!(chooser.run(&unit(0, 1.0), true).1, [600; 2]);
    let [by_maxima, by_all] = chooser.run(&unit(1, 1.0), false).1;
    assert!(by_maxima != 300 && by_all == 300, "a run that is not reset sees the earlier maxima: {by_maxima}");
}
