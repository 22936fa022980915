//! Faults 29 to 36: files that change, break or cannot be written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use gemmaflow::{
    Error,
    checkpoint::SafetensorsLoader,
    conversation::Model,
    error::SamplingError,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, PipelineBlob, UploadPhase, UploadProgress},
    text::Tokenizer,
    weights::{ReadMode, Tensor, WeightLoader, WeightMap},
};

use crate::{DEMO, asked, chunks_of_16, expected, oracle::Oracle, rest, some};

/// A copy of the demo model that a test may harm.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::copy(Path::new(DEMO).join(file), folder.path().join(file)).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    (folder, weights)
}

/// Loads the copy by positioned reads, and harms it when the first weights have moved.
fn harmed_while_loading(harm: impl Fn(&Path) + Send + 'static) -> gemmaflow::Result<Model> {
    let (folder, weights) = copy();
    let mut loader = SafetensorsLoader::open_with(folder.path(), ReadMode::Positioned)?;
    let mut harmed = false;
    let on_progress = move |progress: UploadProgress| {
        if progress.phase == UploadPhase::Moving && !std::mem::replace(&mut harmed, true) {
            harm(&weights);
        }
        true
    };
    let options = GeneratorOptions { on_progress: Some(Box::new(on_progress)), ..chunks_of_16() };
    let tokenizer = Tokenizer::from_file(folder.path())?;
    Model::from_loader(GemmaConfig::from_file(folder.path())?, &mut loader, tokenizer, Device::Gpu, options)
}

#[test]
fn fault_29_a_file_that_is_cut_while_it_loads() {
    let error =
        harmed_while_loading(|path| OpenOptions::new().write(true).open(path).unwrap().set_len(200_000).unwrap()).unwrap_err();
    let said = |path: &Path, found: &u64| path.ends_with("model.safetensors") && *found == 200_000;
    assert!(matches!(&error, Error::FileChanged { path, found, .. } if said(path, found)), "{error}");
}

#[test]
fn fault_30_a_file_that_is_written_over_while_it_loads() {
    let error = harmed_while_loading(|path| {
        let length = fs::metadata(path).unwrap().len() as usize;
        OpenOptions::new().write(true).open(path).unwrap().write_all(&vec![0x3c; length]).unwrap();
    })
    .unwrap_err();
    assert!(matches!(&error, Error::FileChanged { opened, found, .. } if opened == found), "{error}");
}

#[cfg(unix)]
#[test]
fn fault_31_a_file_that_is_removed_while_it_loads() {
    let model = harmed_while_loading(|path| fs::remove_file(path).unwrap()).unwrap();
    assert_eq!(rest(&mut asked(&model, 20)).unwrap(), expected(20), "an open file stays until it is closed");
}

#[test]
fn fault_32_files_of_a_model_that_are_not_there_or_broken() {
    for (file, content) in [
        ("config.json", None),
        ("tokenizer.json", None),
        ("model.safetensors", None),
        ("config.json", Some("{")),
        ("tokenizer.json", Some("[]")),
        ("model.safetensors", Some("no weights")),
    ] {
        let (folder, _) = copy();
        let path = folder.path().join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = Model::open(folder.path(), Device::Gpu, GeneratorOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Io { .. } | Error::Format { .. } | Error::Config(_)), "{file} {content:?}: {error}");
        assert!(error.to_string().contains(file), "{file} {content:?}: {error}");
    }
    let error = Model::open("/no/such/folder", Device::Gpu, GeneratorOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[test]
fn fault_33_pipelines_that_were_damaged_on_disk() {
    let context = crate::open_context(&GpuOptions::default());
    let model = crate::model_on(&context);
    rest(&mut asked(&model, 3)).unwrap();
    let Some(blob) = context.pipeline_cache_bytes() else { panic!("this driver has no pipeline cache") };
    for at in [0, 9, 20, blob.len() / 2, blob.len() - 1] {
        let mut damaged = blob.clone();
        damaged[at] ^= 0x55;
        let gpu = GpuOptions { pipeline_cache: Some(damaged), ..GpuOptions::default() };
        let options = GeneratorOptions { gpu, ..chunks_of_16() };
        let mut generator =
            GemmaGenerator::with_options(GemmaConfig::from_file(DEMO).unwrap(), loader().as_mut(), Device::Gpu, options).unwrap();
        assert!(matches!(generator.pipeline_blob(), PipelineBlob::Ignored(_)), "{at}");
        generator.prefill([2, 910, 262]).unwrap();
        assert_eq!(generator.generate_cached(2, &SampleOpts::greedy()).unwrap(), [282, 459]);
    }
}

fn loader() -> Box<dyn WeightLoader> {
    gemmaflow::checkpoint::load_from_path(DEMO).unwrap()
}

/// Fails after so many bytes.
struct Failing(usize);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => {
                self.0 = left;
                Ok(bytes.len())
            }
            None => Err(io::Error::other("the disk is full")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is gone"))
    }
}

