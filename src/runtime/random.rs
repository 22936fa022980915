//! Random weights made on the device.

use super::{context::GpuContext, resident::Shard};
use crate::{Error, Result, ir::DType};

const SHADER: &str = include_str!("../../shaders/fill_random.wgsl");
/// The shader's workgroup size.
const INVOCATIONS: u64 = 256;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    seed: u32,
    scale: f32,
    first: u32,
    elements: u32,
    format: u32,
    padding: [u32; 3],
}

/// The compiled fill shader.
#[derive(Debug)]
pub(crate) struct RandomFill {
    pipeline: wgpu::ComputePipeline,
}

impl RandomFill {
    pub fn new(context: &GpuContext) -> Result<Self> {
        Ok(Self { pipeline: context.compile_plain("fill_random.wgsl", SHADER)? })
    }

    /// Fills a shard whose rows have `row_elements` elements; values depend on the element's index in the whole weight.
    pub fn fill(
        &self,
        context: &GpuContext,
        shard: &Shard,
        row_elements: usize,
        dtype: DType,
        seed: u32,
        scale: f32,
    ) -> Result<()> {
        let params = Params {
            seed,
            scale,
            // Above 2³² elements the sequence repeats, which a measurement does not mind.
            first: (shard.rows.start as u64).wrapping_mul(row_elements as u64) as u32,
            // A binding is below 2³² bytes, so its elements are below 2³¹.
            elements: (shard.rows.len() * row_elements) as u32,
            format: match dtype {
                DType::F16 => 1,
                DType::BF16 => 2,
                _ => 0,
            },
            padding: [0; 3],
        };
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("random fill", size_of::<Params>() as u64, uniform)?;
        context.write(&buffer, 0, bytemuck::bytes_of(&params))?;
        let group = context.plain_bind_group(
            &self.pipeline,
            &[buffer.raw().as_entire_binding(), wgpu::BindingResource::Buffer(shard.binding())],
        )?;
        let (x, y) = context.spread(shard.bytes.div_ceil(4).div_ceil(INVOCATIONS))?;
        context.run("random fill", |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(x, y, 1);
            Ok(())
        })?;
        Ok(())
    }
}

impl GpuContext {
    /// Compiles a self-contained shader with one entry point and the layout that follows from it.
    pub(crate) fn compile_plain(&self, shader: &'static str, source: &str) -> Result<wgpu::ComputePipeline> {
        let pipeline = self.scoped(shader, || {
            let source = wgpu::ShaderSource::Wgsl(source.into());
            let module = self.device().create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(shader), source });
            self.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(shader),
                layout: None,
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            })
        })?;
        self.counters().pipeline_created();
        Ok(pipeline)
    }

    /// Binds `resources` to bindings 0, 1, … of group 0.
    pub(crate) fn plain_bind_group(
        &self,
        pipeline: &wgpu::ComputePipeline,
        resources: &[wgpu::BindingResource<'_>],
    ) -> Result<wgpu::BindGroup> {
        let entry =
            |(index, resource): (usize, &_)| wgpu::BindGroupEntry { binding: index as u32, resource: Clone::clone(resource) };
        let entries: Vec<_> = resources.iter().enumerate().map(entry).collect();
        let group = self.scoped("binding", || {
            let layout = pipeline.get_bind_group_layout(0);
            self.device().create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        })?;
        self.counters().bind_group_created();
        Ok(group)
    }

    /// Spreads workgroups over x and y; the product may exceed `groups`, so shaders guard.
    pub(crate) fn spread(&self, groups: u64) -> Result<(u32, u32)> {
        let most = u64::from(self.capabilities().max_workgroups);
        let x = groups.min(most).max(1);
        let y = groups.div_ceil(x);
        if y <= most { Ok((x as u32, y as u32)) } else { Err(Error::Unsupported(format!("a dispatch of {groups} workgroups"))) }
    }
}
