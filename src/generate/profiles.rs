//! How a generator's graphs are compiled.

use crate::{
    Error, Result,
    ir::{Compute, DType},
    profile::CompileProfile,
    runtime::Capabilities,
};

/// The preset of decode graphs with what a device lacks left out: products in f32 where it has no f16.
///
/// Everything else in which devices differ is chosen while lowering, by what the adapter reports.
pub fn decode_profile_for_device(device: &Capabilities) -> CompileProfile {
    let mut profile = CompileProfile::gemma_decode();
    if !device.f16 {
        profile.precision.compute = Compute::F32;
    }
    profile
}

/// The profiles of runs of several tokens (and of whole sequences) and of single tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Profiles {
    prefill: CompileProfile,
    decode: CompileProfile,
}

impl Profiles {
    pub(crate) fn new(prefill: CompileProfile, decode: CompileProfile) -> Result<Self> {
        let a = prefill.precision.kv;
        let b = decode.precision.kv;
        if a != b {
            return Err(Error::Unsupported(format!(
                "precision.kv = \"{a}\" for prefill and \"{b}\" for decode, which share one cache (give one for both),"
            )));
        }
        Ok(Self { prefill, decode })
    }

    /// Runs of several tokens, and whole sequences without caches.
    pub(crate) fn prefill(&self) -> &CompileProfile {
        &self.prefill
    }

    /// Runs of one token after others.
    pub(crate) fn decode(&self) -> &CompileProfile {
        &self.decode
    }

    /// That of a run of so many tokens.
    pub(crate) fn of(&self, resident: bool, tokens: usize) -> &CompileProfile {
        if resident && tokens == 1 { &self.decode } else { &self.prefill }
    }

    /// The type of cached keys and values.
    pub(crate) fn kv(&self) -> DType {
        self.decode.precision.kv
    }
}
