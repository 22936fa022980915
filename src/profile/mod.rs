//! Compile profiles: how a model's graphs are lowered, in code or in a `gemma.rlx.toml` beside the weights.
//!
//! ```
//! use gemmaflow::profile::CompileProfile;
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let text = "
//! [precision]
//! kv = 'f16'
//! [decode.fusion]
//! skip = ['geglu']
//! ";
//! assert!(CompileProfile::from_toml(text, false)?.fusion.skip.is_empty());
//! assert_eq!(CompileProfile::from_toml(text, true)?.fusion.skip, ["geglu"]);
//! let mistake = CompileProfile::from_toml("[passes]\ndce = 'yes'", true).unwrap_err();
//! assert!(mistake.to_string().contains("2:7"), "{mistake}");
//! # Ok(())
//! # }
//! ```

mod file;
mod sections;

use std::fmt;

pub use sections::{Backend, Backends, Fusion, Mixed, Passes, Policy, Precision};
use serde::Deserialize;

use crate::{
    Result,
    files::ModelPath,
    ir::{Compute, LowerOptions},
};

/// The profile's file beside the weights.
pub const GEMMA_PROFILE_FILE: &str = "gemma.rlx.toml";

/// How graphs are lowered and in which precision they are computed. Keys that are not given have the preset's value.
///
/// It changes how a graph is computed, never what it means: in f32 ([`Precision::compute`]) every setting gives the
/// same logits within the tolerance of f32 sums. A file may hold all sections once more below `prefill` and `decode`;
/// those override key by key for that mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompileProfile {
    /// `[fusion]`: the ops that share a dispatch.
    pub fusion: Fusion,
    /// `[passes]`: the passes over the graph before that.
    pub passes: Passes,
    /// `[precision]`: element types.
    pub precision: Precision,
    /// `[backend.<name>]`: exceptions for a backend.
    pub backend: Backends,
}

impl CompileProfile {
    /// The preset of prefill graphs: everything fused, all passes, exact products but for those of many rows on a
    /// device with cooperative matrices.
    ///
    /// It equals [`gemma_decode`](Self::gemma_decode): shape and device decide between kernels for many tokens and for
    /// one.
    pub fn gemma_prefill() -> Self {
        Self::default()
    }

    /// The preset of decode graphs; equals [`gemma_prefill`](Self::gemma_prefill).
    pub fn gemma_decode() -> Self {
        Self::default()
    }

    /// The profile that a TOML text gives for decode graphs or for prefill graphs.
    ///
    /// # Errors
    /// [`Error::Profile`](crate::Error::Profile) with line and column for malformed text, an unknown key, or a value
    /// that its key does not take.
    pub fn from_toml(text: &str, decode: bool) -> Result<Self> {
        file::parse(&ModelPath::from("profile"), text, decode)
    }

    /// As [`from_toml`](Self::from_toml) for a file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); as [`from_toml`](Self::from_toml).
    pub fn from_file(path: impl Into<ModelPath>, decode: bool) -> Result<Self> {
        file::read(&path.into(), decode)
    }

    /// The profile of the file [`GEMMA_PROFILE_FILE`] beside the weights (a file, or their folder); the preset where
    /// there is none.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file): a file that is there and cannot be read or understood is never passed over.
    pub fn near_weights(weights: impl Into<ModelPath>, decode: bool) -> Result<Self> {
        match Self::file_near_weights(weights)? {
            Some(path) => Self::from_file(path, decode),
            None if decode => Ok(Self::gemma_decode()),
            None => Ok(Self::gemma_prefill()),
        }
    }

    /// The path of the profile beside the weights, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file system does not answer.
    pub fn file_near_weights(weights: impl Into<ModelPath>) -> Result<Option<ModelPath>> {
        file::near(&weights.into())
    }

    /// The profile with `auto` resolved for a device with or without cooperative matrices for products. Two results are
    /// equal if they compute the same numbers.
    pub(crate) fn settled(&self, matrices: bool) -> Self {
        let mut settled = self.clone();
        if settled.precision.compute == Compute::Auto && !matrices {
            settled.precision.compute = Compute::F32;
        }
        settled
    }

    /// The profile's options on a backend: `vulkan`, `metal`, `dx12`, or `cpu` for the reference. Other backends have
    /// no table of their own.
    pub fn options(&self, backend: &str) -> LowerOptions {
        let table = self.backend.get(backend);
        // The reference has no dispatches. It can only leave composites unfused, and only its own table asks for that.
        let on_reference = backend == "cpu";
        let fuse = on_reference || self.fusion.policy == Policy::Fusable;
        let mut unfused = if on_reference { Vec::new() } else { self.fusion.skip.clone() };
        unfused.extend(table.iter().flat_map(|table| table.unfuse_regions.iter().cloned()));
        LowerOptions {
            fuse: fuse && !table.is_some_and(|table| table.skip_fusion),
            unfused,
            assert_clean: self.fusion.assert_clean,
            dce: self.passes.dce,
            constant_folding: self.passes.constant_folding,
            verbose: self.passes.verbose,
            compute: self.precision.compute,
            mixed: self.precision.mixed == Mixed::Auto,
            exact_attention: false,
            chosen_from: None,
            batched: false,
        }
    }
}

/// The profile beside the weights: [`CompileProfile::near_weights`].
///
/// # Errors
/// As [`CompileProfile::near_weights`].
pub fn gemma_profile_near_weights(weights: impl Into<ModelPath>, decode: bool) -> Result<CompileProfile> {
    CompileProfile::near_weights(weights, decode)
}

impl fmt::Display for CompileProfile {
    /// As TOML with every key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[fusion]\n{}[passes]\n{}[precision]\n{}", self.fusion, self.passes, self.precision)?;
        self.backend.all().iter().try_for_each(|(name, table)| write!(f, "[backend.{name}]\n{table}"))
    }
}

#[cfg(test)]
mod tests;
