//! Generated regions on a real driver against the meaning of their ops.

use std::{collections::BTreeMap, sync::Arc};

use gemmaflow::{
    internals::{
        ir::{
            Case, LowerOptions,
            kernel::{Dispatch, Operand, Target},
        },
        lower::{Unplaced, lower},
        plan::Plan,
    },
    ir::{
        BinaryFn, DType, Data, DimBinding, Graph, NodeId, Op, Value,
        ops::{Broadcast, Cast, Concat, Lowering, Permute, Role, Rope, Slice},
    },
    runtime::{
        Buffer, Device, GpuContext, GpuOptions, Opened,
        wgpu::{self, BufferUsages},
    },
};

/// The least kernel that calls a region.
const SKELETON: &str = "override TOTAL: u32;
@group(0) @binding(0) var<storage, read_write> out: array<OUT>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) g: vec3<u32>) {
    if g.x < TOTAL { out[g.x] = element(g.x); }
}
";

struct Regions {
    gpu: Arc<GpuContext>,
}

impl Regions {
    fn open() -> Self {
        match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
            Opened::Gpu(gpu) => Self { gpu },
            Opened::Reference => panic!("Device::Gpu opened the reference"),
        }
    }

    fn buffer(&self, bytes: u64, content: &[u8]) -> Buffer {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let buffer = self.gpu.create_buffer("operand", bytes.max(content.len() as u64).next_multiple_of(4), usage).unwrap();
        let mut padded = content.to_vec();
        padded.resize(content.len().next_multiple_of(4), 0);
        self.gpu.write(&buffer, 0, &padded).unwrap();
        buffer
    }

    /// Runs a plan of regions and gives the bytes of its first output.
    fn run(&self, plan: &Plan, given: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
        let mut slots: Vec<Buffer> = plan.slots.iter().map(|slot| self.buffer(slot.bytes, &[0; 4])).collect();
        for (name, bytes) in given {
            if let Some(slot) = plan.input(name) {
                slots[slot.0] = self.buffer(plan.slots[slot.0].bytes, bytes);
            }
        }
        let weights: BTreeMap<&str, Buffer> =
            plan.weights().into_iter().map(|name| (name, self.buffer(0, &given[name]))).collect();
        for dispatch in &plan.dispatches {
            self.dispatch(dispatch, &slots, &weights);
        }
        let output = &plan.outputs[0];
        let mut bytes = vec![0; output.ty.len() * 4];
        self.gpu.read_back(&slots[output.slot.0], 0, &mut bytes).unwrap();
        bytes
    }

    fn dispatch(&self, dispatch: &Dispatch, slots: &[Buffer], weights: &BTreeMap<&str, Buffer>) {
        let kernel = &dispatch.kernel;
        assert_eq!(kernel.shader, "region");
        let text = SKELETON.replace("OUT", &kernel.options[0].1) + &kernel.hole;
        let device = self.gpu.device();
        let module = device
            .create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions { constants: &kernel.overrides, ..Default::default() },
            cache: None,
        });
        let entry = |(binding, operand): &(u32, Operand)| {
            let buffer = match operand {
                Operand::Slot(slot, 0) => &slots[slot.0],
                Operand::Weight(name, 0) => &weights[name.as_str()],
                other => panic!("a region binds {other:?}"),
            };
            wgpu::BindGroupEntry { binding: *binding, resource: buffer.raw().as_entire_binding() }
        };
        let entries: Vec<_> = dispatch.bindings.iter().map(entry).collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        let record = |encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = dispatch.workgroups;
            pass.dispatch_workgroups(x, y, z);
            Ok(())
        };
        self.gpu.run("region", record).unwrap();
    }

    /// Lowers, runs and compares with the evaluation of every node on the host.
    fn compare(&self, graph: &Graph, operands: &BTreeMap<String, Value>, what: &str) -> Plan {
        let plan = lower(graph, &DimBinding::new(), &Target::portable(), &LowerOptions::default(), &Unplaced).unwrap();
        let given = operands.iter().map(|(name, value)| (name.clone(), bytes(value))).collect();
        let found = self.run(&plan, &given);
        let expected = evaluate(graph, operands);
        let words = found.as_chunks::<4>().0.iter();
        let found: Vec<f32> = match expected.dtype() {
            DType::I32 => words.map(|w| i32::from_le_bytes(*w) as f32).collect(),
            DType::U32 => words.map(|w| u32::from_le_bytes(*w) as f32).collect(),
            _ => words.map(|w| f32::from_le_bytes(*w)).collect(),
        };
        let expected = expected.to_f32().unwrap();
        assert_eq!(found.len(), expected.len(), "{what}");
        for (i, (a, b)) in found.iter().zip(expected.iter()).enumerate() {
            assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "{what}: element {i} is {a}, expected {b}\n{plan}");
        }
        plan
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    match &value.data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::Stored(tensor) => {
            let mut bytes = vec![0; tensor.byte_len()];
            tensor.read_bytes(0, &mut bytes).unwrap();
            bytes
        }
    }
}

