//! Projectors' files that are damaged, hostile, old, or of another model.

use std::path::Path;

use gemmaflow::{
    Error, Result,
    checkpoint::load_towers_from_path,
    conversation::{Model, Towers},
    gemma::{AudioConfig, GemmaConfig, VisionConfig},
    generate::GeneratorOptions,
    hearing::{AudioEncoder, TowerOptions},
    runtime::{Device, GpuOptions},
    vision::VisionEncoder,
    weights::{Tensor, WeightMap},
};

use super::{
    SOFT, as_converted,
    common::{gguf::Writer, multimodal::Multimodal, open, oracle::worst},
    expected_pictures, mmproj, picture_error, pictures, sound_error, sounds, stored, text, text_alone,
};

/// Loads the tower that a tensor or key of a file is of.
fn load(oracle: &Multimodal, path: &Path, name: &str) -> Result<()> {
    let config = text_alone(oracle);
    if ["a.", "mm.a.", "clip.audio."].iter().any(|start| name.starts_with(start)) {
        return AudioEncoder::from_path(&config, path, None).map(drop);
    }
    VisionEncoder::from_path(&config, path, None).map(drop)
}

fn loaded(oracle: &Multimodal, writer: &Writer, name: &str) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mmproj.gguf");
    writer.write(&path);
    load(oracle, &path, name)
}

/// Every weight by its key, in f32.
fn weights(path: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut loader = load_towers_from_path(path).unwrap();
    let keys = loader.remaining_keys();
    let weight = |key: String| {
        let tensor = loader.take(&key).unwrap();
        let shape = tensor.shape().to_vec();
        (key, shape, tensor.to_f32().unwrap())
    };
    keys.into_iter().map(weight).collect()
}

fn renamed(mut writer: Writer, name: impl Fn(&str) -> String) -> Writer {
    writer.tensors.iter_mut().for_each(|tensor| tensor.0 = name(&tensor.0));
    writer
}

/// Names and shapes that older converters wrote.
#[test]
fn older_files_hold_the_same_weights() {
    let swapped = |name: &str| match name {
        name if name.contains("ffn_up") => name.replace("ffn_up", "ffn_down"),
        name => name.replace("ffn_down", "ffn_up"),
    };
    let bare = |name: &str| name.replace("per_dim_scale.weight", "per_dim_scale");
    let [siglip, audio] = ["gemma3-vision", "gemma4-audio"].map(Multimodal::open);
    let mut deep = stored(&audio);
    for (name, dims, ..) in &mut deep.tensors {
        if name.ends_with("conv_dw.weight") {
            dims.insert(1, 1);
        }
    }
    let one_key = stored(&siglip).text("clip.vision.projector_type", "gemma3");
    for (oracle, writer) in [
        (&siglip, renamed(stored(&siglip), swapped)),
        (&siglip, one_key),
        (&audio, renamed(stored(&audio), bare)),
        (&audio, deep),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mmproj.gguf");
        writer.write(&path);
        assert_eq!(weights(&path), weights(&mmproj(oracle)), "{}", oracle.name);
        load(oracle, &path, "v.").unwrap();
    }
}

