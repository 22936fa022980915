//! The towers of a projector's file (`mmproj`), as a checkpoint has them.

use super::elementwise::{before_softplus, minus_one, widened};
use crate::{
    Error, Result,
    files::ModelPath,
    gemma::{
        GemmaConfig, Projector, ProjectorShape, ProjectorValues, ProjectorWeight, is_projector, projector_weight, projectors,
    },
    weights::{GgufFiles, GgufPart, ReadOptions, Tensor, WeightMap, transposed_each},
};

/// Channels of a pixel.
const CHANNELS: usize = 3;

/// The towers of the projector's file at `path`, or of the one that lies beside the text model at `path`.
///
/// # Errors
/// [`Error::Unsupported`] for a text model without a projector; [`Error::Config`] where several lie there, and for a
/// file that is no projector's of this crate's models; [`Error::Format`] for tensors that are not what they are called.
pub(crate) fn open_projector(path: &ModelPath) -> Result<WeightMap> {
    let files = GgufFiles::open(path, ReadOptions::default())?;
    if is_projector(&files) {
        return towers(files, path);
    }
    match GemmaConfig::projector_beside(path)? {
        Some(beside) => towers(GgufFiles::open(&beside, ReadOptions::default())?, &beside),
        None => {
            let what = "pictures and sounds with a GGUF file and no projector for them; put the model's own, a file with mmproj \
                        in its name, beside it, or name it (its path in the place of the model's)";
            Err(Error::Unsupported(what.into()))
        }
    }
}

fn towers(files: GgufFiles, path: &ModelPath) -> Result<WeightMap> {
    let held = projectors(&files, path)?;
    let exchanged = has_exchanged_products(&files);
    let mut weights = WeightMap::default();
    for GgufPart { file, tensors, .. } in files.parts {
        for entry in tensors {
            let name = if exchanged { exchange(&entry.name) } else { entry.name.clone() };
            let weight = held.iter().find_map(|projector: &Projector| projector_weight(*projector, &name));
            let Some(weight) = weight else {
                tracing::debug!(tensor = entry.name, "left out: no tower has it");
                continue;
            };
            if weights.contains(&weight.key) {
                return Err(file.format(format!("tensor '{}': there is already a weight '{}'", entry.name, weight.key)));
            }
            let name = entry.name.clone();
            let named = |problem| file.format(format!("tensor '{name}' {problem}"));
            let read = match entry.tensor(&weight.key, &file) {
                Ok(tensor) => Ok(as_stored(tensor, &weight).map_err(named)?),
                Err(foreign) => Err(foreign),
            };
            weights.insert_read(&weight.key, read);
        }
    }
    Ok(weights)
}

/// True for files of Gemma 3 from the first weeks, which call the products of the FFW by each other's names: what is
/// called `down` reads as many numbers as a layer has.
fn has_exchanged_products(files: &GgufFiles) -> bool {
    let shape = |name: &str| files.tensor(name).map(|tensor| &tensor.shape[..]);
    match (shape("v.blk.0.ffn_down.weight"), shape("v.blk.0.ln1.weight"), shape("v.blk.0.ffn_gate.weight")) {
        (Some([written, read]), Some([width]), None) => read == width && written != width,
        _ => false,
    }
}

fn exchange(name: &str) -> String {
    const UP: &str = ".ffn_up.";
    const DOWN: &str = ".ffn_down.";
    if name.contains(UP) { name.replacen(UP, DOWN, 1) } else { name.replacen(DOWN, UP, 1) }
}

/// The tensor as a checkpoint has it.
///
/// # Errors
/// Says which shape it has where it cannot be so.
fn as_stored(tensor: Tensor, weight: &ProjectorWeight) -> Result<Tensor, String> {
    let tensor = shaped(tensor, weight.shape);
    match weight.values {
        ProjectorValues::Same => Ok(tensor),
        ProjectorValues::PlusOne => Ok(minus_one(tensor)),
        ProjectorValues::Softplus => Ok(before_softplus(tensor)),
        ProjectorValues::Transposable => Ok(in_elements(tensor)),
        ProjectorValues::ChannelsFirst => match tensor.shape()[..] {
            [out, CHANNELS, rows, columns] => {
                let pixels = rows * columns;
                Ok(exchanged(in_elements(tensor), [CHANNELS, pixels], 1, vec![out, CHANNELS * pixels]))
            }
            // As a matrix it is the checkpoint's.
            [_, _] => Ok(tensor),
            _ => Err(format!("has shape {:?}, expected [E, 3, p, p]", tensor.shape())),
        },
        ProjectorValues::FlatChannelsFirst => match tensor.shape().last() {
            Some(row) if row.is_multiple_of(CHANNELS) => {
                let pixels = row / CHANNELS;
                let shape = tensor.shape().to_vec();
                Ok(exchanged(in_elements(tensor), [CHANNELS, pixels], 1, shape))
            }
            _ => Err(format!("has shape {:?}, expected rows of 3·p² numbers", tensor.shape())),
        },
        ProjectorValues::Exchanged => match tensor.shape()[..] {
            [first, second, row] => Ok(exchanged(tensor, [first, second], row, vec![second, first, row])),
            _ => Err(format!("has shape {:?}, expected [2, places, E]", tensor.shape())),
        },
    }
}

/// Matrices `[rows, columns]` of pieces of `piece` elements, each transposed.
fn exchanged(tensor: Tensor, sizes: [usize; 2], piece: usize, shape: Vec<usize>) -> Tensor {
    let (elements, bytes) = tensor.dtype().block();
    transposed_each(tensor, sizes, piece / elements * bytes, shape)
}

/// The tensor in a type whose elements lie by themselves.
fn in_elements(tensor: Tensor) -> Tensor {
    if tensor.dtype().scalar_bytes().is_some() { tensor } else { widened(tensor) }
}

/// The same values in a checkpoint's dimensions; of other dimensions than are expected nothing is changed, and the
/// graph refuses them.
fn shaped(tensor: Tensor, shape: ProjectorShape) -> Tensor {
    let found = tensor.shape().to_vec();
    match (shape, &found[..]) {
        (ProjectorShape::Scalar, [1]) => tensor.with_shape(&[]),
        (ProjectorShape::Flat, [1, count, 1, 1]) => tensor.with_shape(&[*count]),
        (ProjectorShape::Depthwise, [channels, taps]) => tensor.with_shape(&[*channels, 1, *taps]),
        _ => tensor,
    }
}

#[cfg(test)]
mod tests;
