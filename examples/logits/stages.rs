//! The tensors of `--stages`: what towers and text model are given, and the states between, with the names, shapes and
//! padding of transformers.

mod pictures;
mod sounds;

use std::{path::Path, sync::Arc};

use anyhow::{Result, anyhow};
use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow, VisionConfig},
    internals::{prompt_inputs, with_soft_tokens},
    ir::{
        Op, Value,
        ops::{Input, Role},
    },
    prompt::{Modality, Prompt},
    runtime::{CompileOptions, Device, GpuContext, RunInput, Session},
};

use crate::{common, parts::LaidOut, tensors::Tensors};

/// All of them. The text model's run on the device of `gpu`, or on the reference.
pub fn of(laid_out: &LaidOut, config: &GemmaConfig, model: &Path, gpu: Option<&Arc<GpuContext>>) -> Result<Tensors> {
    let mut tensors = vec![("inputs_embeds".to_string(), inputs_embeds(&laid_out.prompt, config, model)?)];
    tensors.push(("hidden".to_string(), hidden(&laid_out.prompt, config, model, gpu)?));
    tensors.push(token_types(&laid_out.prompt, config));
    if let Some(encoder) = &laid_out.vision {
        tensors.extend(pictures::of(&laid_out.pictures, encoder, config)?);
        tensors.extend(of_frames(pictures::of(&laid_out.frames, encoder, config)?));
    }
    if let Some(encoder) = &laid_out.hearing {
        tensors.extend(sounds::of(&laid_out.clips, encoder, config)?);
    }
    Ok(tensors)
}

/// The states of all tokens behind the last norm.
fn hidden(prompt: &Prompt, config: &GemmaConfig, model: &Path, gpu: Option<&Arc<GpuContext>>) -> Result<Value> {
    let (_, mut weights) = common::open(model)?;
    let flow = GemmaFlow::for_prefill(config, 1, prompt.len()).hidden_only();
    let mut built = with_soft_tokens(flow).build(weights.as_mut())?;
    let mut inputs = prompt_inputs(&built, prompt, 0)?;
    // A session derives the visible positions of text alone. Those of pictures are given.
    for node in built.graph.ids().collect::<Vec<_>>() {
        if let Op::Input(input @ Input { role: Role::Visible { .. }, .. }) = built.graph.node(node).op.clone() {
            built.graph.replace_op(node, Input { role: Role::Caller, ..input });
        }
    }
    let is_given = |input: &Input| matches!(input.role, Role::Caller | Role::SoftRows | Role::IsText);
    inputs.retain(|(name, _)| built.graph.inputs().any(|(_, input)| input.name == *name && is_given(input)));
    let session = gpu.map_or_else(|| Session::new(&Device::Cpu), |gpu| Ok(Session::on(gpu)))?;
    let options = CompileOptions::default().with_weights(&session.load(built.params())?);
    let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
    let outputs = session.compile_with(&built.graph, &options)?.run(&given)?;
    let (rows, width) = crate::tensors::output(&outputs, "hidden")?;
    Ok(Value::f32([1, prompt.len(), width], rows))
}

/// What frames of videos are given, by transformers' names; what the tower makes of them has `video.` before it.
fn of_frames(tensors: Tensors) -> Tensors {
    let renamed = |name: String| match name.as_str() {
        "pixel_values" => "pixel_values_videos".to_string(),
        "image_position_ids" => "video_position_ids".to_string(),
        _ => format!("video.{name}"),
    };
    tensors.into_iter().map(|(name, value)| (renamed(name), value)).collect()
}

/// Which tokens are of pictures (1), videos (2) and sounds (3).
fn token_types(prompt: &Prompt, config: &GemmaConfig) -> (String, Value) {
    let mut types = vec![0; prompt.len()];
    for (start, soft) in prompt.soft_tokens() {
        let kind = match soft.modality() {
            Modality::Image if Some(soft.placeholder()) == config.multimodal.video => 2,
            Modality::Image => 1,
            Modality::Audio => 3,
        };
        types[start..start + soft.len()].fill(kind);
    }
    let older = matches!(config.multimodal.vision, Some(VisionConfig::Siglip(_) | VisionConfig::MobileNet(_)));
    let name = if older || config.altup.is_some() { "token_type_ids" } else { "mm_token_type_ids" };
    (name.to_string(), Value::u32([1, types.len()], types))
}

/// The embeddings of all tokens, soft tokens in their places. A look-up needs no device.
fn inputs_embeds(prompt: &Prompt, config: &GemmaConfig, model: &Path) -> Result<Value> {
    let mut ids = prompt.tokens().to_vec();
    prompt.soft_tokens().for_each(|(start, soft)| ids[start..start + soft.len()].fill(0));
    let (_, mut weights) = common::open(model)?;
    let built = GemmaFlow::for_prefill(config, 1, ids.len()).hidden_only().build(weights.as_mut())?;
    let named = |name: &str| built.graph.ids().rev().find(|id| built.graph.node(*id).name == name);
    let node = named("token_embeds").or_else(|| named("embed")).ok_or_else(|| anyhow!("the model has no embeddings"))?;
    let graph = built.graph.with_outputs(vec![("embed".into(), node)]);
    let session = Session::new(&Device::Cpu)?;
    let options = CompileOptions::default().with_weights(&session.load(built.params())?);
    let outputs = session.compile_with(&graph, &options)?.run(&[("input_ids", &ids[..])])?;
    let (mut rows, width) = crate::tensors::output(&outputs, "embed")?;
    for (start, soft) in prompt.soft_tokens() {
        rows[start * width..(start + soft.len()) * width].copy_from_slice(soft.values());
    }
    Ok(Value::f32([1, ids.len(), width], rows))
}
