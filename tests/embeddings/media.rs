//! Pictures and sounds in the texts of EmbeddingGemma 2.

use std::{fs, path::Path};

use super::{
    GATE, apart,
    common::{
        multimodal::Multimodal,
        oracle::{Oracle, data, worst},
    },
};
use gemmaflow::{
    Error,
    audio::{Audio, AudioLimits},
    checkpoint::load_from_path,
    embed::{EmbedderOptions, EmbeddingTask, GemmaEmbedder},
    error::{EmbeddingError, PromptError},
    generate::CancelToken,
    hearing::AudioEncoder,
    image::{Image, ImageLimits},
    prompt::{Modality, Prompt, SoftTokens},
    runtime::{Device, GpuOptions, Opened},
    text::{Content, Part, Tokenizer},
    vision::{TowerOptions, VisionEncoder},
};
use serde_json::json;

pub fn oracle() -> Multimodal {
    Multimodal::open("embeddinggemma2")
}

pub fn open(oracle: &Multimodal, device: Device) -> GemmaEmbedder {
    GemmaEmbedder::from_path(&oracle.folder, device).unwrap()
}

fn devices() -> [(&'static str, Device); 2] {
    [("reference", Device::Cpu), ("gpu", Device::Gpu)]
}

fn picture(path: impl AsRef<Path>) -> Image {
    Image::from_bytes(&fs::read(path).unwrap(), &ImageLimits::default()).unwrap()
}

fn clip(path: impl AsRef<Path>) -> Audio {
    Audio::from_bytes(&fs::read(path).unwrap(), &AudioLimits::default()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(data("tokenizers/gemma4")).unwrap()
}

/// What the processor was given in a case, by the embedder's own towers.
fn content(oracle: &Multimodal, case: &str, embedder: &GemmaEmbedder) -> Content {
    let case = oracle.case(case);
    let files = |key: &str| {
        let names = case[key].as_array().unwrap().iter().map(|name| oracle.folder.join(name.as_str().unwrap()));
        names.collect::<Vec<_>>().into_iter()
    };
    let (mut pictures, mut clips) = (files("images"), files("audios"));
    let mut next = |marker: &str| match marker {
        "<|image|>" => embedder.picture(&picture(pictures.next().unwrap())).unwrap(),
        _ => embedder.sound(&clip(clips.next().unwrap())).unwrap(),
    };
    let Some(mut rest) = case["text"].as_str() else {
        return Content::from(vec![next("<|image|>"), next("<|image|>")]);
    };
    let mut parts = Vec::new();
    while let Some((at, marker)) = ["<|image|>", "<|audio|>"].iter().filter_map(|m| Some((rest.find(m)?, *m))).min() {
        parts.extend([Part::from(&rest[..at]), next(marker)]);
        rest = &rest[at + marker.len()..];
    }
    parts.push(rest.into());
    parts.into()
}

fn all_contents(oracle: &Multimodal, embedder: &GemmaEmbedder) -> Vec<Content> {
    oracle.cases().iter().map(|case| content(oracle, case, embedder)).collect()
}

/// 1 − cosine of a prompt's vector with that of a case.
pub fn error(oracle: &Multimodal, embedder: &GemmaEmbedder, case: &str, prompt: &Prompt) -> f64 {
    apart(&embedder.embed(&[prompt]).unwrap()[0], &oracle.f32(&format!("{case}.embedding")))
}

/// The prompt of a case with its soft tokens changed.
pub fn changed(prompt: &Prompt, mut change: impl FnMut(usize, &SoftTokens) -> SoftTokens) -> Prompt {
    let mut made = Prompt::new();
    let mut at = 0;
    for (index, (start, soft)) in prompt.soft_tokens().enumerate() {
        made = made.then(&prompt.tokens()[at..start]).then(change(index, soft));
        at = start + soft.len();
    }
    made.then(&prompt.tokens()[at..])
}

#[test]
fn files_become_the_tokens_and_vectors_of_transformers() {
    let oracle = oracle();
    let tokenizer = tokenizer();
    for (what, device) in devices() {
        let embedder = open(&oracle, device);
        let contents = all_contents(&oracle, &embedder);
        let prompts = embedder.tokens(&tokenizer, &EmbeddingTask::Plain, &contents).unwrap();
        for (case, prompt) in oracle.cases().iter().zip(&prompts) {
            assert_eq!(prompt.tokens(), oracle.ids(&format!("{case}.input_ids")), "{what} {case}");
            for (modality, name) in [(Modality::Image, "vision.soft"), (Modality::Audio, "audio.soft")] {
                let own = prompt.soft_tokens().filter(|(_, soft)| soft.modality() == modality);
                let rows: Vec<f32> = own.flat_map(|(_, soft)| soft.values().to_vec()).collect();
                if !rows.is_empty() {
                    let error = worst(&rows, &oracle.f32(&format!("{case}.{name}")));
                    println!("{what:10} {case:8} {name:12} {error:.1e}");
                    assert!(error < 1e-4, "{what} {case}.{name}: {error}");
                }
            }
            let error = error(&oracle, &embedder, case, prompt);
            println!("{what:10} {case:8} alone        {error:.1e}");
            assert!(error < GATE, "{what} {case}: {error:e}");
        }
        // Texts of unequal lengths in one run, of which some have soft tokens.
        let together = embedder.embed_texts(&tokenizer, &EmbeddingTask::Plain, &contents).unwrap();
        for (case, vector) in oracle.cases().iter().zip(&together) {
            let expected = oracle.f32(&format!("{case}.embedding"));
            let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
            println!("{what:10} {case:8} together     {:.1e} {:.1e}", apart(vector, &expected), worst(vector, &expected));
            assert!(apart(vector, &expected) < GATE && (length - 1.0).abs() < 1e-6, "{what} {case}");
        }
        let [both, text] = [3, 4].map(|at| prompts[at].clone());
        for pair in [vec![text.clone(), both.clone()], vec![both.clone(), text.clone()]] {
            for (prompt, vector) in pair.iter().zip(embedder.embed(&pair).unwrap()) {
                let case = if prompt == &text { "text" } else { "both" };
                let error = apart(&vector, &oracle.f32(&format!("{case}.embedding")));
                assert!(error < GATE, "{what} {case} in a pair: {error:e}");
            }
        }
        // The longest of a run has no soft tokens.
        let beside = embedder.embed(&[Prompt::from(vec![5; 100]), both.clone()]).unwrap();
        assert!(apart(&beside[1], &oracle.f32("both.embedding")) < GATE, "{what}: beside a longer text");
        let seen = embedder.run_stats();
        embedder.embed_texts(&tokenizer, &EmbeddingTask::Plain, &contents).unwrap();
        assert_eq!(embedder.run_stats().compiles, seen.compiles, "{what}: what was compiled serves again");
    }
}

#[test]
fn rows_of_transformers_give_its_vectors() {
    let oracle = oracle();
    for (what, device) in devices() {
        let embedder = open(&oracle, device);
        for case in oracle.cases() {
            let error = error(&oracle, &embedder, &case, &oracle.merged_prompt(&case));
            println!("{what:10} {case:8} {error:.1e}");
            assert!(error < GATE, "{what} {case}: {error:e}");
        }
    }
}

#[test]
fn tasks_and_layouts() {
    let oracle = oracle();
    let (embedder, tokenizer) = (open(&oracle, Device::Cpu), tokenizer());
    let red = || embedder.picture(&picture(oracle.folder.join("inputs/picture.0.png"))).unwrap();
    let document = Content::from([Part::from("the red planet "), red(), " seen from afar".into()]);
    let tokens = |task: &EmbeddingTask, content: Content| embedder.tokens(&tokenizer, task, &[content]).unwrap().remove(0);
    assert_eq!(tokens(&EmbeddingTask::document(), document.clone()).tokens(), oracle.ids("picture.input_ids"));
    let found = embedder.embed_texts(&tokenizer, &EmbeddingTask::document(), &[document]).unwrap();
    assert!(apart(&found[0], &oracle.f32("picture.embedding")) < GATE);
    // A picture alone has no prompt.
    let alone = tokens(&EmbeddingTask::Query, red().into());
    assert_eq!(alone, tokens(&EmbeddingTask::Plain, red().into()));
    let ids = oracle.config.multimodal.image.unwrap();
    let soft = alone.soft_tokens().next().unwrap().1.clone();
    assert_eq!(alone, Prompt::from([2, ids.begin]).then(soft.clone()).then([ids.end]));
    assert_eq!(embedder.vision().unwrap().lay_out(soft), Prompt::from([ids.begin]).then(red_soft(&red())).then([ids.end]));
    let error = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &[Content::from(vec![])]).unwrap_err();
    assert!(matches!(error, Error::Embedding(EmbeddingError::EmptyText { index: 0 })), "{error}");
}

fn red_soft(part: &Part) -> SoftTokens {
    match part {
        Part::Soft(soft) => soft.clone(),
        other => panic!("{other:?}"),
    }
}

/// The files of the released checkpoint have more keys, and classes of sentence-transformers 6.
#[test]
fn a_folder_as_it_is_released() {
    let oracle = oracle();
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "processor_config.json"] {
        fs::copy(oracle.folder.join(file), folder.path().join(file)).unwrap();
    }
    let mut config = oracle.json.clone();
    for tower in ["vision_config", "audio_config"] {
        let more = json!({
            "_name_or_path": "", "architectures": null, "chunk_size_feed_forward": 0, "dtype": "bfloat16",
            "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_encoder_decoder": false, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
            "output_attentions": false, "output_hidden_states": false, "problem_type": null, "return_dict": true,
        });
        config[tower].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    let module = |at: usize, path: &str, kind: &str| json!({"idx": at, "name": at.to_string(), "path": path, "type": kind});
    let modules = [
        module(0, "", "sentence_transformers.base.modules.transformer.Transformer"),
        module(1, "1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
        module(2, "2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
    ];
    let prompts = json!({"prompts": {"Retrieval-query": "task: search result | query: "}, "default_prompt_name": null});
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for (file, content) in [
        ("config.json", config),
        ("modules.json", json!(modules)),
        ("1_Pooling/config.json", json!({"embedding_dimension": 28, "pooling_mode": "mean", "include_prompt": true})),
        ("config_sentence_transformers.json", prompts),
    ] {
        fs::write(folder.path().join(file), content.to_string()).unwrap();
    }
    let embedder = GemmaEmbedder::from_path(folder.path(), Device::Cpu).unwrap();
    let heard = embedder.sound(&clip(oracle.folder.join("inputs/clip.0.wav"))).unwrap();
    let content = Content::from([heard, "who speaks?".into()]);
    let found = embedder.embed_texts(&tokenizer(), &EmbeddingTask::Query, &[content]).unwrap();
    assert!(apart(&found[0], &oracle.f32("clip.embedding")) < GATE);
    assert!(embedder.picture(&picture(oracle.folder.join("inputs/two.1.png"))).is_ok());
}

#[test]
fn what_cannot_be_embedded_is_refused_alone() {
    let oracle = oracle();
    let embedder = open(&oracle, Device::Cpu);
    let right = oracle.merged_prompt("picture");
    let narrow = SoftTokens::new(Modality::Image, 770, 39, vec![0.5; 39 * 3]).unwrap();
    let narrow = Prompt::from([2, 768]).then(narrow).then([769]);
    let unknown = right.clone().then([776]);
    let found = embedder.embed_each(&[narrow.clone(), right.clone(), unknown, Prompt::new()]).unwrap();
    let says = |at: usize| found[at].as_ref().unwrap_err();
    assert!(matches!(says(0), Error::Prompt(PromptError::SoftTokens(text)) if text.contains("39") && text.contains("40")));
    assert!(matches!(says(2), Error::Prompt(PromptError::TokenOutOfRange { token: 776, index: 93, vocab_size: 776 })));
    assert!(matches!(says(3), Error::Embedding(EmbeddingError::EmptyText { index: 3 })));
    assert!(apart(found[1].as_ref().unwrap(), &oracle.f32("picture.embedding")) < GATE);
    assert!(matches!(embedder.embed(&[right.clone(), narrow]).unwrap_err(), Error::Prompt(PromptError::SoftTokens(_))));
    let video = Content::from([Part::Video(Vec::new()), "x".into()]);
    let refused = embedder.tokens(&tokenizer(), &EmbeddingTask::Query, &[video]).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(text) if text.contains("show their frames as pictures")));
    // The id that stands for a soft token is never looked up.
    let elsewhere =
        changed(&right, |_, soft| SoftTokens::new(soft.modality(), 258_880, soft.width(), soft.values().to_vec()).unwrap());
    assert!(error(&oracle, &embedder, "picture", &elsewhere) < GATE);
    let options = EmbedderOptions { context: Some(92), ..EmbedderOptions::near_weights(&oracle.folder).unwrap() };
    let mut loader = load_from_path(&oracle.folder).unwrap();
    let short = GemmaEmbedder::with_options(oracle.config.clone(), loader.as_mut(), Device::Cpu, options).unwrap();
    let error = short.embed(&[right]).unwrap_err();
    assert!(matches!(error, Error::Embedding(EmbeddingError::TextTooLong { index: 0, tokens: 93, most: 92 })), "{error}");
}

#[test]
fn models_of_texts_and_embedders_without_towers_say_so() {
    let image = picture(oracle().folder.join("inputs/two.1.png"));
    for name in super::EMBEDDERS {
        let texts = Oracle::open(name);
        let embedder = GemmaEmbedder::from_path(&texts.folder, Device::Cpu).unwrap();
        let width = texts.config.hidden_size;
        for (modality, what) in [(Modality::Image, "picture"), (Modality::Audio, "sound")] {
            let soft = SoftTokens::new(modality, 7, width, vec![0.5; width]).unwrap();
            let error = embedder.embed(&[Prompt::from([2]).then(soft.clone()).then([3])]).unwrap_err();
            assert!(matches!(&error, Error::Unsupported(text) if text.contains(what) && text.contains("no ")), "{error}");
            let error = embedder.embed_texts(&tokenizer(), &EmbeddingTask::Query, &[Content::from(soft)]).unwrap_err();
            assert!(matches!(&error, Error::Unsupported(text) if text.contains(what)), "{error}");
        }
        let error = embedder.picture(&image).unwrap_err().to_string();
        assert!(error.contains("pictures") && error.contains("no tower"), "{error}");
        let error = embedder.hearing().unwrap_err().to_string();
        assert!(error.contains("sounds") && error.contains("no tower"), "{error}");
    }
    let oracle = oracle();
    let mut loader = load_from_path(&oracle.folder).unwrap();
    let embedder = GemmaEmbedder::from_loader(oracle.config.clone(), loader.as_mut(), Device::Cpu).unwrap();
    let error = embedder.picture(&image).unwrap_err().to_string();
    assert!(error.contains("EmbedderOptions::towers"), "{error}");
    let encoder = VisionEncoder::from_path(&oracle.config, &oracle.folder, None).unwrap();
    let prompt = Prompt::from([2]).then(encoder.prompt(&image).unwrap());
    assert_eq!(embedder.embed(&[prompt]).unwrap().len(), 1, "soft tokens from elsewhere will do");
}

#[test]
fn cancelling_ends_towers_and_runs() {
    let oracle = oracle();
    for (what, device) in devices() {
        let embedder = open(&oracle, device);
        let cancel = CancelToken::new();
        let held = embedder.clone().with_cancel(cancel.clone());
        cancel.cancel();
        let image = picture(oracle.folder.join("inputs/two.1.png"));
        assert!(matches!(held.picture(&image), Err(Error::Cancelled(_))), "{what}");
        assert!(matches!(held.embed(&[oracle.merged_prompt("clip")]), Err(Error::Cancelled(_))), "{what}");
        // The other handle goes on with the same tower.
        embedder.picture(&image).unwrap();
        assert!(error(&oracle, &embedder, "clip", &oracle.merged_prompt("clip")) < GATE, "{what}");
    }
}

#[test]
fn the_plan_of_memory_has_room_for_soft_tokens_and_towers() {
    let oracle = oracle();
    let Opened::Gpu(context) = Device::Gpu.open(&GpuOptions::default()).unwrap() else { panic!("no GPU") };
    let device = context.capabilities();
    let options = |towers: bool, memory_budget| EmbedderOptions {
        context: Some(64),
        run_tokens: Some(64),
        towers: towers.then(|| oracle.folder.clone().into()),
        memory_budget,
        ..EmbedderOptions::default()
    };
    let plan = |towers| {
        let mut loader = load_from_path(&oracle.folder).unwrap();
        GemmaEmbedder::memory_plan(&oracle.config, loader.as_mut(), device, &options(towers, None)).unwrap()
    };
    let (bare, whole) = (plan(false), plan(true));
    let towers = || gemmaflow::checkpoint::load_towers_from_path(&oracle.folder).unwrap();
    let seen = VisionEncoder::memory_plan(&oracle.config, towers().as_mut(), device, None, &TowerOptions::default()).unwrap();
    let heard = AudioEncoder::memory_plan(&oracle.config, towers().as_mut(), device, &TowerOptions::default()).unwrap();
    assert_eq!((bare.towers, whole.towers), (0, seen.peak() + heard.peak()));
    assert_eq!(whole.peak(), bare.peak() + whole.towers);
    let open = |budget| {
        let mut loader = load_from_path(&oracle.folder).unwrap();
        let device = Device::Context(context.clone());
        GemmaEmbedder::with_options(oracle.config.clone(), loader.as_mut(), device, options(true, Some(budget)))
    };
    assert!(matches!(open(whole.peak() - 1), Err(Error::DoesNotFit(_))), "a byte too little");
    let before = context.counters().snapshot().bytes_live;
    let embedder = open(whole.peak()).unwrap();
    let soft = SoftTokens::new(Modality::Image, 770, 40, vec![0.5; 40]).unwrap();
    for is_soft in [false, true] {
        for (texts, tokens) in [(1, 64), (2, 32), (4, 16)] {
            let text = Prompt::from(vec![5; tokens - 1]);
            let text = if is_soft { text.then(soft.clone()) } else { text.then([5]) };
            embedder.embed(&vec![text; texts]).unwrap();
        }
    }
    context.release_staging();
    assert_eq!(context.counters().snapshot().bytes_live - before, bare.running(), "no tower before the first picture");
    embedder.picture(&picture(oracle.folder.join("inputs/two.1.png"))).unwrap();
    embedder.sound(&clip(oracle.folder.join("inputs/clip.0.wav"))).unwrap();
    context.release_staging();
    let taken = context.counters().snapshot().bytes_live - before;
    assert!((bare.running()..=whole.running()).contains(&taken), "{taken} of {whole}");
}
