//! The tensors of pictures.

use anyhow::{Result, anyhow};
use gemmaflow::{
    gemma::{GemmaConfig, VisionConfig},
    image::{Image, ImageProcessor, Patches},
    ir::Value,
    vision::VisionEncoder,
};

use crate::tensors::{Tensors, batch, joined, output};

/// A picture and what the tower makes of it.
struct Seen {
    patches: Patches,
    /// Most patches of the picture, and most soft tokens.
    most: [usize; 2],
    outputs: Tensors,
    /// As the text model takes them.
    soft: Vec<f32>,
}

/// What the tower is given and makes of each picture, and the states between of the first.
pub fn of(pictures: &[(Image, usize)], encoder: &VisionEncoder, config: &GemmaConfig) -> Result<Tensors> {
    let Some(vision) = config.multimodal.vision.as_ref().filter(|_| !pictures.is_empty()) else { return Ok(Vec::new()) };
    let mut seen = Vec::new();
    for (image, budget) in pictures {
        let between = if seen.is_empty() { between(vision) } else { Vec::new() };
        seen.push(look(image, *budget, encoder, vision, &between)?);
    }
    let mut tensors = given(vision, &seen);
    if let Some(first) = seen.first() {
        for (theirs, ours) in between(vision) {
            let (values, width) = output(&first.outputs, &ours)?;
            tensors.push((theirs, batch(vec![in_their_order(vision, first, values, width)], width)));
        }
        if let VisionConfig::Gemma4(tower) = vision {
            let name = if tower.standardize { "vision.pooled" } else { "vision.tower" };
            let (mut values, width) = output(&first.outputs, name)?;
            values[first.soft.len() / config.hidden_size * width..].fill(0.0);
            tensors.push(("vision.pooled".into(), batch(vec![values], width)));
        }
    }
    tensors.extend(made(vision, &seen, config.hidden_size)?);
    Ok(tensors)
}

/// Transformers' names of states between, and ours.
fn between(vision: &VisionConfig) -> Vec<(String, String)> {
    let layers = match vision {
        VisionConfig::Siglip(config) => config.num_hidden_layers,
        VisionConfig::Gemma4(config) => config.num_hidden_layers,
        VisionConfig::Unified(_) => return vec![("vision.patch_dense".into(), "vision.patch_dense".into())],
        _ => return Vec::new(),
    };
    let layers = (0..layers).map(|n| (format!("vision.layer_out.{n}"), format!("vision.layer.{n}.output")));
    [("vision.embeddings".into(), "vision.embeddings".into())].into_iter().chain(layers).collect()
}

fn look(
    image: &Image,
    budget: usize,
    encoder: &VisionEncoder,
    vision: &VisionConfig,
    between: &[(String, String)],
) -> Result<Seen> {
    let processor = ImageProcessor::new(vision, budget).ok_or_else(|| anyhow!("this model's tower takes no pictures"))?;
    let patches = processor.patches(image)?;
    let mut labels = vec!["vision.tower"];
    labels.extend(between.iter().map(|(_, ours)| ours.as_str()));
    let mut most = [patches.rows * patches.columns, budget];
    match vision {
        VisionConfig::Gemma4(config) => {
            most[0] = budget * config.pooling_kernel_size * config.pooling_kernel_size;
            labels.extend((config.standardize && !between.is_empty()).then_some("vision.pooled"));
        }
        VisionConfig::Unified(_) => most[0] = budget,
        _ => {}
    }
    let outputs = encoder.run(&patches, budget, &labels)?;
    Ok(Seen { patches, most, outputs, soft: encoder.encode_within(image, budget)?.values().to_vec() })
}

