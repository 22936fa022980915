//! Compiled pipelines and findings about kernels as bytes, to be given back at the next start.
//!
//! They travel in an envelope that says for which adapter and driver they are and whether they arrived whole:
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFPC` |
//! | 4 | version of the envelope, 2, little-endian as all that follows |
//! | 8 | FNV-1a (64 bits) of this crate's shaders, backend, adapter, vendor and device ids, driver and its version |
//! | 8 | length of the choices |
//! | 8 | length of the driver's bytes |
//! | 8 | FNV-1a (64 bits) of choices and driver's bytes |
//! | … | the [`KernelChoices`] as JSON |
//! | … | the driver's bytes |

use super::context::GpuContext;
use crate::{checksum::Fnv, ir::KernelChoices, shader};

const MAGIC: &[u8; 8] = b"GEMMAFPC";
const VERSION: u32 = 2;
const HEADER: usize = 44;

/// The fate of the pipeline bytes that were given when a device was opened
/// ([`GpuOptions::pipeline_cache`](super::GpuOptions::pipeline_cache)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PipelineBlob {
    /// None were given.
    #[default]
    None,
    /// The driver took them: pipelines that are in them need no compilation.
    Used,
    /// They were not handed to the driver, or it refused them; everything is compiled anew. The text says why.
    Ignored(String),
}

/// The driver's cache of one device, if it has one.
#[derive(Debug, Default)]
pub(crate) struct DriverCache {
    pub(crate) raw: Option<wgpu::PipelineCache>,
    pub(crate) blob: PipelineBlob,
}

impl DriverCache {
    /// Opens the cache with the bytes of an earlier one, if they fit, and what was found out then.
    pub(crate) fn open(context: &GpuContext, blob: Option<&[u8]>) -> (Self, KernelChoices) {
        let (saved, refused) = match blob.map(|blob| Envelope::open(blob, fingerprint(context))) {
            Some(Ok(envelope)) => (envelope, None),
            Some(Err(why)) => (Envelope::default(), Some(why)),
            None => (Envelope::default(), None),
        };
        let Envelope { choices, driver } = saved;
        if !context.capabilities().pipeline_cache {
            let nowhere = || PipelineBlob::Ignored("the device was opened without PIPELINE_CACHE (Vulkan only)".into());
            let nothing = refused.is_none() && driver.is_empty();
            return (Self { raw: None, blob: if nothing { PipelineBlob::None } else { nowhere() } }.told(), choices);
        }
        let ignored = PipelineBlob::Ignored;
        let own = (!driver.is_empty()).then(|| create(context, Some(driver)));
        let opened = match (own, refused) {
            (Some(Ok(raw)), _) => Self { raw: Some(raw), blob: PipelineBlob::Used },
            (Some(Err(why)), _) | (None, Some(why)) => Self { raw: create(context, None).ok(), blob: ignored(why) }.told(),
            (None, None) => Self { raw: create(context, None).ok(), blob: PipelineBlob::None },
        };
        (opened, choices)
    }

    /// The bytes to keep, where there are any.
    pub(crate) fn export(&self, context: &GpuContext) -> Option<Vec<u8>> {
        let choices = context.kernel_choices();
        let driver = self.raw.as_ref().and_then(wgpu::PipelineCache::get_data);
        if driver.is_none() && choices.is_empty() {
            return None;
        }
        Envelope { choices, driver: &driver.unwrap_or_default() }.close(fingerprint(context))
    }

    fn told(self) -> Self {
        if let PipelineBlob::Ignored(why) = &self.blob {
            tracing::warn!(%why, "saved pipelines ignored: they are compiled anew");
        }
        self
    }
}

/// The driver's cache from its own bytes, or an empty one.
fn create(context: &GpuContext, data: Option<&[u8]>) -> Result<wgpu::PipelineCache, String> {
    // Without the fallback a refusal is seen here instead of passing in silence.
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: false };
    // SAFETY: data must come from `PipelineCache::get_data`. It comes out of an envelope that this module put around
    // such data: magic, version and checksum were checked, and the fingerprint is that of this adapter and driver.
    // Someone who forges a whole envelope can break this; the option's documentation says to keep the bytes where only
    // trusted programs write.
    let make = || unsafe { context.device().create_pipeline_cache(&descriptor) };
    context.scoped("the pipeline cache", make).map_err(|error| error.to_string())
}

/// The facts that must be equal for one driver's bytes to mean anything to another.
fn fingerprint(context: &GpuContext) -> u64 {
    let info = context.adapter().get_info();
    let parts = [info.backend.to_string(), info.name, info.driver, info.driver_info];
    Fnv::of(format!("{:x}|{}|{}|{}", shader::fingerprint(), parts.join("|"), info.vendor, info.device).as_bytes())
}

/// The contents of the envelope.
#[derive(Debug, Default, PartialEq)]
struct Envelope<'a> {
    choices: KernelChoices,
    driver: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn close(&self, fingerprint: u64) -> Option<Vec<u8>> {
        let choices = serde_json::to_vec(&self.choices).ok()?;
        let content = [choices.as_slice(), self.driver].concat();
        let mut out = Vec::with_capacity(HEADER + content.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        for number in [fingerprint, choices.len() as u64, self.driver.len() as u64, Fnv::of(&content)] {
            out.extend(number.to_le_bytes());
        }
        out.extend(content);
        Some(out)
    }

    /// The contents of `blob`, or why it is not to be used.
    fn open(blob: &'a [u8], expected: u64) -> Result<Self, String> {
        if blob.is_empty() {
            return Err("they are empty".into());
        }
        if blob.len() < HEADER || &blob[..8] != MAGIC {
            return Err(format!("{} bytes that pipeline_cache_bytes() did not make, or cut within their header", blob.len()));
        }
        let (header, content) = blob.split_at(HEADER);
        let number = |at: usize, len: usize| header[at..at + len].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if number(8, 4) != u64::from(VERSION) {
            return Err(format!("they have version {}, this release reads {VERSION}", number(8, 4)));
        }
        if number(12, 8) != expected {
            return Err("they are of another adapter, driver or version of the shaders".into());
        }
        let [choices, driver] = [number(20, 8), number(28, 8)];
        if choices.checked_add(driver) != Some(content.len() as u64) {
            let found = content.len();
            return Err(format!("{found} bytes follow the header, which promises {choices} and {driver}: truncated?"));
        }
        if number(36, 8) != Fnv::of(content) {
            return Err("their checksum is wrong: corrupt".into());
        }
        let (choices, driver) = content.split_at(choices as usize);
        let choices = serde_json::from_slice(choices).map_err(|error| format!("their choices of kernels: {error}"))?;
        Ok(Self { choices, driver })
    }
}

#[cfg(test)]
mod tests;
