//! Compiled pipelines as bytes, to be given back at the next start.
//!
//! The driver's own bytes travel in an envelope that says for which adapter and driver they are and whether they arrived whole:
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFPC` |
//! | 4 | version of the envelope, 1, little-endian as all that follows |
//! | 8 | FNV-1a (64 bits) of backend, adapter, vendor and device ids, driver and its version |
//! | 8 | length of the driver's bytes |
//! | 8 | FNV-1a (64 bits) of the driver's bytes |
//! | … | the driver's bytes |

use super::context::GpuContext;
use crate::checksum::Fnv;

const MAGIC: &[u8; 8] = b"GEMMAFPC";
const VERSION: u32 = 1;
const HEADER: usize = 36;

/// What became of the pipeline bytes that were given when a device was opened
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
pub(super) struct DriverCache {
    pub(super) raw: Option<wgpu::PipelineCache>,
    pub(super) blob: PipelineBlob,
}

impl DriverCache {
    /// Opens the cache with the bytes of an earlier one, if they fit.
    pub(super) fn open(context: &GpuContext, blob: Option<&[u8]>) -> Self {
        if !context.capabilities().pipeline_cache {
            let ignored = |_| PipelineBlob::Ignored("the device was opened without PIPELINE_CACHE (Vulkan only)".into());
            return Self { raw: None, blob: blob.map_or(PipelineBlob::None, ignored) }.told();
        }
        let opened = blob.map(|blob| unwrap(blob, fingerprint(context)).and_then(|bytes| create(context, Some(bytes))));
        match opened {
            Some(Ok(raw)) => Self { raw: Some(raw), blob: PipelineBlob::Used },
            Some(Err(why)) => Self { raw: create(context, None).ok(), blob: PipelineBlob::Ignored(why) }.told(),
            None => Self { raw: create(context, None).ok(), blob: PipelineBlob::None },
        }
    }

    /// The bytes to keep, where the driver has any.
    pub(super) fn export(&self, context: &GpuContext) -> Option<Vec<u8>> {
        Some(wrap(&self.raw.as_ref()?.get_data()?, fingerprint(context)))
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
    // SAFETY: data must come from `PipelineCache::get_data`. It comes out of an envelope that this module put around such data:
    // magic, version and checksum were checked, and the fingerprint is that of this adapter and driver. Someone who forges a
    // whole envelope can break this; the option's documentation says to keep the bytes where only trusted programs write.
    let make = || unsafe { context.device().create_pipeline_cache(&descriptor) };
    context.scoped("the pipeline cache", make).map_err(|error| error.to_string())
}

/// What must be equal for one driver's bytes to mean anything to another.
fn fingerprint(context: &GpuContext) -> u64 {
    let info = context.adapter().get_info();
    let parts = [info.backend.to_string(), info.name, info.driver, info.driver_info];
    Fnv::of(format!("{}|{}|{}", parts.join("|"), info.vendor, info.device).as_bytes())
}

fn wrap(bytes: &[u8], fingerprint: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + bytes.len());
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    for number in [fingerprint, bytes.len() as u64, Fnv::of(bytes)] {
        out.extend(number.to_le_bytes());
    }
    out.extend(bytes);
    out
}

/// The driver's bytes, or why they are not to be used.
fn unwrap(blob: &[u8], expected: u64) -> Result<&[u8], String> {
    if blob.is_empty() {
        return Err("they are empty".into());
    }
    if blob.len() < HEADER || &blob[..8] != MAGIC {
        return Err(format!("{} bytes that pipeline_cache_bytes() did not make, or cut within their header", blob.len()));
    }
    let (header, bytes) = blob.split_at(HEADER);
    let number = |at: usize, len: usize| header[at..at + len].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    if number(8, 4) != u64::from(VERSION) {
        return Err(format!("they have version {}, this release reads {VERSION}", number(8, 4)));
    }
    if number(12, 8) != expected {
        return Err("they are of another adapter or driver".into());
    }
    if number(20, 8) != bytes.len() as u64 {
        return Err(format!("{} bytes follow the header, which promises {}: truncated?", bytes.len(), number(20, 8)));
    }
    if number(28, 8) != Fnv::of(bytes) {
        return Err("their checksum is wrong: corrupt".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_gives_back_what_was_put_in_and_nothing_else() {
        let driver: Vec<u8> = (0..500u32).map(|i| (i * 7) as u8).collect();
        let blob = wrap(&driver, 42);
        assert_eq!(unwrap(&blob, 42), Ok(driver.as_slice()));
        assert_eq!(unwrap(&wrap(&[], 42), 42), Ok(&[][..]));
        assert!(unwrap(&blob, 43).unwrap_err().contains("another adapter"));
        assert!((0..blob.len()).all(|len| unwrap(&blob[..len], 42).is_err()), "a cut one is refused wherever it is cut");
        for bit in 0..blob.len() * 8 {
            let mut wrong = blob.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&wrong, 42).is_err(), "bit {bit}");
        }
        assert!(unwrap(&[blob, vec![0]].concat(), 42).is_err());
    }
}
