//! The tables of a profile.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::ir::{Compute, DType};

/// The ops that share a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// None: each op is a dispatch of its own, but for constants and for ops that only rename dimensions.
    Direct,
    /// All that can: elementwise chains are one kernel, epilogues run in the kernel before them, two products of one
    /// operand in one.
    #[default]
    Fusable,
}

/// The products that stay f32 when [`Precision::compute`] is f16, or auto on a device with cooperative matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixed {
    /// Nothing; with `f16` a device without it is an error.
    None,
    /// The projection out of each FFW, the LM head and routers
    /// ([`LowerOptions::keeps_f32`](crate::ir::LowerOptions::keeps_f32)), and attention in a model with experts; on a
    /// device without f16 everything, with a warning.
    #[default]
    Auto,
}

/// `[fusion]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fusion {
    /// The ops that share a dispatch. Default: `fusable`.
    pub policy: Policy,
    /// Nodes that share no dispatch: the last part of a label (`geglu`), a whole label (`layer.3.geglu`) or an op's
    /// name (`rms_norm`). A name that nothing in a graph has is logged. Default: none.
    pub skip: Vec<String>,
    /// Fail lowering ([`GraphError::Unfused`](crate::error::GraphError::Unfused)) if elementwise arithmetic is left as
    /// a dispatch of its own. Default: off.
    pub assert_clean: bool,
}

/// `[passes]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passes {
    /// Drop nodes that no output needs. Default: on.
    pub dce: bool,
    /// Do arithmetic on constants while lowering, join factors of one value, and make equal constants one. Default: on.
    pub constant_folding: bool,
    /// Keep the graph after each pass in the plan's report. Default: off.
    pub verbose: bool,
}

impl Default for Passes {
    fn default() -> Self {
        Self { dce: true, constant_folding: true, verbose: false }
    }
}

/// `[precision]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Precision {
    /// The numbers that products of weights take. `f16` rounds both operands and sums in f32. `auto` does so where a
    /// product of many rows goes through cooperative matrices (its rows are scaled to lie within f16) and is exact
    /// elsewhere: in steps, and in all that a device without such matrices computes. `f32` is exact everywhere. The
    /// reference always computes in f32. `bf16` is refused: WGSL stores it and does not compute with it. Default:
    /// `auto`.
    #[serde(deserialize_with = "compute")]
    pub compute: Compute,
    /// The products that stay f32 when `compute` is `f16` or `auto`. Default: `auto`.
    pub mixed: Mixed,
    /// The type of keys and values in caches that live on the device (and in the reference's); keys and values that the
    /// caller holds are f32. Needs no feature of the device. Default: `f32`.
    #[serde(deserialize_with = "kv")]
    pub kv: DType,
}

impl Default for Precision {
    fn default() -> Self {
        Self { compute: Compute::Auto, mixed: Mixed::Auto, kv: DType::F32 }
    }
}

fn compute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compute, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "auto" => Ok(Compute::Auto),
        "f32" => Ok(Compute::F32),
        "f16" => Ok(Compute::F16),
        "bf16" => Err(D::Error::custom("bf16 is a storage type: WGSL has no arithmetic on it; expected `auto`, `f32` or `f16`")),
        other => Err(D::Error::unknown_variant(other, &["auto", "f32", "f16"])),
    }
}

fn kv<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        other => Err(D::Error::unknown_variant(other, &["f32", "f16"])),
    }
}

/// `[backend.<name>]`: exceptions for one backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backend {
    /// On a GPU as the policy `direct`. On the reference (`cpu`) composites run through their definitions in terms of
    /// primitives, which widens whole weights: for finding a mistake, not for large models. Default: off.
    pub skip_fusion: bool,
    /// The same for these nodes alone, named as in [`Fusion::skip`]. Default: none.
    pub unfuse_regions: Vec<String>,
}

/// The tables of the backends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backends {
    /// Vulkan.
    pub vulkan: Backend,
    /// Metal.
    pub metal: Backend,
    /// Direct3D 12.
    pub dx12: Backend,
    /// The CPU reference.
    pub cpu: Backend,
}

impl Backends {
    /// The tables by name.
    pub fn all(&self) -> [(&'static str, &Backend); 4] {
        [("vulkan", &self.vulkan), ("metal", &self.metal), ("dx12", &self.dx12), ("cpu", &self.cpu)]
    }

    /// The table of a backend, if it has one.
    pub fn get(&self, name: &str) -> Option<&Backend> {
        self.all().into_iter().find(|(known, _)| *known == name).map(|(_, table)| table)
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = match self.policy {
            Policy::Direct => "direct",
            Policy::Fusable => "fusable",
        };
        write!(f, "policy = \"{policy}\"\nskip = {:?}\nassert_clean = {}\n", self.skip, self.assert_clean)
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dce = {}\nconstant_folding = {}\nverbose = {}\n", self.dce, self.constant_folding, self.verbose)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mixed = match self.mixed {
            Mixed::None => "none",
            Mixed::Auto => "auto",
        };
        write!(f, "compute = \"{}\"\nmixed = \"{mixed}\"\nkv = \"{}\"\n", self.compute.name(), self.kv)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skip_fusion = {}\nunfuse_regions = {:?}\n", self.skip_fusion, self.unfuse_regions)
    }
}
