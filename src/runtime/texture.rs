//! Textures that an application draws to, read as bytes.

use std::sync::Arc;

use super::context::GpuContext;
use crate::{Error, Result, platform};

/// The pixels of a texture, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TexturePixels {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue and opacity of each pixel, `width · height · 4` bytes, row by row from the top.
    pub rgba: Vec<u8>,
}

impl GpuContext {
    /// The pixels of a texture of this device, after all that was submitted before: the bytes as they lie in its first
    /// mip level, which are those of a picture where the texture is sRGB or was drawn to without conversion. One copy
    /// and one read-back.
    ///
    /// # Errors
    /// [`Error::Input`] for a texture that is not two-dimensional with one layer and one sample, not of the format
    /// `Rgba8Unorm` or `Bgra8Unorm`, sRGB or not, or made without the usage `COPY_SRC`;
    /// [`DeviceError::Driver`](crate::error::DeviceError::Driver) for one of another device, and as
    /// [`GpuContext::read_back`].
    pub fn read_texture(self: &Arc<Self>, texture: &wgpu::Texture) -> Result<TexturePixels> {
        platform::wait("reading a texture", self.read_texture_async(texture))
    }

    /// [`read_texture`](Self::read_texture) without blocking the calling thread; needs no particular executor.
    ///
    /// # Errors
    /// As [`read_texture`](Self::read_texture).
    pub async fn read_texture_async(self: &Arc<Self>, texture: &wgpu::Texture) -> Result<TexturePixels> {
        let is_bgra = check(texture)?;
        let size = texture.size();
        let row = size.width * 4;
        let pitch = row.next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let bytes = u64::from(pitch) * u64::from(size.height);
        let buffer = self.create_buffer("texture", bytes, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC)?;
        self.run("reading a texture", |encoder| {
            let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(pitch), rows_per_image: None };
            let to = wgpu::TexelCopyBufferInfo { buffer: buffer.raw(), layout };
            encoder.copy_texture_to_buffer(texture.as_image_copy(), to, size);
            Ok(())
        })?;
        let mut padded = vec![0; bytes as usize];
        self.read_back_async(&buffer, 0, &mut padded).await?;
        let mut rgba: Vec<u8> = padded.chunks_exact(pitch as usize).flat_map(|line| &line[..row as usize]).copied().collect();
        if is_bgra {
            rgba.as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
        }
        Ok(TexturePixels { width: size.width as usize, height: size.height as usize, rgba })
    }
}

/// Checks that a texture can be read. Returns `true` if blue comes first.
fn check(texture: &wgpu::Texture) -> Result<bool> {
    let wrong = |problem: String| Err(Error::Input { name: "texture".into(), problem });
    let size = texture.size();
    let is_picture = texture.dimension() == wgpu::TextureDimension::D2 && size.depth_or_array_layers == 1;
    if !is_picture || texture.sample_count() != 1 {
        let layers = size.depth_or_array_layers;
        let found = format!("{:?} with {layers} layers and {} samples", texture.dimension(), texture.sample_count());
        return wrong(format!("is {found}, expected D2 with one of each; resolve or copy it to such a texture"));
    }
    if !texture.usage().contains(wgpu::TextureUsages::COPY_SRC) {
        return wrong("was made without the usage COPY_SRC; add it".into());
    }
    match texture.format() {
        wgpu::TextureFormat::Rgba8Unorm | wgpu::TextureFormat::Rgba8UnormSrgb => Ok(false),
        wgpu::TextureFormat::Bgra8Unorm | wgpu::TextureFormat::Bgra8UnormSrgb => Ok(true),
        other => wrong(format!("has the format {other:?}, expected Rgba8Unorm or Bgra8Unorm, sRGB or not; draw it to one")),
    }
}
