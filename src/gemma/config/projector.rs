//! llama.cpp's projector files (`mmproj`): the towers of a model whose text is in a GGUF file of its own.
//!
//! Their keys become those of a `config.json`, which [`multimodal`] reads, so that what they leave out is what the
//! classes of transformers have. They leave out the base of the rotary frequencies, the frames that attention sees, the
//! budget of soft tokens, and what shapes of tensors tell: head dimensions, kernels, channels, bounds of products.
//!
//! Not taken from a file: the activation (`clip.use_gelu`), which those of Gemma 4 lack and which is the tanh form in
//! all; `image_size` of Gemma 4, which stands for nothing; the epsilon of audio towers, which some files have as 1e-5
//! and the models as 1e-6; `num_mel_bins` of Gemma 4 12B, which is not its number of samples.

use serde_json::{Map, Value, json};

use super::{
    GemmaArch, GemmaConfig, MultimodalConfig, fields::Fields, gguf_keys::Keys, json::named, json::one_of, multimodal, processor,
};
use crate::{
    Error, Result,
    files::ModelPath,
    weights::{GgufFiles, ReadMode, ReadOptions},
};

/// A tower, or what is in its place, as a `projector_type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projector {
    /// SigLIP (Gemma 3).
    Siglip,
    /// MobileNet-V5 (Gemma 3n).
    MobileNet,
    /// Gemma 4's own.
    Vision4,
    /// A projection of patches (Gemma 4 12B).
    UnifiedVision,
    /// Gemma 3n's Conformer.
    Audio3n,
    /// Gemma 4's Conformer.
    Audio4,
    /// A projection of samples (Gemma 4 12B).
    UnifiedAudio,
}

/// The names, and the families that the projectors are of.
const NAMES: [(&str, Projector, GemmaArch); 7] = [
    ("gemma3", Projector::Siglip, GemmaArch::Gemma3),
    ("gemma3nv", Projector::MobileNet, GemmaArch::Gemma3n),
    ("gemma3na", Projector::Audio3n, GemmaArch::Gemma3n),
    ("gemma4v", Projector::Vision4, GemmaArch::Gemma4),
    ("gemma4uv", Projector::UnifiedVision, GemmaArch::Gemma4),
    ("gemma4a", Projector::Audio4, GemmaArch::Gemma4),
    ("gemma4ua", Projector::UnifiedAudio, GemmaArch::Gemma4),
];

/// `general.architecture` of a projector file.
const ARCHITECTURE: &str = "clip";

/// The keys that name a projector; a file with both modalities has one for each.
const TYPES: [&str; 3] = ["clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"];

impl Projector {
    fn is_audio(self) -> bool {
        matches!(self, Self::Audio3n | Self::Audio4 | Self::UnifiedAudio)
    }

    /// The part of keys after `clip.`.
    fn keys(self, files: &GgufFiles) -> Keys<'_> {
        Keys::new(&files.metadata, if self.is_audio() { "clip.audio" } else { "clip.vision" })
    }
}

/// True for the files of a projector.
pub(crate) fn is_projector(files: &GgufFiles) -> bool {
    matches!(files.metadata.text("general.architecture"), Ok(Some(ARCHITECTURE)))
}

/// True for a family that has projectors.
pub(super) fn has_some(arch: GemmaArch) -> bool {
    NAMES.iter().any(|(_, _, own)| *own == arch)
}

/// The projectors that the file at `path` holds.
///
/// # Errors
/// [`Error::Config`] for a file of another architecture, or that names none; [`Error::Unsupported`] for projectors of
/// other models.
pub(crate) fn projectors(files: &GgufFiles, path: &ModelPath) -> Result<Vec<Projector>> {
    let held = held(files).map_err(|error| named(path, error))?;
    Ok(held.into_iter().map(|(projector, _)| projector).collect())
}