/// The value of the first output.
fn evaluate(graph: &Graph, operands: &BTreeMap<String, Value>) -> Value {
    let types = graph.fixed_types(&DimBinding::new()).unwrap();
    let mut values: Vec<Value> = Vec::new();
    for (node, ty) in graph.nodes().iter().zip(&types) {
        let value = match &node.op {
            Op::Input(input) => operands[&input.name].clone(),
            Op::Weight(weight) => operands[&weight.name].clone(),
            op => {
                let inputs: Vec<&Value> = node.inputs.iter().map(|x| &values[x.index()]).collect();
                Value { shape: ty.shape.clone(), data: op.eval(&inputs, ty).unwrap() }
            }
        };
        values.push(value);
    }
    values.swap_remove(graph.outputs()[0].1.index())
}

/// Operands as inputs and weights of a new graph.
fn sources(name: &str, values: &[Value]) -> (Graph, Vec<NodeId>, BTreeMap<String, Value>) {
    let mut g = Graph::new(name);
    let mut ids = Vec::new();
    let mut operands = BTreeMap::new();
    for (i, value) in values.iter().enumerate() {
        let key = format!("x{i}");
        ids.push(match &value.data {
            Data::Stored(tensor) => g.weight(key.clone(), tensor.dtype(), &value.shape).unwrap(),
            _ => g.input(key.clone(), Role::Caller, value.dtype(), &value.shape[..]).unwrap(),
        });
        operands.insert(key, value.clone());
    }
    (g, ids, operands)
}

#[test]
fn every_region_op_agrees_with_its_meaning() {
    let regions = Regions::open();
    let mut ran = 0;
    for op in Op::examples().iter().filter(|op| op.lowering() == Lowering::Region) {
        for case in op.cases() {
            let (mut g, ids, operands) = sources(&case.name, &case.inputs);
            let y = g.push(case.op.clone(), &ids).unwrap();
            g.output("y", y);
            regions.compare(&g, &operands, &format!("{} {}", op.name(), case.name));
            ran += 1;
        }
    }
    assert!(ran > 20, "{ran} cases");
}

#[test]
fn moving_ops_compose() {
    let regions = Regions::open();
    let x = Case::values(&[2, 3, 4, 5], 1, 3.0);
    let stored = Case::weight(&[2, 5], 2, 1.0, DType::BF16);
    let integers = Value::i32([2, 1, 2], vec![4, -5, 6, -7]);
    for axis in 0..4 {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1], [0, 2, 3, 1]] {
            let (mut g, ids, operands) = sources("moves", &[x.clone(), stored.clone(), integers.clone()]);
            let a = g.push(Permute { order: order.to_vec() }, &[ids[0]]).unwrap();
            let size = g.shape(a).0[axis].fixed().unwrap();
            let tail = g.push(Slice { axis, start: 1, len: (size - 1).into() }, &[a]).unwrap();
            let joined = g.push(Concat { axis }, &[a, tail]).unwrap();
            let joined = g.push(Concat { axis }, &[tail, joined]).unwrap();
            let total: usize = g.shape(joined).fixed().unwrap().iter().product();
            let flat = g.reshape(joined, [total / 4, 2, 2]).unwrap();
            let part = g.push(Slice { axis: 1, start: 1, len: 2.into() }, &[ids[1]]).unwrap();
            let part = g.push(Broadcast { shape: [total / 4, 2, 2].into() }, &[part]).unwrap();
            let product = g.mul(flat, part).unwrap();
            let numbers = g.push(Cast, &[ids[2]]).unwrap();
            let numbers = g.push(Permute { order: vec![1, 2, 0] }, &[numbers]).unwrap();
            let sum = g.add(numbers, product).unwrap();
            let y = g.push(Permute { order: vec![2, 0, 1] }, &[sum]).unwrap();
            g.output("y", y);
            let plan = regions.compare(&g, &operands, &format!("axis {axis}, order {order:?}"));
            assert_eq!(plan.dispatches.len(), 1, "{plan}");
        }
    }
}

#[test]
fn a_split_region_and_shared_values_agree() {
    let regions = Regions::open();
    let values: Vec<Value> = (0..19).map(|i| Case::values(&[3, 7], i + 1, 2.0)).collect();
    let (mut g, ids, operands) = sources("wide", &values);
    let mut y = ids[0];
    for (i, x) in ids.iter().enumerate().skip(1) {
        let turned = g.push(Permute { order: vec![1, 0] }, &[*x]).unwrap();
        let back = g.reshape(turned, [3usize, 7]).unwrap();
        let half = g.scale(y, 0.5).unwrap();
        let capped = if i % 5 == 0 { g.softcap(half, 2.0).unwrap() } else { half };
        let twice = g.binary(BinaryFn::Max, capped, y).unwrap();
        y = g.binary(BinaryFn::Sub, twice, back).unwrap();
    }
    g.output("y", y);
    regions.compare(&g, &operands, "wide");
}

#[test]
fn rotation_from_its_definition_agrees() {
    let regions = Regions::open();
    for case in Op::from(Rope::default()).cases() {
        let (mut g, ids, operands) = sources(&case.name, &case.inputs);
        let y = case.op.decompose(&mut g, &ids).unwrap().unwrap();
        g.output("y", y);
        let plan = regions.compare(&g, &operands, &case.name);
        assert_eq!(plan.dispatches.len(), 1, "{plan}");
    }
}
