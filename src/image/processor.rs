//! From a picture to the patches that a tower takes (HF: the image processor).

use super::{Filter, Image, Patches, resize::resize};
use crate::{
    error::ImageError,
    gemma::{Gemma4VisionConfig, MobileNetConfig, SiglipConfig, UnifiedVisionConfig, VisionConfig},
};

/// How a picture is made a tower's patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageProcessor {
    /// The size that it is stretched to.
    pub size: TargetSize,
    /// The weights of resizing.
    pub filter: Filter,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Values and their order: those of SigLIP, or of Gemma 4.
    pub layout: PatchLayout,
}

/// The size that a picture is stretched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSize {
    /// A square of so many pixels a side, whatever the aspect.
    Square(usize),
    /// About the picture's own aspect, with as many soft tokens of `unit`² pixels as the budget allows; small pictures
    /// are enlarged.
    Budget {
        /// Side of a soft token, in pixels.
        unit: usize,
        /// Side of a patch before pooling, in pixels.
        patch_size: usize,
        /// Most soft tokens.
        max_soft_tokens: usize,
    },
}

/// The values of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchLayout {
    /// From −1 to 1; channel, row, column.
    ChannelsFirst,
    /// From 0 to 1; row, column, channel.
    ChannelsLast,
}

impl ImageProcessor {
    /// The processor of a tower, for pictures of at most `max_soft_tokens` where the tower takes any aspect; `None` for
    /// a tower that is not computed.
    pub fn new(vision: &VisionConfig, max_soft_tokens: usize) -> Option<Self> {
        let any_aspect = |patch_size: usize, pooling: usize, patch: usize| Self {
            size: TargetSize::Budget { unit: patch_size * pooling, patch_size, max_soft_tokens },
            filter: Filter::Bicubic,
            patch,
            layout: PatchLayout::ChannelsLast,
        };
        match vision {
            VisionConfig::Siglip(SiglipConfig { image_size, patch_size, .. }) => Some(Self {
                size: TargetSize::Square(*image_size),
                filter: Filter::Bilinear,
                patch: *patch_size,
                layout: PatchLayout::ChannelsFirst,
            }),
            VisionConfig::Gemma4(Gemma4VisionConfig { patch_size, pooling_kernel_size, .. }) => {
                Some(any_aspect(*patch_size, *pooling_kernel_size, *patch_size))
            }
            VisionConfig::Unified(UnifiedVisionConfig { patch_size, pooling_kernel_size, .. }) => {
                Some(any_aspect(*patch_size, *pooling_kernel_size, patch_size * pooling_kernel_size))
            }
            // The whole picture is one patch.
            VisionConfig::MobileNet(MobileNetConfig { image_size, .. }) => Some(Self {
                size: TargetSize::Square(*image_size),
                filter: Filter::Bilinear,
                patch: *image_size,
                layout: PatchLayout::ChannelsLast,
            }),
            VisionConfig::Unsupported(_) => None,
        }
    }

    /// The size, width and height, that a picture of this size is stretched to.
    ///
    /// # Errors
    /// [`ImageError::Aspect`] for a budget that has no room for one soft token of the picture.
    pub fn target(&self, width: usize, height: usize) -> Result<[usize; 2], ImageError> {
        match self.size {
            TargetSize::Square(side) => Ok([side, side]),
            TargetSize::Budget { unit, patch_size, max_soft_tokens } => {
                preserving_aspect([width, height], unit, patch_size, max_soft_tokens)
            }
        }
    }

    /// The patches of a picture.
    ///
    /// # Errors
    /// As [`target`](Self::target).
    pub fn patches(&self, image: &Image) -> Result<Patches, ImageError> {
        let [width, height] = self.target(image.width(), image.height())?;
        let pixels = resize(image.rgb(), [image.width(), image.height()], [width, height], self.filter);
        let columns = width / self.patch;
        let rows = height / self.patch;
        let mut values = Vec::with_capacity(rows * columns * 3 * self.patch * self.patch);
        for (row, column) in (0..rows * columns).map(|at| (at / columns, at % columns)) {
            let corner = (row * self.patch * width + column * self.patch) * 3;
            self.push_patch(&pixels[corner..], width * 3, &mut values);
        }
        Ok(Patches { values, rows, columns })
    }

    /// Appends the patch whose first row begins with `pixels`; rows are `stride` bytes apart.
    fn push_patch(&self, pixels: &[u8], stride: usize, values: &mut Vec<f32>) {
        let rows = || pixels.chunks(stride).take(self.patch).map(|row| &row[..self.patch * 3]);
        match self.layout {
            PatchLayout::ChannelsLast => values.extend(rows().flatten().map(|value| f32::from(*value) * (1.0 / 255.0))),
            PatchLayout::ChannelsFirst => {
                for channel in 0..3 {
                    let of_channel = rows().flat_map(|row| row.iter().skip(channel).step_by(3));
                    values.extend(of_channel.map(|value| (f32::from(*value) - 127.5) / 127.5));
                }
            }
        }
    }
}

/// HF's `get_aspect_ratio_preserving_size`, in f64 as there.
fn preserving_aspect([width, height]: [usize; 2], unit: usize, patch: usize, budget: usize) -> Result<[usize; 2], ImageError> {
    let pooled = unit / patch;
    let area = budget as f64 * (pooled * pooled * patch * patch) as f64;
    let factor = (area / (width as f64 * height as f64)).sqrt();
    let whole = |size: usize| (factor * size as f64 / unit as f64).floor() as usize * unit;
    let most = budget.saturating_mul(unit);
    match [whole(width), whole(height)] {
        [0, 0] => Err(ImageError::Aspect { width, height, unit, max_soft_tokens: budget }),
        [_, 0] => Ok([(width / height * unit).min(most), unit]),
        [0, _] => Ok([unit, (height / width * unit).min(most)]),
        size => Ok(size),
    }
}

/// How Gemma 3 adds crops of a wide or tall picture to the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PanAndScan {
    /// The least side of a crop, in pixels.
    pub min_crop_size: usize,
    /// Most crops.
    pub max_crops: usize,
    /// The least ratio of the longer side to the shorter.
    pub min_ratio: f64,
}

impl Default for PanAndScan {
    fn default() -> Self {
        Self { min_crop_size: 256, max_crops: 4, min_ratio: 1.2 }
    }
}

impl PanAndScan {
    /// The crops of a picture, from left to right or from the top down; none where it is about square or small.
    pub fn crops(&self, image: &Image) -> Vec<Image> {
        let tall = image.height() > image.width();
        let long = image.width().max(image.height());
        let short = image.width().min(image.height());
        if (long as f64 / short as f64) < self.min_ratio || self.min_crop_size == 0 {
            return Vec::new();
        }
        let wanted = (long as f64 / short as f64 + 0.5).floor() as usize;
        let count = wanted.min(long / self.min_crop_size).max(2).min(self.max_crops);
        if count == 0 || long.div_ceil(count).min(short) < self.min_crop_size {
            return Vec::new();
        }
        let size = long.div_ceil(count);
        let crop = |at: usize| {
            let start = at * size;
            let len = size.min(long.saturating_sub(start));
            if tall { image.crop([0, start], [short, len]) } else { image.crop([start, 0], [len, short]) }
        };
        (0..count).filter_map(crop).collect()
    }
}