fn held(files: &GgufFiles) -> Result<Vec<(Projector, GemmaArch)>> {
    if !is_projector(files) {
        let found = files.architecture()?.chars().take(60).collect::<String>();
        let expected = "\"clip\"; a projector's file (mmproj) goes beside the model's own";
        return Err(Error::Config(format!("general.architecture is {found:?}, expected {expected}")));
    }
    let mut found = Vec::new();
    for key in TYPES {
        let Some(name) = files.metadata.text(key).map_err(Error::Config)? else { continue };
        let Some((_, projector, arch)) = NAMES.iter().find(|(own, ..)| *own == name) else {
            let shown: String = name.chars().take(60).collect();
            let known = one_of(&NAMES.map(|(name, ..)| name));
            return Err(Error::Unsupported(format!("{key} {shown:?} ({known} is): it")));
        };
        if !found.contains(&(*projector, *arch)) {
            found.push((*projector, *arch));
        }
    }
    if found.is_empty() {
        return Err(Error::Config(format!("{} is missing; is this a projector's file (mmproj)?", one_of(&TYPES))));
    }
    let sounds = found.iter().filter(|(projector, _)| projector.is_audio()).count();
    let pictures = found.len() - sounds;
    if sounds > 1 || pictures > 1 {
        let expected = "expected one of each at most";
        return Err(Error::Config(format!("the file has {pictures} projectors of pictures and {sounds} of sounds, {expected}")));
    }
    Ok(found)
}

/// The headers of the file at `path`.
pub(super) fn open(path: &ModelPath) -> Result<GgufFiles> {
    GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, ..ReadOptions::default() })
}

/// The configuration of the text model with the towers of the projector at `path`.
pub(super) fn add(config: &GemmaConfig, path: &ModelPath) -> Result<GemmaConfig> {
    let files = open(path)?;
    let multimodal = read(&files, config).map_err(|error| named(path, error))?;
    Ok(GemmaConfig { multimodal, ..config.clone() })
}

/// The towers of a projector's file for the text model of `config`, with that model's ids.
///
/// # Errors
/// As [`check`]; [`Error::Config`] and [`Error::Format`] for keys and tensors that are missing or make no sense.
fn read(files: &GgufFiles, config: &GemmaConfig) -> Result<MultimodalConfig> {
    check(files, config)?;
    let ids = &config.multimodal;
    let mut top = Map::new();
    for (projector, _) in held(files)? {
        let keys = &projector.keys(files);
        match projector {
            Projector::Siglip => siglip(keys, &mut top)?,
            Projector::MobileNet => mobilenet(files, keys, ids, &mut top)?,
            Projector::Vision4 => vision4(files, keys, &mut top)?,
            Projector::UnifiedVision => unified_vision(files, keys, &mut top)?,
            Projector::Audio3n => audio3n(files, keys, ids, &mut top)?,
            Projector::Audio4 => audio4(files, keys, &mut top)?,
            Projector::UnifiedAudio => {
                let [_, samples] = shape(files, "mm.a.input_projection.weight")?;
                top.insert("audio_config".into(), json!({"model_type": "gemma4_unified_audio", "audio_embed_dim": samples}));
            }
        }
    }
    let mut multimodal = multimodal::read(&mut Fields::new(top, ""))?;
    processor::settle_by(&mut multimodal, pixels(files)?);
    Ok(MultimodalConfig { image: ids.image, audio: ids.audio, video: ids.video, ..multimodal })
}

/// Checks that a projector's file is for the text model of `config`.
///
/// # Errors
/// As [`projectors`]; [`Error::Config`] for one of another family or width.
pub(super) fn check(files: &GgufFiles, config: &GemmaConfig) -> Result<()> {
    for (projector, arch) in held(files)? {
        if arch != config.arch {
            let found = format!("a projector for {}, the text model is {}", arch.model_type(), config.arch.model_type());
            return Err(Error::Config(format!("{found}; take the mmproj file of the text model's own repository")));
        }
        let keys = projector.keys(files);
        let width = keys.required("projection_dim", keys.size("projection_dim")?)?;
        if width != config.hidden_size {
            let key = keys.full("projection_dim");
            let expected = format!("{}, the width of the text model", config.hidden_size);
            return Err(Error::Config(format!("{key} is {width}, expected {expected}; take the mmproj file of the same model")));
        }
    }
    Ok(())
}