/// `pixel_values`, and where patches have places `image_position_ids`.
fn given(vision: &VisionConfig, seen: &[Seen]) -> Tensors {
    let pixels = |patches: &Patches| match vision {
        VisionConfig::Siglip(config) => of_patches(patches, config.image_size, config.patch_size),
        VisionConfig::MobileNet(config) => channels_first(&patches.values, config.image_size),
        _ => patches.values.clone(),
    };
    let each = seen.iter().map(|seen| pixels(&seen.patches)).collect::<Vec<_>>();
    let square = |size: usize| {
        let pixels = batch(each.clone(), size * size);
        vec![("pixel_values".into(), Value { shape: vec![seen.len(), 3, size, size], ..pixels })]
    };
    match vision {
        VisionConfig::Siglip(config) => return square(config.image_size),
        VisionConfig::MobileNet(config) => return square(config.image_size),
        _ => {}
    }
    let most = seen.iter().map(|seen| seen.most[0]).max().unwrap_or(0);
    let width = seen.first().map_or(1, |Seen { patches, .. }| patches.values.len() / (patches.rows * patches.columns));
    let filled = |mut values: Vec<f32>| {
        values.resize(most * width, 0.0);
        values
    };
    let pixels = batch(each.into_iter().map(filled).collect(), width);
    let places = |seen: &Seen| {
        let columns = seen.patches.columns;
        let live = seen.patches.rows * columns;
        (0..most).flat_map(move |at| if at < live { [at % columns, at / columns].map(|place| place as i32) } else { [-1; 2] })
    };
    let places = Value::i32([seen.len(), most, 2], seen.iter().flat_map(places).collect::<Vec<_>>());
    vec![("pixel_values".into(), pixels), ("image_position_ids".into(), places)]
}

/// The picture `[3, S, S]` of patches that are each channel, row, column.
fn of_patches(patches: &Patches, size: usize, patch: usize) -> Vec<f32> {
    let pixel = |at: usize| {
        let [channel, y, x] = [at / (size * size), at / size % size, at % size];
        let index = y / patch * patches.columns + x / patch;
        patches.values[((index * 3 + channel) * patch + y % patch) * patch + x % patch]
    };
    (0..3 * size * size).map(pixel).collect()
}

/// The picture `[3, S, S]` of one that is row, column, channel.
fn channels_first(values: &[f32], size: usize) -> Vec<f32> {
    let places = size * size;
    (0..3 * places).map(|at| values[at % places * 3 + at / places]).collect()
}

/// `vision.tower` and `vision.soft`.
fn made(vision: &VisionConfig, seen: &[Seen], hidden: usize) -> Result<Tensors> {
    let mut tower = Vec::new();
    let mut soft = Vec::new();
    let mut width = 1;
    for seen in seen {
        let (mut states, columns) = output(&seen.outputs, "vision.tower")?;
        let tokens = seen.soft.len() / hidden;
        width = columns;
        let mut rows = seen.soft.clone();
        match vision {
            VisionConfig::Gemma4(_) => states.truncate(tokens * width),
            VisionConfig::MobileNet(_) => {
                states = (0..width * tokens).map(|at| states[at % tokens * width + at / tokens]).collect();
            }
            VisionConfig::Unified(_) => rows.extend(&output(&seen.outputs, "soft_tokens")?.0[rows.len()..]),
            _ => {}
        }
        tower.push(states);
        soft.push(rows);
    }
    let tensors = match vision {
        VisionConfig::Gemma4(_) => [joined(tower, width), joined(soft, hidden)],
        VisionConfig::MobileNet(config) => {
            let side = config.soft_tokens_per_image.isqrt();
            let tower = batch(tower, side * side);
            [Value { shape: vec![seen.len(), width, side, side], ..tower }, batch(soft, hidden)]
        }
        _ => [batch(tower, width), batch(soft, hidden)],
    };
    Ok(["vision.tower", "vision.soft"].map(String::from).into_iter().zip(tensors).collect())
}

/// Rows of patches in row-major order; in Gemma 4 those of one soft token are neighbours. Padding stays behind them.
fn in_their_order(vision: &VisionConfig, seen: &Seen, values: Vec<f32>, width: usize) -> Vec<f32> {
    let VisionConfig::Gemma4(config) = vision else { return values };
    let side = config.pooling_kernel_size;
    let columns = seen.patches.columns;
    let live = seen.patches.rows * columns;
    let place = |at: usize| {
        let [row, column] = [at / columns, at % columns];
        let square = row / side * (columns / side) + column / side;
        square * side * side + row % side * side + column % side
    };
    let rows = (0..values.len() / width).map(|at| if at < live { place(at) } else { at });
    rows.flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect()
}
