//! The application's own rendering: two pipelines, one font, one uniform.

use anyhow::{Result, bail};
use font8x8::legacy::BASIC_LEGACY;
use gemmaflow::runtime::{OwnDevice, wanted_features, wanted_limits, wgpu};

use crate::page::Cell;

/// Format of the picture that is read back.
pub const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;
/// Most glyphs of a frame.
const GLYPHS: usize = 4096;
/// Bytes of the uniform.
const FRAME: u64 = 16;

/// Opens a device with all that the model wants; rendering needs nothing beyond it.
pub fn open(instance: &wgpu::Instance, surface: Option<&wgpu::Surface<'_>>) -> Result<OwnDevice> {
    let wanted = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        compatible_surface: surface,
        ..Default::default()
    };
    let adapter = pollster::block_on(instance.request_adapter(&wanted))?;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("the application's"),
        required_features: wanted_features(&adapter),
        required_limits: wanted_limits(&adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    Ok(OwnDevice { adapter, device, queue })
}

/// What draws frames of one size.
pub struct Picture {
    own: OwnDevice,
    size: [u32; 2],
    format: wgpu::TextureFormat,
    frame: wgpu::Buffer,
    glyphs: wgpu::Buffer,
    group: wgpu::BindGroup,
    scene: wgpu::RenderPipeline,
    text: wgpu::RenderPipeline,
}

impl Picture {
    pub fn new(own: &OwnDevice, format: wgpu::TextureFormat, size: [u32; 2]) -> Self {
        let device = &own.device;
        let buffer = |size, usage| {
            let usage = usage | wgpu::BufferUsages::COPY_DST;
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let frame = buffer(FRAME, wgpu::BufferUsages::UNIFORM);
        let glyphs = buffer((GLYPHS * size_of::<Cell>()) as u64, wgpu::BufferUsages::VERTEX);
        let font = font(own);
        let layout = layout(device);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: frame.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: wgpu::BindingResource::TextureView(&font) },
            ],
        });
        let source = wgpu::ShaderSource::Wgsl(include_str!("picture.wgsl").into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("picture"), source });
        let make = |entries, buffers: &[_]| pipeline(device, &module, &layout, format, entries, buffers);
        let cell = wgpu::VertexBufferLayout {
            array_stride: size_of::<Cell>() as u64,
            step_mode: wgpu::VertexStepMode::Instance,
            attributes: &wgpu::vertex_attr_array![0 => Uint32x4],
        };
        let (scene, text) = (make(["whole", "scene"], &[]), make(["glyph", "ink"], &[Some(cell)]));
        Self { own: own.clone(), size, format, frame, glyphs, group, scene, text }
    }

    /// Draws the frame of the moment `time`, in seconds, to `target`; with cells also the panel that they stand on.
    pub fn draw(&self, target: &wgpu::TextureView, time: f32, cells: &[Cell]) -> wgpu::SubmissionIndex {
        let OwnDevice { device, queue, .. } = &self.own;
        let cells = &cells[..cells.len().min(GLYPHS)];
        let panel = if cells.is_empty() { 0.0 } else { 1.0 };
        queue.write_buffer(&self.frame, 0, bytemuck::bytes_of(&[self.size[0] as f32, self.size[1] as f32, time, panel]));
        queue.write_buffer(&self.glyphs, 0, bytemuck::cast_slice(cells));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
        let attachment = wgpu::RenderPassColorAttachment {
            view: target,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLACK), store: wgpu::StoreOp::Store },
        };
        let descriptor = wgpu::RenderPassDescriptor { color_attachments: &[Some(attachment)], ..Default::default() };
        let mut pass = encoder.begin_render_pass(&descriptor);
        pass.set_bind_group(0, &self.group, &[]);
        pass.set_pipeline(&self.scene);
        pass.draw(0..3, 0..1);
        pass.set_pipeline(&self.text);
        pass.set_vertex_buffer(0, self.glyphs.slice(..));
        pass.draw(0..4, 0..cells.len() as u32);
        drop(pass);
        queue.submit([encoder.finish()])
    }

    /// A texture to draw to and to read back.
    pub fn canvas(&self) -> wgpu::Texture {
        self.own.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("canvas"),
            size: self.extent(),
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        })
    }

    fn extent(&self) -> wgpu::Extent3d {
        wgpu::Extent3d { width: self.size[0], height: self.size[1], depth_or_array_layers: 1 }
    }

    /// Blocks until a frame is done.
    pub fn wait(&self, frame: wgpu::SubmissionIndex) -> Result<()> {
        self.own.device.poll(wgpu::PollType::Wait { submission_index: Some(frame), timeout: None })?;
        Ok(())
    }

    /// The pixels of a canvas, red, green and blue, row by row.
    pub fn read(&self, canvas: &wgpu::Texture) -> Result<Vec<u8>> {
        let OwnDevice { device, queue, .. } = &self.own;
        let pitch = (self.size[0] * 4).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("pixels"),
            size: u64::from(pitch * self.size[1]),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(pitch), rows_per_image: None };
        let to = wgpu::TexelCopyBufferInfo { buffer: &staging, layout };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_texture_to_buffer(canvas.as_image_copy(), to, self.extent());
        let done = queue.submit([encoder.finish()]);
        let (sender, mapped) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The other end is there until it has heard.
            sender.send(result).ok();
        });
        self.wait(done)?;
        let Ok(Ok(())) = mapped.recv() else { bail!("the picture could not be read back") };
        let bytes = staging.get_mapped_range(..)?;
        let row =
            |row: &[u8]| row[..self.size[0] as usize * 4].chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect::<Vec<_>>();
        Ok(bytes.chunks_exact(pitch as usize).flat_map(row).collect())
    }
}