/// A tensor's shape, of N dimensions.
fn shape<const N: usize>(files: &GgufFiles, name: &str) -> Result<[usize; N]> {
    let missing = || files.error(format!("tensor '{name}' is missing; is the file complete?"));
    let found = &files.tensor(name).ok_or_else(missing)?.shape;
    let misshapen = |_| files.error(format!("tensor '{name}' has shape {found:?}, expected {N} dimensions"));
    found.clone().try_into().map_err(misshapen)
}

/// True if a tensor's name begins and ends so.
fn has(files: &GgufFiles, start: &str, end: &str) -> bool {
    let mut tensors = files.parts.iter().flat_map(|part| &part.tensors);
    tensors.any(|tensor| tensor.name.starts_with(start) && tensor.name.ends_with(end))
}

fn needed(keys: &Keys, key: &str) -> Result<usize> {
    keys.required(key, keys.size(key)?)
}

/// Absent for the default of the class.
fn or_default<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

const EPSILON: &str = "attention.layer_norm_epsilon";
const POOLED: &str = "projector.scale_factor";

fn siglip(keys: &Keys, top: &mut Map<String, Value>) -> Result<()> {
    let image_size = needed(keys, "image_size")?;
    let patch_size = needed(keys, "patch_size")?;
    let pooled = keys.size(POOLED)?.unwrap_or(4);
    let grid = image_size / patch_size.max(1);
    if pooled == 0 || !grid.is_multiple_of(pooled) {
        let key = keys.full(POOLED);
        return Err(Error::Config(format!("{key} is {pooled}, expected a divisor of the grid of {grid}² patches")));
    }
    top.insert("mm_tokens_per_image".into(), (grid / pooled).saturating_pow(2).into());
    let vision = json!({
        "model_type": "siglip_vision_model",
        "hidden_size": needed(keys, "embedding_length")?,
        "intermediate_size": needed(keys, "feed_forward_length")?,
        "num_hidden_layers": needed(keys, "block_count")?,
        "num_attention_heads": needed(keys, "attention.head_count")?,
        "image_size": image_size,
        "patch_size": patch_size,
        "layer_norm_eps": or_default(keys.number(EPSILON)?),
    });
    top.insert("vision_config".into(), vision);
    Ok(())
}

fn vision4(files: &GgufFiles, keys: &Keys, top: &mut Map<String, Value>) -> Result<()> {
    let [head_dim] = shape(files, "v.blk.0.attn_q_norm.weight")?;
    let [key_rows, _] = shape(files, "v.blk.0.attn_k.weight")?;
    let [_, places, _] = shape(files, "v.position_embd.weight")?;
    let vision = json!({
        "model_type": "gemma4_vision",
        "hidden_size": needed(keys, "embedding_length")?,
        "intermediate_size": needed(keys, "feed_forward_length")?,
        "num_hidden_layers": needed(keys, "block_count")?,
        "num_attention_heads": needed(keys, "attention.head_count")?,
        "num_key_value_heads": key_rows / head_dim.max(1),
        "head_dim": head_dim,
        "rms_norm_eps": or_default(keys.number(EPSILON)?),
        "patch_size": needed(keys, "patch_size")?,
        "pooling_kernel_size": or_default(keys.size(POOLED)?),
        "position_embedding_size": places,
        "use_clipped_linears": has(files, "v.", ".input_max"),
        "standardize": has(files, "v.std_", ""),
    });
    top.insert("vision_config".into(), vision);
    Ok(())
}

fn unified_vision(files: &GgufFiles, keys: &Keys, top: &mut Map<String, Value>) -> Result<()> {
    let [_, places, _] = shape(files, "v.position_embd.weight")?;
    let vision = json!({
        "model_type": "gemma4_unified_vision",
        "mm_embed_dim": needed(keys, "embedding_length")?,
        "mm_posemb_size": places,
        "patch_size": needed(keys, "patch_size")?,
        "pooling_kernel_size": or_default(keys.size(POOLED)?),
        "rms_norm_eps": or_default(keys.number(EPSILON)?),
    });
    top.insert("vision_config".into(), vision);
    Ok(())
}