#[test]
fn fault_34_a_disk_that_is_full_or_gone() {
    let model = Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap();
    let mut conversation = asked(&model, 20);
    let told = some(&mut conversation, 8);
    let mut bytes = Vec::new();
    conversation.save(&mut bytes).unwrap();
    for room in [0, 10, 100, 1000, bytes.len() / 2, bytes.len() - 1] {
        let error = conversation.save(Failing(room)).unwrap_err();
        assert!(matches!(&error, Error::Saved(problem) if problem.contains("full")), "{room}: {error}");
    }
    for kept in [0, 20, 200, bytes.len() / 2] {
        let error = model.restore(bytes[..kept].chain(Failing(0))).unwrap_err();
        assert!(matches!(&error, Error::Saved(problem) if problem.contains("gone")), "{kept}: {error}");
    }
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(20));
}

#[test]
fn fault_35_a_conversation_saved_with_another_model() {
    let model = Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap();
    let mut bytes = Vec::new();
    let mut conversation = asked(&model, 20);
    some(&mut conversation, 8);
    conversation.save(&mut bytes).unwrap();
    // One weight differs in its last byte.
    let (folder, weights) = copy();
    let mut content = fs::read(&weights).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&weights, content).unwrap();
    let other = Model::open(folder.path(), Device::Gpu, chunks_of_16()).unwrap();
    assert_ne!(other.fingerprint().unwrap(), model.fingerprint().unwrap());
    let error = other.restore(&bytes[..]).unwrap_err();
    assert!(matches!(&error, Error::Saved(problem) if problem.contains("another model")), "{error}");
}

/// Weights that are no numbers, which make logits that are none.
#[test]
fn fault_36_weights_that_are_no_numbers() {
    for name in ["gemma3-text", "gemma4-moe"] {
        let oracle = Oracle::open(name);
        let mut loader = oracle.loader();
        let mut spoilt = Vec::new();
        for key in loader.remaining_keys() {
            let tensor = loader.take(&key).unwrap();
            let values = vec![f32::NAN; tensor.len()];
            spoilt.push(if key.contains("layers.1.") && key.ends_with("norm.weight") {
                Tensor::from_f32(key, tensor.shape().to_vec(), &values)
            } else {
                tensor
            });
        }
        for device in [Device::Cpu, Device::Gpu] {
            let mut weights = WeightMap::from_tensors(spoilt.clone());
            let mut generator = GemmaGenerator::from_loader(oracle.config.clone(), &mut weights, device.clone()).unwrap();
            let mut healthy =
                GemmaGenerator::from_loader(oracle.config.clone(), oracle.loader().as_mut(), device.clone()).unwrap();
            for opts in [SampleOpts::greedy(), SampleOpts::temperature(1.0, 3), SampleOpts::temperature(1.0, 3).with_top_k(5)] {
                generator.prefill(oracle.tokens("p7.input_ids")).unwrap();
                let outcome = generator.generate_cached(4, &opts);
                assert!(
                    matches!(outcome, Err(Error::Sampling(SamplingError::BrokenLogits { .. }))),
                    "{device} {name}: {outcome:?}"
                );
            }
            healthy.prefill(oracle.tokens("p7.input_ids")).unwrap();
            let expected = oracle.tokens("p7.gen_tokens");
            assert_eq!(healthy.generate_cached(4, &SampleOpts::greedy()).unwrap(), expected[..4], "{device} {name}");
        }
    }
}