/// Each of these gives other soft tokens, by more than the gates allow.
#[test]
fn a_converters_change_that_is_not_undone_is_noticed() {
    let exchanged_norms = |name: &str| match name {
        name if name.contains(".conv_norm.") => name.replace("conv_norm", "norm_conv"),
        name => name.replace("norm_conv", "conv_norm"),
    };
    let changed = |oracle: &Multimodal, tensor: &str, of: fn(&mut [f32])| {
        let mut writer = stored(oracle);
        for (_, _, ty, bytes) in writer.tensors.iter_mut().filter(|(name, ..)| name.ends_with(tensor)) {
            assert_eq!(*ty, 0);
            let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            of(&mut values);
            *bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        writer
    };
    // Pixels of 4×4 patches row, column, channel, as they would be without a permutation.
    let unmoved = |values: &mut [f32]| {
        for row in values.chunks_mut(48) {
            let first = row.to_vec();
            (0..48).for_each(|at| row[at] = first[at % 3 * 16 + at / 3]);
        }
    };
    let [siglip, vision, audio] = ["gemma3-vision", "gemma4-vision", "gemma4-audio"].map(Multimodal::open);
    for (what, oracle, writer) in [
        ("γ + 1", &siglip, changed(&siglip, "mm.soft_emb_norm.weight", |x| x.iter_mut().for_each(|x| *x += 1.0))),
        ("channels", &vision, changed(&vision, "v.patch_embd.weight", unmoved)),
        ("softplus", &audio, changed(&audio, "per_dim_scale.weight", |x| x.iter_mut().for_each(|x| *x = x.exp().ln_1p()))),
        ("norms", &audio, renamed(stored(&audio), exchanged_norms)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mmproj.gguf");
        writer.write(&path);
        let config = text_alone(oracle);
        let error = match what {
            "softplus" | "norms" => {
                let encoder = AudioEncoder::from_path(&config, &path, None).unwrap();
                sound_error(oracle, "one", &sounds(oracle, &encoder, "one"))
            }
            _ => {
                let encoder = VisionEncoder::from_path(&config, &path, None).unwrap();
                let expected = expected_pictures(oracle, as_converted(oracle, None).as_ref(), "one");
                picture_error(&pictures(oracle, &encoder, "one"), &expected)
            }
        };
        println!("{what}: {error:.1e}");
        assert!(error > 1000.0 * SOFT, "{what}: {error}");
    }
}

#[test]
fn a_tensor_that_is_missing_or_misshapen_is_an_error() {
    for name in ["gemma3-vision", "gemma3n-audio", "gemma4-audio", "gemma4-e-vision-bf16", "gemma4-unified", "gemma4-vision"] {
        let oracle = Multimodal::open(name);
        let whole = stored(&oracle);
        for (at, (tensor, dims, ..)) in whole.tensors.iter().enumerate() {
            // Of later layers one each; no tower reads the norm of the text's ids.
            let later = ["blk.1.", "blk.2.", "blk.3."].iter().any(|block| tensor.contains(block)) && !tensor.contains("attn_q.");
            if later || tensor == "mm.hard_emb_norm.weight" {
                continue;
            }
            // A block without some weights is another of timm's blocks.
            let is_optional = name.starts_with("gemma3n") && tensor.starts_with("v.");
            let mut without = whole.clone();
            without.tensors.remove(at);
            match loaded(&oracle, &without, tensor) {
                Err(Error::Weight(_) | Error::Format { .. } | Error::Unsupported(_)) => {}
                other => assert!(is_optional, "{name} without {tensor}: {other:?}"),
            }
            if tensor == "v.conv_stem.conv.bias" {
                // As a row it is the checkpoint's.
                continue;
            }
            let mut flat = whole.clone();
            flat.tensors[at].1 = if dims.len() == 1 { vec![dims[0], 1] } else { vec![dims.iter().product()] };
            loaded(&oracle, &flat, tensor).expect_err(tensor);
        }
    }
}

/// Sizes that the tensors contradict, each at three values.
#[test]
fn keys_that_make_no_sense_are_errors() {
    for (name, key) in [
        ("gemma3-vision", "clip.vision.block_count"),
        ("gemma3-vision", "clip.vision.embedding_length"),
        ("gemma3-vision", "clip.vision.feed_forward_length"),
        ("gemma3-vision", "clip.vision.image_size"),
        ("gemma3-vision", "clip.vision.patch_size"),
        ("gemma3-vision", "clip.vision.projection_dim"),
        ("gemma3-vision", "clip.vision.attention.head_count"),
        ("gemma3n-audio", "clip.audio.block_count"),
        ("gemma3n-audio", "clip.audio.attention.head_count"),
        ("gemma3n-vision", "clip.vision.image_size"),
        ("gemma3n-vision", "clip.vision.patch_size"),
        ("gemma4-audio", "clip.audio.block_count"),
        ("gemma4-audio", "clip.audio.embedding_length"),
        ("gemma4-unified", "clip.vision.embedding_length"),
        ("gemma4-unified", "clip.vision.patch_size"),
        ("gemma4-vision", "clip.vision.attention.head_count"),
        ("gemma4-vision", "clip.vision.patch_size"),
    ] {
        let oracle = Multimodal::open(name);
        let whole = stored(&oracle);
        for value in [0, 7, u32::MAX] {
            let error = loaded(&oracle, &whole.clone().u32(key, value), key).expect_err(key);
            let is_typed = matches!(error, Error::Config(_) | Error::Weight(_) | Error::Unsupported(_));
            assert!(is_typed, "{name}: {key} {value}: {error}");
        }
        let mut without = whole.clone();
        without.pairs.retain(|(own, ..)| own != key);
        match loaded(&oracle, &without, key) {
            Err(Error::Config(problem)) => assert!(problem.contains(key), "{name}: {problem}"),
            other => assert!(name == "gemma3n-vision", "{name} without {key}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_cut_is_an_error() {
    let oracle = Multimodal::open("gemma4-unified");
    let bytes = std::fs::read(mmproj(&oracle)).unwrap();
    let folder = text::folder(&oracle);
    let path = folder.path().join("mmproj-model-f16.gguf");
    for part in 0..40 {
        std::fs::write(&path, &bytes[..bytes.len() * part / 40]).unwrap();
        let error = load(&oracle, &path, "v.").unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        // The text beside it is as it was, and says why it is blind.
        let config = GemmaConfig::near_weights(folder.path().join("model.gguf")).unwrap();
        assert!(matches!(&config.multimodal.vision, Some(VisionConfig::Unsupported(why)) if why.contains("mmproj")));
        assert!(matches!(&config.multimodal.audio_tower, Some(AudioConfig::Unsupported(_))));
    }
}

#[test]
fn projectors_of_other_models_are_refused_in_words() {
    let [siglip, small, vision, audio] =
        ["gemma3-vision", "gemma3-vision-bf16", "gemma4-vision", "gemma4-audio"].map(Multimodal::open);
    let refused = |oracle: &Multimodal, writer: &Writer, words: &[&str]| {
        let error = loaded(oracle, writer, "v.").unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, Error::Config(_) | Error::Unsupported(_)), "{told}");
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    };
    refused(&vision, &stored(&siglip), &["gemma3_text", "gemma4_text", "own repository"]);
    let other = if small.config.hidden_size == siglip.config.hidden_size { &audio } else { &small };
    let [model, projector] = if other.name == small.name { [&siglip, &small] } else { [&vision, &audio] };
    refused(model, &stored(projector), &["projection_dim", &model.config.hidden_size.to_string(), "same model"]);
    let kind = "clip.vision.projector_type";
    refused(&vision, &stored(&vision).text(kind, "qwen2vl_merger"), &[kind, "qwen2vl_merger", "gemma4v"]);
    refused(&vision, &stored(&vision).text("clip.projector_type", "gemma4uv"), &["2 projectors of pictures"]);
    let mut none = stored(&vision);
    none.pairs.retain(|(key, ..)| key != kind);
    refused(&vision, &none, &["projector_type is missing"]);
    refused(&vision, &stored(&vision).u32(kind, 7), &[kind]);

    // A projector as the model, and a model as the projector.
    let error = Model::open(mmproj(&siglip), Device::Cpu, GeneratorOptions::default()).unwrap_err().to_string();
    assert!(error.contains("mmproj") && error.contains("text model's own file"), "{error}");
    let folder = text::folder(&siglip);
    let text = folder.path().join("model.gguf");
    let error =
        Model::open_with_projector(&text, &text, Device::Cpu, GeneratorOptions::default(), Towers::default()).unwrap_err();
    assert!(matches!(&error, Error::Config(problem) if problem.contains("clip") && problem.contains("mmproj")), "{error}");
}

/// A row in blocks of 32: their largest number over 127 in f16, and 8 bits each.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let block = |values: &[f32]| {
        let scale = half::f16::from_f32(values.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0);
        let bytes = values.iter().map(|x| (x / scale.to_f32().max(1e-9)).round() as i8 as u8);
        scale.to_le_bytes().into_iter().chain(bytes).collect::<Vec<u8>>()
    };
    values.chunks(32).flat_map(block).collect()
}

/// A tower with packed rows is that of the values that they stand for.
#[test]
fn packed_towers_are_those_of_their_values() {
    let oracle = Multimodal::open("gemma4-audio");
    let mut packed = stored(&oracle);
    let mut count = 0;
    for (name, dims, ty, bytes) in &mut packed.tensors {
        if name.starts_with("a.") && dims.len() == 2 && dims[0].is_multiple_of(32) {
            *bytes = q8_0(&bytemuck::pod_collect_to_vec::<u8, f32>(bytes));
            *ty = 8;
            count += 1;
        }
    }
    assert!(count > 30, "{count} matrices");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mmproj-Q8_0.gguf");
    packed.write(&path);
    let config = text_alone(&oracle).with_projector(&path).unwrap();
    let tensors: Vec<Tensor> =
        weights(&path).into_iter().map(|(key, shape, values)| Tensor::from_f32(key, shape, &values)).collect();
    for gpu in [None, Some(open(&GpuOptions::default()))] {
        let from_rows = sounds(&oracle, &AudioEncoder::from_path(&config, &path, gpu.clone()).unwrap(), "one");
        let mut wide = WeightMap::from_tensors(tensors.clone());
        let wide = AudioEncoder::from_loader(&config, &mut wide, gpu, TowerOptions::default()).unwrap();
        let error = worst(from_rows[0].values(), sounds(&oracle, &wide, "one")[0].values());
        let rounded = sound_error(&oracle, "one", &from_rows);
        println!("packed {error:.1e}, against the checkpoint {rounded:.1e}");
        assert!(error < SOFT && rounded > SOFT, "{error}, {rounded}");
    }
}
