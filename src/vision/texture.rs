//! Pictures that an application has drawn.

use crate::{Result, error::PromptError, image::Image, runtime::TexturePixels};

impl TryFrom<TexturePixels> for Image {
    type Error = crate::Error;

    /// The picture in a texture: `Image::try_from(gpu.read_texture(&texture)?)`. Opacity is as in
    /// [`from_rgba8`](Image::from_rgba8).
    fn try_from(pixels: TexturePixels) -> Result<Self> {
        let TexturePixels { width, height, rgba } = pixels;
        Ok(Image::from_rgba8(width, height, &rgba).map_err(PromptError::from)?)
    }
}
