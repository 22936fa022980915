//! PNG, JPEG and WebP.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::Image;
use crate::error::ImageError;

/// What a file may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels of a side.
    pub max_side: usize,
    /// Most pixels.
    pub max_pixels: usize,
    /// Most bytes that decoding may take, the picture among them.
    pub max_bytes: u64,
}

impl Default for ImageLimits {
    /// 16,384 pixels a side, 64 million in all, 1 GiB.
    fn default() -> Self {
        Self { max_side: 16_384, max_pixels: 64_000_000, max_bytes: 1 << 30 }
    }
}

impl Image {
    /// A PNG, JPEG or WebP file, turned upright as its EXIF orientation says. Transparent pictures are laid over white;
    /// of a moving one the first frame is taken.
    ///
    /// The size in the header is checked before pixels are decoded.
    ///
    /// # Errors
    /// [`ImageError::Format`] for another format and for a damaged file, [`ImageError::TooLarge`].
    pub fn from_bytes(bytes: &[u8], limits: &ImageLimits) -> Result<Self, ImageError> {
        let format = |error: image::ImageError| match error {
            image::ImageError::Limits(_) => ImageError::Format(format!("it needs more than {} bytes", limits.max_bytes)),
            error => ImageError::Format(error.to_string()),
        };
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| ImageError::Format(e.to_string()))?;
        let mut allowed = Limits::default();
        allowed.max_alloc = Some(limits.max_bytes);
        reader.limits(allowed);
        let mut decoder = reader.into_decoder().map_err(format)?;
        let (width, height) = decoder.dimensions();
        let [width, height] = [width as usize, height as usize];
        let most = limits.max_side;
        if width > most || height > most || width.saturating_mul(height) > limits.max_pixels {
            return Err(ImageError::TooLarge { width, height, max_side: most, max_pixels: limits.max_pixels });
        }
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width, height });
        }
        let orientation = decoder.orientation().map_err(format)?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(format)?;
        picture.apply_orientation(orientation);
        let [width, height] = [picture.width() as usize, picture.height() as usize];
        if picture.color().has_alpha() {
            Self::from_rgba8(width, height, &picture.into_rgba8())
        } else {
            Self::from_rgb8(width, height, picture.into_rgb8().into_raw())
        }
    }
}