/// `patch_size` is the side of a picture over its soft tokens, whatever it is called.
fn mobilenet(files: &GgufFiles, keys: &Keys, ids: &MultimodalConfig, top: &mut Map<String, Value>) -> Result<()> {
    let [count, width] = shape(files, "mm.embedding.weight")?;
    let tokens = keys.size("image_size")?.zip(keys.size("patch_size")?).map(|(side, patch)| side / patch.max(1));
    top.insert("vision_soft_tokens_per_image".into(), or_default(tokens));
    let vision = json!({
        "model_type": "gemma3n_vision",
        "rms_norm_eps": or_default(keys.number(EPSILON)?),
        "hidden_size": width,
        "vocab_size": count,
        // The embedder's first id ends a picture.
        "vocab_offset": or_default(ids.image.map(|ids| ids.end)),
    });
    top.insert("vision_config".into(), vision);
    Ok(())
}

/// Rows of the two convolutions, and the taps of a layer's.
fn convolutions(files: &GgufFiles) -> Result<([usize; 2], usize)> {
    let [first, ..] = shape::<4>(files, "a.conv1d.0.weight")?;
    let [second, ..] = shape::<4>(files, "a.conv1d.1.weight")?;
    let taps = files.tensor("a.blk.0.conv_dw.weight").and_then(|tensor| tensor.shape.last().copied());
    let missing = || files.error("tensor 'a.blk.0.conv_dw.weight' is missing; is the file complete?".into());
    Ok(([first, second], taps.ok_or_else(missing)?))
}

fn audio4(files: &GgufFiles, keys: &Keys, top: &mut Map<String, Value>) -> Result<()> {
    let (channels, taps) = convolutions(files)?;
    let [output, _] = shape(files, "a.pre_encode.out.weight")?;
    let audio = json!({
        "model_type": "gemma4_audio",
        "hidden_size": needed(keys, "embedding_length")?,
        "num_hidden_layers": needed(keys, "block_count")?,
        "num_attention_heads": needed(keys, "attention.head_count")?,
        "subsampling_conv_channels": channels,
        "conv_kernel_size": taps,
        "use_clipped_linears": has(files, "a.", ".input_max"),
        "output_proj_dims": output,
    });
    top.insert("audio_config".into(), audio);
    Ok(())
}

fn audio3n(files: &GgufFiles, keys: &Keys, ids: &MultimodalConfig, top: &mut Map<String, Value>) -> Result<()> {
    let (channels, taps) = convolutions(files)?;
    let [count, _] = shape(files, "mm.a.embedding.weight")?;
    let audio = json!({
        "model_type": "gemma3n_audio",
        "hidden_size": needed(keys, "embedding_length")?,
        "conf_num_hidden_layers": needed(keys, "block_count")?,
        "conf_num_attention_heads": needed(keys, "attention.head_count")?,
        "input_feat_size": or_default(keys.size("num_mel_bins")?),
        "sscp_conv_channel_size": channels,
        "conf_conv_kernel_size": taps,
        "vocab_size": count,
        // The embedder's first id ends a clip.
        "vocab_offset": or_default(ids.audio.map(|ids| ids.end)),
    });
    top.insert("audio_config".into(), audio);
    Ok(())
}

/// What the file says of a picture's pixels, as an image processor's fields.
fn pixels(files: &GgufFiles) -> Result<Fields> {
    let numbers = |key: &str| files.metadata.numbers(key).map(or_default).map_err(Error::Config);
    let side = files.metadata.size("clip.vision.image_size").map_err(Error::Config)?;
    let mut fields = Map::new();
    fields.insert("image_mean".into(), numbers("clip.vision.image_mean")?);
    fields.insert("image_std".into(), numbers("clip.vision.image_std")?);
    if let Some(side) = side {
        fields.insert("size".into(), json!({"height": side, "width": side}));
    }
    Ok(Fields::new(fields, "clip.vision."))
}
