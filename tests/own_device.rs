//! The model on a device that the application made and goes on using.

use std::{path::Path, sync::Arc};

use gemmaflow::{
    Error,
    error::DeviceError,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, SampleOpts},
    runtime::{Device, OwnDevice, required_limits, wanted_features, wanted_limits, wgpu},
};

/// What transformers writes after "ROMEO:" (assets/demo/expected.json).
const EXPECTED: [u32; 8] = [282, 459, 391, 415, 382, 358, 268, 303];

fn make(limits: impl Fn(&wgpu::Adapter) -> wgpu::Limits) -> OwnDevice {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let adapter = adapter.expect("a GPU adapter (lavapipe will do)");
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("the application's"),
        required_features: wanted_features(&adapter),
        required_limits: limits(&adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    OwnDevice { adapter, device, queue }
}

fn generator(own: &OwnDevice) -> gemmaflow::Result<GemmaGenerator> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    GemmaGenerator::from_path(GemmaConfig::from_file(folder)?, folder, Device::Own(own.clone()))
}

/// The application's own work: doubles every number of a buffer.
struct Doubler {
    own: OwnDevice,
    buffer: wgpu::Buffer,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl Doubler {
    fn new(own: &OwnDevice, numbers: &[u32]) -> Self {
        let source = "@group(0) @binding(0) var<storage, read_write> data: array<u32>;
            @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) { data[id.x] *= 2u; }";
        let device = &own.device;
        let module = device
            .create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(source.into()) });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: numbers.len() as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        own.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(numbers));
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        });
        Self { own: own.clone(), buffer, pipeline, group }
    }

    fn run(&self) {
        let mut encoder = self.own.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups((self.buffer.size() / 4) as u32, 1, 1);
        drop(pass);
        self.own.queue.submit([encoder.finish()]);
    }

    fn read(&self) -> Vec<u32> {
        let staging = self.own.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: self.buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.own.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &staging, 0, self.buffer.size());
        self.own.queue.submit([encoder.finish()]);
        let mapped = Arc::new(std::sync::OnceLock::new());
        let seen = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            seen.set(result.is_ok()).ok();
        });
        self.own.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
        assert_eq!(mapped.get(), Some(&true));
        bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).expect("mapped"))
    }
}

#[test]
fn model_and_application_share_a_device() {
    let own = make(wanted_limits);
    let mut generator = generator(&own).unwrap();
    let doubler = Doubler::new(&own, &[1, 3, 5, 7]);
    generator.prefill([2, 910, 262]).unwrap();
    let mut found = Vec::new();
    for _ in EXPECTED {
        doubler.run();
        found.push(generator.step_cached(&SampleOpts::greedy()).unwrap());
    }
    assert_eq!(found, EXPECTED);
    assert_eq!(doubler.read(), [1, 3, 5, 7].map(|n| n << EXPECTED.len()));
}

#[test]
fn a_lost_device_is_an_error_and_the_history_stays() {
    let own = make(wanted_limits);
    let mut generator = generator(&own).unwrap();
    generator.prefill([2, 910, 262]).unwrap();
    generator.step_cached(&SampleOpts::greedy()).unwrap();
    own.device.destroy();
    let error = generator.step_cached(&SampleOpts::greedy()).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Lost(_))), "{error}");
    assert_eq!(generator.tokens(), [2, 910, 262, EXPECTED[0]]);
}

#[test]
fn a_device_with_too_little_is_refused_by_name() {
    let own = make(|_| wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..required_limits() });
    let error = generator(&own).unwrap_err();
    let Error::Device(DeviceError::Limit { name, available, needed, .. }) = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), *available), ("max_storage_buffers_per_shader_stage", 4));
    assert!(*needed > 4);
}
