//! The image processor's file beside `config.json`: what of a picture a tower is shown.

use serde_json::Value;

use super::{
    fields::Fields,
    json,
    multimodal::{Gemma4VisionConfig, MOST_SOFT_TOKENS, MultimodalConfig, UnifiedVisionConfig, VisionConfig},
};
use crate::{Error, Result, files::ModelPath, text_file};

/// What the released processor of a tower does to pixels.
struct Pixels {
    /// PIL's number of the filter.
    resample: u64,
    mean: f64,
    std: f64,
    /// True if `do_normalize` is left out to mean that pixels are normalised.
    normalised: bool,
}

const SIGLIP: Pixels = Pixels { resample: 2, mean: 0.5, std: 0.5, normalised: true };
const MOBILENET: Pixels = Pixels { resample: 2, mean: 0.0, std: 1.0, normalised: false };
const GEMMA_4: Pixels = Pixels { resample: 3, mean: 0.0, std: 1.0, normalised: false };

/// Takes the sizes that the file beside `config.json` has, if there is one. A processor that this crate does not compute
/// is no reason to refuse the text model: pictures are refused.
pub(super) fn settle(config: &mut MultimodalConfig, config_file: &ModelPath) {
    let Some(vision) = &mut config.vision else { return };
    let settled = match beside(config_file) {
        Ok(Some((path, fields))) => apply(vision, fields).map_err(|error| json::named(&path, error)),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = settled {
        config.vision = Some(VisionConfig::Unsupported(error.to_string()));
    }
}

/// The fields of the image processor: in `processor_config.json`, as transformers 5 writes it, else in a file of its own.
fn beside(config_file: &ModelPath) -> Result<Option<(ModelPath, Fields)>> {
    let read = |name: &str| -> Result<Option<(ModelPath, Fields)>> {
        let path = config_file.with_file_name(name);
        if !path.is_file() {
            return Ok(None);
        }
        let fields = json::parse(&text_file::read(&path)?).map_err(|error| json::named(&path, error))?;
        Ok(Some((path, fields)))
    };
    if let Some((path, mut fields)) = read("processor_config.json")?
        && let Some(inner) = fields.object("image_processor").map_err(|error| json::named(&path, error))?
    {
        return Ok(Some((path, inner)));
    }
    read("preprocessor_config.json")
}

/// As [`settle`], by fields that were found elsewhere.
pub(super) fn settle_by(config: &mut MultimodalConfig, fields: Fields) {
    let Some(vision) = &mut config.vision else { return };
    if let Err(error) = apply(vision, fields) {
        config.vision = Some(VisionConfig::Unsupported(error.to_string()));
    }
}

fn apply(vision: &mut VisionConfig, mut fields: Fields) -> Result<()> {
    match vision {
        VisionConfig::Siglip(config) => {
            SIGLIP.check(&mut fields)?;
            expect(&mut fields, "size", config.image_size, picture_size)
        }
        VisionConfig::MobileNet(config) => {
            MOBILENET.check(&mut fields)?;
            config.image_size = picture_size(&mut fields, "size")?.unwrap_or(config.image_size);
            config.check()
        }
        VisionConfig::Gemma4(Gemma4VisionConfig { patch_size, pooling_kernel_size, max_soft_tokens, .. })
        | VisionConfig::Unified(UnifiedVisionConfig { patch_size, pooling_kernel_size, max_soft_tokens, .. }) => {
            GEMMA_4.check(&mut fields)?;
            expect(&mut fields, "patch_size", *patch_size, Fields::size)?;
            expect(&mut fields, "pooling_kernel_size", *pooling_kernel_size, Fields::size)?;
            *max_soft_tokens = budget(&mut fields)?.unwrap_or(*max_soft_tokens);
            Ok(())
        }
        VisionConfig::Unsupported(_) => Ok(()),
    }
}

/// A size that the model has too.
fn expect(f: &mut Fields, key: &str, ours: usize, read: fn(&mut Fields, &str) -> Result<Option<usize>>) -> Result<()> {
    match read(f, key)? {
        Some(found) if found != ours => Err(Error::Config(format!("{key} is {found}, expected the tower's, which is {ours}"))),
        _ => Ok(()),
    }
}

fn budget(f: &mut Fields) -> Result<Option<usize>> {
    match f.size("max_soft_tokens")? {
        Some(found) if !(1..=MOST_SOFT_TOKENS).contains(&found) => {
            Err(f.refuse("max_soft_tokens", &found.into(), &format!("1 to {MOST_SOFT_TOKENS}")))
        }
        budget => Ok(budget),
    }
}

/// The side of a square size.
fn picture_size(f: &mut Fields, key: &str) -> Result<Option<usize>> {
    let Some(mut size) = f.object(key)? else { return Ok(None) };
    let height = size.size("height")?;
    let width = size.size("width")?;
    if height == width {
        return Ok(height);
    }
    Err(Error::Config(format!("{key} is {height:?} by {width:?}, expected a square")))
}

impl Pixels {
    /// Refuses a processor that makes other numbers of a picture.
    fn check(&self, f: &mut Fields) -> Result<()> {
        for key in ["do_resize", "do_rescale"] {
            if f.switch(key)? == Some(false) {
                return Err(f.refuse(key, &false.into(), "true; this crate computes no other"));
            }
        }
        self.number(f, "resample", self.resample as f64)?;
        self.number(f, "rescale_factor", 1.0 / 255.0)?;
        if f.switch("do_normalize")?.unwrap_or(self.normalised) {
            self.channels(f, "image_mean", self.mean)?;
            return self.channels(f, "image_std", self.std);
        }
        if self.normalised {
            return Err(f.refuse("do_normalize", &false.into(), "true; this crate computes no other"));
        }
        Ok(())
    }

    fn number(&self, f: &mut Fields, key: &str, expected: f64) -> Result<()> {
        match f.take(key) {
            Some(found) if !is(&found, expected) => {
                Err(f.refuse(key, &found, &format!("{expected}; this crate computes no other")))
            }
            _ => Ok(()),
        }
    }

    fn channels(&self, f: &mut Fields, key: &str, expected: f64) -> Result<()> {
        let same = |found: &Value| found.as_array().is_some_and(|channels| channels.iter().all(|channel| is(channel, expected)));
        match f.take(key) {
            Some(found) if !same(&found) => {
                Err(f.refuse(key, &found, &format!("{expected} for all channels; this crate computes no other")))
            }
            _ => Ok(()),
        }
    }
}

fn is(found: &Value, expected: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() < 1e-6)
}

#[cfg(test)]
mod tests;
