//! The rotary tables of a GGUF file.

use super::{
    LayerKind, RopeConfig, RopeScaling,
    absent::LARGE_SCALING,
    family::{GemmaArch, RopeKeys},
    gguf_keys::Keys,
};
use crate::{Error, Result, weights::GgufFiles};

/// The tables of full and of sliding layers. Only full layers are scaled.
pub(super) fn read(
    keys: &Keys,
    arch: GemmaArch,
    files: &GgufFiles,
    kinds: &[LayerKind],
    head_dim: usize,
) -> Result<(RopeConfig, RopeConfig)> {
    let rope_keys = arch.family().rope_keys;
    let partial = rope_keys == RopeKeys::Parameters;
    let scaling = match (files.values("rope_freqs.weight", 1 << 12)?, scaling(keys, arch, kinds.len())?) {
        (None, _) if partial && kinds.contains(&LayerKind::Full) => {
            let what = "tensor 'rope_freqs.weight' is missing; it says which part of a head the full layers of a Gemma 4 rotate";
            return Err(files.error(format!("{what}. Was the file made by another converter?")));
        }
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) if partial => proportional(&factors, head_dim)?,
        (Some(_), _) => {
            let why = "a rotary scaling of its own, which";
            let name = files.architecture()?;
            return Err(Error::Unsupported(format!("rope_freqs.weight in a {name} file: {why}")));
        }
    };
    let full = RopeConfig { theta: keys.number_or_default("rope.freq_base")?, scaling };
    match rope_keys {
        RopeKeys::OneTable => Ok((full, full)),
        RopeKeys::TwoTables | RopeKeys::Parameters => Ok((full, RopeConfig::new(keys.number_or_default("rope.freq_base_swa")?))),
    }
}

/// The scaling that the keys say.
fn scaling(keys: &Keys, arch: GemmaArch, layers: usize) -> Result<RopeScaling> {
    let kind = keys.text("rope.scaling.type")?;
    let factor = keys.number("rope.scaling.factor")?;
    match (kind, factor) {
        (None, None) if arch == GemmaArch::Gemma3 => left_out(keys, layers),
        (Some("none"), _) | (None | Some("linear"), None) => Ok(RopeScaling::None),
        // llama.cpp takes a factor of 0 for none.
        (None | Some("linear"), Some(0.0 | 1.0)) => Ok(RopeScaling::None),
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (Some(other), _) => {
            let shown: String = other.chars().take(60).collect();
            Err(Error::Unsupported(format!("rope.scaling.type {shown:?} (\"none\" and \"linear\" are): it")))
        }
    }
}

/// The scaling of a Gemma 3 whose file has no key of it. Models of 4B and larger, which alone were made for 128k
/// tokens, are scaled. Ollama's converter leaves the keys out, llama.cpp's writes them.
fn left_out(keys: &Keys, layers: usize) -> Result<RopeScaling> {
    const LARGE: [usize; 3] = [34, 48, 62];
    let long = keys.size_or_default("context_length")? >= 131_072;
    let width = keys.size_or_default("embedding_length")?;
    let released = [(34, 2560), (48, 3840), (62, 5376)].contains(&(layers, width));
    if released || (long && (LARGE.contains(&layers) || keys.has_ollama_keys())) {
        let factor = keys.defaults.number(LARGE_SCALING);
        return keys.required("rope.scaling.factor", factor).map(|factor| RopeScaling::Linear { factor });
    }
    if long {
        tracing::warn!("a Gemma 3 for 128k tokens whose file says nothing of rope.scaling: nothing is scaled");
    }
    Ok(RopeScaling::None)
}

/// The divisors of the H/2 frequencies: 1 for the pairs that rotate, first, and 1e30 for the others.
fn proportional(factors: &[f32], head_dim: usize) -> Result<RopeScaling> {
    let rotated = factors.iter().take_while(|factor| **factor == 1.0).count();
    let whole = factors.len() == head_dim / 2 && factors[rotated..].iter().all(|factor| *factor >= 1e30);
    if !whole {
        let what = format!("{} divisors, {rotated} of them 1, for heads of {head_dim}", factors.len());
        return Err(Error::Unsupported(format!("rope_freqs.weight with {what} (1, then 1e30, are): it")));
    }
    let partial_rotary_factor = (2 * rotated) as f32 / head_dim as f32;
    Ok(RopeScaling::Proportional { partial_rotary_factor, factor: 1.0 })
}
