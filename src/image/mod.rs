//! Pictures: from files or memory to the patches that a vision tower takes, to the bit as transformers makes them.

mod container;
mod decode;
mod patches;
mod processor;
mod resize;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use decode::ImageLimits;
pub use patches::Patches;
pub use processor::{ImageProcessor, PanAndScan, PatchLayout, TargetSize};
pub use resize::Filter;
use sha2::{Digest, Sha256};

use crate::error::ImageError;

/// A picture of 8-bit red, green and blue. A clone shares the pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Arc<[u8]>,
}

impl Image {
    /// A picture of `width · height · 3` bytes: red, green, blue of each pixel, row by row from the top.
    ///
    /// # Errors
    /// [`ImageError::Empty`], [`ImageError::Length`].
    pub fn from_rgb8(width: usize, height: usize, pixels: impl Into<Arc<[u8]>>) -> Result<Self, ImageError> {
        let rgb = pixels.into();
        check_length(width, height, 3, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// A picture of `width · height · 4` bytes, the fourth of a pixel its opacity. It is laid over white, in integers as
    /// PIL's `alpha_composite` does it.
    ///
    /// # Errors
    /// As [`from_rgb8`](Self::from_rgb8).
    pub fn from_rgba8(width: usize, height: usize, pixels: &[u8]) -> Result<Self, ImageError> {
        check_length(width, height, 4, pixels.len())?;
        let (pixels, _) = pixels.as_chunks::<4>();
        let rgb: Vec<u8> = pixels.iter().flat_map(|[r, g, b, a]| [*r, *g, *b].map(|value| over_white(value, *a))).collect();
        Self::from_rgb8(width, height, rgb)
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, red, green and blue of each pixel, row by row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// SHA-256 of size and pixels: two pictures with the same are the same.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        [self.width, self.height].iter().for_each(|size| hash.update((*size as u64).to_le_bytes()));
        hash.update(&self.rgb);
        hash.finalize().into()
    }

    /// The part of `size` whose corner is at `[x, y]`; `None` where it is empty or not all within the picture.
    pub(crate) fn crop(&self, [x, y]: [usize; 2], [width, height]: [usize; 2]) -> Option<Self> {
        if width == 0 || height == 0 || x + width > self.width || y + height > self.height {
            return None;
        }
        let rows = self.rgb.chunks_exact(self.width * 3).skip(y).take(height);
        let rgb: Vec<u8> = rows.flat_map(|row| &row[x * 3..(x + width) * 3]).copied().collect();
        Self::from_rgb8(width, height, rgb).ok()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} pixels", self.width, self.height)
    }
}

fn check_length(width: usize, height: usize, channels: usize, found: usize) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(channels));
    if expected == Some(found) { Ok(()) } else { Err(ImageError::Length { width, height, channels, found }) }
}

/// A channel over white, rounded as PIL rounds: with 7 bits more than a byte, and divided by 255 by shifts.
fn over_white(value: u8, alpha: u8) -> u8 {
    const BITS: u32 = 7;
    if alpha == 0 {
        return 255;
    }
    let sum = (u32::from(value) * u32::from(alpha) + 255 * u32::from(255 - alpha)) << BITS;
    let by_255 = |x: u32| ((x >> 8) + x) >> 8;
    (by_255(sum + (0x80 << BITS)) >> BITS) as u8
}