fn layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let entry = |binding, visibility, ty| wgpu::BindGroupLayoutEntry { binding, visibility, ty, count: None };
    let uniform =
        wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Uniform, has_dynamic_offset: false, min_binding_size: None };
    let texture = wgpu::BindingType::Texture {
        sample_type: wgpu::TextureSampleType::Float { filterable: false },
        view_dimension: wgpu::TextureViewDimension::D2,
        multisampled: false,
    };
    let entries = [entry(0, wgpu::ShaderStages::VERTEX_FRAGMENT, uniform), entry(1, wgpu::ShaderStages::FRAGMENT, texture)];
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("picture"), entries: &entries })
}

fn pipeline(
    device: &wgpu::Device,
    module: &wgpu::ShaderModule,
    layout: &wgpu::BindGroupLayout,
    format: wgpu::TextureFormat,
    [vertex, fragment]: [&str; 2],
    buffers: &[Option<wgpu::VertexBufferLayout>],
) -> wgpu::RenderPipeline {
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(layout)],
        ..Default::default()
    });
    let target =
        wgpu::ColorTargetState { format, blend: Some(wgpu::BlendState::ALPHA_BLENDING), write_mask: wgpu::ColorWrites::ALL };
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some(fragment),
        layout: Some(&layout),
        vertex: wgpu::VertexState { module, entry_point: Some(vertex), compilation_options: Default::default(), buffers },
        primitive: wgpu::PrimitiveState { topology: wgpu::PrimitiveTopology::TriangleStrip, ..Default::default() },
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module,
            entry_point: Some(fragment),
            compilation_options: Default::default(),
            targets: &[Some(target)],
        }),
        multiview_mask: None,
        cache: None,
    })
}

/// The glyphs of ASCII in one row of texels.
fn font(own: &OwnDevice) -> wgpu::TextureView {
    let (width, height) = (BASIC_LEGACY.len() as u32 * 8, 8);
    let mut texels = vec![0u8; (width * height) as usize];
    for (code, rows) in BASIC_LEGACY.iter().enumerate() {
        for (y, row) in rows.iter().enumerate() {
            for x in (0..8).filter(|x| row >> x & 1 == 1) {
                texels[y * width as usize + code * 8 + x] = 255;
            }
        }
    }
    let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
    let texture = own.device.create_texture(&wgpu::TextureDescriptor {
        label: Some("font"),
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::R8Unorm,
        usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    });
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width), rows_per_image: None };
    own.queue.write_texture(texture.as_image_copy(), &texels, layout, size);
    texture.create_view(&wgpu::TextureViewDescriptor::default())
}
