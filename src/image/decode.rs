//! PNG, JPEG and WebP files.

#[cfg(test)]
mod tests;

use std::io::Cursor;

use image::{
    ColorType, DynamicImage, ImageDecoder, ImageFormat, Limits, RgbImage,
    codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};

use super::{Image, container};
use crate::error::ImageError;

/// Most bytes of a PNG file's colour profile and texts once they are unpacked.
const METADATA_BYTES: u64 = 64 << 20;

/// Most pixels of a WebP picture's side. Frames have no more, and the decoder counts bytes of a canvas in 32 bits.
const WEBP_SIDE: usize = 16_384;

/// What a file may ask for. It is checked before memory for pixels is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels of a row.
    pub max_width: usize,
    /// Most rows.
    pub max_height: usize,
    /// Most pixels.
    pub max_pixels: usize,
    /// Most bytes of the decoded pixels, in the file's own channels and depth. Decoders of progressive files take a few
    /// times as many.
    pub max_bytes: u64,
}

impl Default for ImageLimits {
    /// 16,384 pixels a side, 2²⁶ (67 million) in all, 512 MiB.
    fn default() -> Self {
        Self { max_width: 16_384, max_height: 16_384, max_pixels: 1 << 26, max_bytes: 512 << 20 }
    }
}

impl ImageLimits {
    fn check(&self, [width, height]: [usize; 2]) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width, height });
        }
        let pixels = width.saturating_mul(height);
        if width > self.max_width || height > self.max_height || pixels > self.max_pixels {
            let Self { max_width, max_height, max_pixels, .. } = *self;
            return Err(ImageError::TooLarge { width, height, max_width, max_height, max_pixels });
        }
        Ok(())
    }
}

impl Image {
    /// A PNG, JPEG or WebP file, turned upright as its EXIF orientation says.
    ///
    /// Grey is copied to three channels, and a palette is looked up. Of 16 bits the upper eight are taken, as PIL takes
    /// them. Transparent pictures are laid over white. Of a moving picture the first frame is taken.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] for another format, [`ImageError::Damaged`], [`ImageError::Empty`],
    /// [`ImageError::TooLarge`], [`ImageError::Memory`].
    pub fn from_bytes(bytes: &[u8], limits: &ImageLimits) -> Result<Self, ImageError> {
        match image::guess_format(bytes) {
            Ok(ImageFormat::Png) => png(bytes, limits),
            Ok(ImageFormat::Jpeg) => jpeg(bytes, limits),
            Ok(ImageFormat::WebP) => webp(bytes, limits),
            Ok(other) => Err(ImageError::Unknown { found: format!("the signature of {}", other.to_mime_type()) }),
            Err(_) => {
                let first = bytes.get(..8).unwrap_or(bytes);
                Err(ImageError::Unknown { found: format!("\"{}\" ({} bytes in all)", first.escape_ascii(), bytes.len()) })
            }
        }
    }
}

fn damaged(format: &'static str) -> impl Fn(image::ImageError) -> ImageError {
    move |error| ImageError::Damaged { format, problem: error.to_string() }
}

fn png(bytes: &[u8], limits: &ImageLimits) -> Result<Image, ImageError> {
    const FORMAT: &str = "PNG";
    let cut = || ImageError::Damaged { format: FORMAT, problem: "it ends within its header".into() };
    let [width, height] = container::png_size(bytes).ok_or_else(cut)?;
    limits.check([width, height])?;
    let mut allowed = Limits::no_limits();
    // At most four channels of two bytes.
    allowed.max_alloc = Some((width.saturating_mul(height).saturating_mul(8) as u64).saturating_add(METADATA_BYTES));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), allowed).map_err(damaged(FORMAT))?;
    read(decoder, FORMAT, limits)
}

fn jpeg(bytes: &[u8], limits: &ImageLimits) -> Result<Image, ImageError> {
    const FORMAT: &str = "JPEG";
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(damaged(FORMAT))?;
    if !container::jpeg_is_whole(bytes) {
        return Err(ImageError::Damaged { format: FORMAT, problem: "it ends before its end marker".into() });
    }
    read(decoder, FORMAT, limits)
}

fn webp(bytes: &[u8], limits: &ImageLimits) -> Result<Image, ImageError> {
    const FORMAT: &str = "WebP";
    let file = container::webp(bytes).map_err(|problem| ImageError::Damaged { format: FORMAT, problem })?;
    file.pictures.iter().try_for_each(|size| limits.check(*size))?;
    let decoder = WebPDecoder::new(Cursor::new(file.bytes)).map_err(damaged(FORMAT))?;
    let side = |most: usize| most.min(WEBP_SIDE);
    let limits = ImageLimits { max_width: side(limits.max_width), max_height: side(limits.max_height), ..*limits };
    read(decoder, FORMAT, &limits)
}

/// Decodes the pixels of a file whose header was read.
fn read(mut decoder: impl ImageDecoder, format: &'static str, limits: &ImageLimits) -> Result<Image, ImageError> {
    let (width, height) = decoder.dimensions();
    limits.check([width as usize, height as usize])?;
    let bytes = decoder.total_bytes();
    let max_bytes = limits.max_bytes;
    let length = usize::try_from(bytes).ok().filter(|_| bytes <= max_bytes);
    let length = length.ok_or(ImageError::Memory { bytes, max_bytes })?;
    let colour = decoder.color_type();
    let orientation = decoder.orientation().map_err(damaged(format))?;
    let mut pixels = vec![0; length];
    decoder.read_image(&mut pixels).map_err(damaged(format))?;
    let image = to_rgb([width as usize, height as usize], colour, pixels, format)?;
    upright(image, [width, height], orientation)
}

/// Pixels of any channels and depth as a picture.
fn to_rgb([width, height]: [usize; 2], colour: ColorType, pixels: Vec<u8>, format: &'static str) -> Result<Image, ImageError> {
    let channels = colour.channel_count();
    let pixels = match colour.bytes_per_pixel() / channels.max(1) {
        1 => pixels,
        2 => pixels.as_chunks::<2>().0.iter().map(|value| (u16::from_ne_bytes(*value) >> 8) as u8).collect(),
        _ => return Err(ImageError::Damaged { format, problem: format!("pixels of {colour:?} are not read") }),
    };
    match channels {
        1 => Image::from_rgb8(width, height, pixels.iter().flat_map(|grey| [*grey; 3]).collect::<Vec<u8>>()),
        2 => {
            let (greys, _) = pixels.as_chunks::<2>();
            let rgba: Vec<u8> = greys.iter().flat_map(|[grey, alpha]| [*grey, *grey, *grey, *alpha]).collect();
            Image::from_rgba8(width, height, &rgba)
        }
        3 => Image::from_rgb8(width, height, pixels),
        _ => Image::from_rgba8(width, height, &pixels),
    }
}

/// Turns and mirrors a picture as its orientation says.
fn upright(image: Image, [width, height]: [u32; 2], orientation: Orientation) -> Result<Image, ImageError> {
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let Some(pixels) = RgbImage::from_raw(width, height, image.rgb().to_vec()) else { return Ok(image) };
    let mut turned = DynamicImage::ImageRgb8(pixels);
    turned.apply_orientation(orientation);
    let [width, height] = [turned.width() as usize, turned.height() as usize];
    Image::from_rgb8(width, height, turned.into_rgb8().into_raw())
}
