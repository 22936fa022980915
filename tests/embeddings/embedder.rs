//! `GemmaEmbedder`: batches, cut vectors, prompts, threads, what it refuses.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{
    EMBEDDERS, GATE, apart,
    common::{
        gguf::GgufOracle,
        oracle::{Oracle, data},
    },
};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    embed::{EmbedderOptions, EmbeddingTask, GemmaEmbedder, TaskPrompts},
    error::{EmbeddingError, PromptError},
    gemma::GemmaConfig,
    runtime::{Device, GpuOptions, Opened},
    text::Tokenizer,
    weights::Quantise,
};

fn embedders(oracle: &Oracle) -> Vec<(&'static str, GemmaEmbedder)> {
    let open = |device| GemmaEmbedder::from_path(&oracle.folder, device).unwrap();
    vec![("reference", open(Device::Cpu)), ("gpu", open(Device::Gpu))]
}

/// The oracle's prompts, the texts of its batch among them, with their unit vectors.
fn golden(oracle: &Oracle) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let names = ["p33", "p1", "p70", "p7", "p2"];
    let (mut tokens, mut vectors): (Vec<_>, Vec<_>) =
        names.iter().map(|name| (oracle.tokens(&format!("{name}.input_ids")), oracle.f32(&format!("{name}.embedding")))).unzip();
    let (ids, mask) = (oracle.tokens("batch_right.input_ids"), oracle.tokens("batch_right.attention_mask"));
    let all = oracle.f32("batch_right.embedding");
    for (row, vector) in all.chunks(all.len() / 2).enumerate() {
        let own = ids[row * 33..][..33].iter().zip(&mask[row * 33..]).filter(|(_, live)| **live == 1).map(|(id, _)| *id);
        tokens.push(own.collect());
        vectors.push(vector.to_vec());
    }
    (tokens, vectors)
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn texts_have_their_vectors_alone_and_beside_others() {
    for name in EMBEDDERS {
        let oracle = Oracle::open(name);
        let (tokens, expected) = golden(&oracle);
        for (what, embedder) in embedders(&oracle) {
            let together = embedder.embed(&tokens).unwrap();
            for (found, expected) in together.iter().zip(&expected) {
                assert!((length(found) - 1.0).abs() < 1e-6 && apart(found, expected) < GATE, "{what} {name}");
            }
            for (tokens, beside) in tokens.iter().zip(&together).take(if what == "reference" { 7 } else { 2 }) {
                let alone = embedder.embed(&[tokens]).unwrap();
                assert!(apart(&alone[0], beside) < GATE, "{what} {name}: {} tokens", tokens.len());
            }
            assert!(embedder.embed::<Vec<u32>>(&[]).unwrap().is_empty());
            let again = embedder.run_stats();
            embedder.embed(&tokens).unwrap();
            assert_eq!(embedder.run_stats().compiles, again.compiles, "{what} {name}: what was compiled serves again");
        }
    }
}

#[test]
fn a_cut_vector_is_the_beginning_of_the_whole_one() {
    let oracle = Oracle::open("embeddinggemma");
    let embedder = GemmaEmbedder::from_path(&oracle.folder, Device::Cpu).unwrap();
    assert_eq!((embedder.dimensions(), embedder.max_tokens()), (48, 512));
    let (tokens, expected) = golden(&oracle);
    for dimensions in [48, 24, 12, 1] {
        let cut = embedder.clone().with_dimensions(dimensions).unwrap();
        for (found, whole) in cut.embed(&tokens).unwrap().iter().zip(&expected) {
            assert_eq!(found.len(), dimensions);
            let scale = length(&whole[..dimensions]) as f32;
            let error = found.iter().zip(whole).map(|(a, b)| (a - b / scale).abs()).fold(0.0, f32::max);
            assert!(error < 2e-4 && (length(found) - 1.0).abs() < 1e-6, "{dimensions}: {error}");
        }
    }
    for odd in [0, 49] {
        let error = embedder.clone().with_dimensions(odd).unwrap_err();
        assert!(matches!(error, Error::Option { found, .. } if found == odd), "{error}");
    }
}

#[test]
fn texts_that_cannot_be_embedded_are_named() {
    let oracle = Oracle::open("embeddinggemma");
    let options = EmbedderOptions { context: Some(40), ..EmbedderOptions::default() };
    let open = |options| GemmaEmbedder::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, options);
    let embedder = open(options).unwrap();
    let refused = |texts: &[Vec<u32>]| embedder.embed(texts).unwrap_err();
    assert!(matches!(refused(&[vec![2, 5], vec![]]), Error::Embedding(EmbeddingError::EmptyText { index: 1 })));
    assert!(matches!(refused(&[vec![5; 41]]), Error::Embedding(EmbeddingError::TextTooLong { index: 0, tokens: 41, most: 40 })));
    assert!(matches!(
        refused(&[vec![2], vec![2, 138]]),
        Error::Prompt(PromptError::TokenOutOfRange { token: 138, index: 1, vocab_size: 138 })
    ));
    assert_eq!(embedder.embed(&[vec![5; 40]]).unwrap()[0].len(), 48, "and it goes on");
    for (options, says) in [
        (EmbedderOptions { context: Some(513), ..EmbedderOptions::default() }, "EmbedderOptions::context is 513"),
        (EmbedderOptions { context: Some(0), ..EmbedderOptions::default() }, "EmbedderOptions::context is 0"),
        (EmbedderOptions { run_tokens: Some(0), ..EmbedderOptions::default() }, "EmbedderOptions::run_tokens is 0"),
    ] {
        let text = open(options).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
    let whole = GemmaEmbedder::from_path(&oracle.folder, Device::Cpu).unwrap();
    assert!(matches!(whole.embed(&[vec![5; 513]]).unwrap_err(), Error::Embedding(EmbeddingError::TextTooLong { most: 512, .. })));
}

#[test]
fn loading_can_be_watched_and_cancelled_and_packs_weights() {
    let oracle = Oracle::open("embeddinggemma");
    let open = |options| GemmaEmbedder::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Gpu, options);
    let cancelled = open(EmbedderOptions { on_progress: Some(Box::new(|_| false)), ..EmbedderOptions::default() });
    assert!(matches!(cancelled.unwrap_err(), Error::Cancelled(_)));
    let seen = Arc::new(AtomicBool::new(false));
    let shown = seen.clone();
    let on_progress = Box::new(move |progress: gemmaflow::runtime::UploadProgress| {
        shown.fetch_or(progress.done == progress.total && progress.total > 0, Relaxed);
        true
    });
    let stock = open(EmbedderOptions { on_progress: Some(on_progress), ..EmbedderOptions::default() }).unwrap();
    assert!(seen.load(Relaxed));
    // Rows of 96 and 32 are packed: the vectors move, but not far.
    let packed = GgufOracle::open("embeddinggemma-s-bf16");
    let config = GemmaConfig::from_gguf(&packed.path).unwrap();
    let options = EmbedderOptions { quantise: Some(Quantise::Q8_0), ..EmbedderOptions::default() };
    let mut loader = load_from_path(&packed.path).unwrap();
    let embedder = GemmaEmbedder::with_options(config, loader.as_mut(), Device::Cpu, options).unwrap();
    let error = apart(&embedder.embed(&[packed.tokens("p7.input_ids")]).unwrap()[0], &packed.f32("exact.p7.embedding"));
    assert!((1e-9..1e-3).contains(&error), "{error:e}");
    // A hook is part of every graph: without the second half of the layers the vectors are others.
    let hooked = EmbedderOptions::default().with_flow(|flow| {
        flow.layer(|layer| if layer.index() < 3 { layer.default_stage() } else { gemmaflow::flow::FlowStage::identity() })
    });
    let tokens = [oracle.tokens("p7.input_ids"), oracle.tokens("p7.input_ids")];
    let (a, b) = (stock.embed(&tokens).unwrap(), open(hooked).unwrap().embed(&tokens).unwrap());
    assert!(apart(&a[0], &a[1]) < GATE && apart(&b[0], &b[1]) < GATE && apart(&a[0], &b[0]) > 1e-3);
}

#[test]
fn the_plan_of_memory_is_what_is_taken() {
    let oracle = Oracle::open("embeddinggemma");
    let context = match Device::Gpu.open(&GpuOptions::default()).unwrap() {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    };
    let options =
        |memory_budget| EmbedderOptions { context: Some(64), run_tokens: Some(64), memory_budget, ..EmbedderOptions::default() };
    let plan =
        |budget| GemmaEmbedder::memory_plan(&oracle.config, oracle.loader().as_mut(), context.capabilities(), &options(budget));
    let whole = plan(None).unwrap();
    assert_eq!((whole.caches(), whole.context, whole.longest_context), (0, 64, 64));
    let table = oracle.config.vocab_size * oracle.config.hidden_size * size_of::<f32>();
    assert_eq!(whole.largest_binding, (table as u64, "weight embed, 1 shard".to_string()), "weights are bound too");
    let open = |budget| {
        let device = Device::Context(context.clone());
        GemmaEmbedder::with_options(oracle.config.clone(), oracle.loader().as_mut(), device, options(budget))
    };
    let before = context.counters().snapshot();
    let Err(Error::DoesNotFit(refused)) = open(Some(whole.peak() - 1)) else { panic!("a byte too little") };
    assert!(refused.longest_context < 64 && refused.budget == Some(whole.peak() - 1), "{refused}");
    assert_eq!(context.counters().snapshot().bytes_live, before.bytes_live, "nothing was allocated");
    let embedder = open(Some(whole.peak())).unwrap();
    // The longest text, then the largest runs of two and of four.
    for (texts, tokens) in [(1, 64), (2, 32), (4, 16)] {
        embedder.embed(&vec![vec![5; tokens]; texts]).unwrap();
    }
    context.release_staging();
    let taken = context.counters().snapshot().bytes_live - before.bytes_live;
    assert_eq!(taken, whole.running(), "{whole}");
}

/// Wakes by a flag.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn threads_and_futures_share_a_model() {
    let oracle = Oracle::open("embeddinggemma");
    let (tokens, expected) = golden(&oracle);
    for device in [Device::Cpu, Device::Gpu] {
        let embedder = GemmaEmbedder::from_path(&oracle.folder, device).unwrap();
        std::thread::scope(|scope| {
            for at in 0..4 {
                let embedder = embedder.clone();
                let tokens = &tokens;
                let expected = &expected;
                scope.spawn(move || {
                    let found = embedder.embed(&tokens[at..at + 2]).unwrap();
                    assert!(found.iter().zip(&expected[at..]).all(|(found, expected)| apart(found, expected) < GATE), "{at}");
                });
            }
        });
        // Two futures polled in turn by one thread.
        fn sendable<T: Send>(future: T) -> T {
            future
        }
        let (mut first, mut second) =
            (pin!(sendable(embedder.embed_async(&tokens[..3]))), pin!(embedder.embed_async(&tokens[3..])));
        let waker = Waker::from(Arc::new(Flag(AtomicBool::new(false))));
        let mut context = Context::from_waker(&waker);
        let (mut a, mut b) = (None, None);
        while a.is_none() || b.is_none() {
            if let (None, Poll::Ready(found)) = (&a, if a.is_none() { first.as_mut().poll(&mut context) } else { Poll::Pending })
            {
                a = Some(found.unwrap());
            }
            if let (None, Poll::Ready(found)) = (&b, if b.is_none() { second.as_mut().poll(&mut context) } else { Poll::Pending })
            {
                b = Some(found.unwrap());
            }
            std::thread::yield_now();
        }
        for (found, expected) in a.unwrap().iter().chain(&b.unwrap()).zip(&expected) {
            assert!(apart(found, expected) < GATE);
        }
    }
}

#[test]
fn texts_come_after_their_prompts_and_between_bos_and_eos() {
    let path = GgufOracle::open("embeddinggemma-s-q4_0").path;
    let (embedder, tokenizer) = (GemmaEmbedder::from_path(&path, Device::Cpu).unwrap(), Tokenizer::from_gguf(&path).unwrap());
    let text = "the red planet";
    let plain = |text: &str| tokenizer.encode(text, false).unwrap();
    // This file says BOS and no EOS.
    let query = embedder.tokens(&tokenizer, &EmbeddingTask::Query, &[text]).unwrap();
    assert_eq!(query[0].tokens(), [vec![2], plain("task: search result | query: the red planet")].concat());
    let titled = embedder.tokens(&tokenizer, &EmbeddingTask::titled("Mars"), &[text]).unwrap();
    assert_eq!(titled[0].tokens(), [vec![2], plain("title: Mars | text: the red planet")].concat());
    let found = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &[text, text]).unwrap();
    let expected = embedder.embed(&query).unwrap();
    assert!(apart(&found[1], &expected[0]) < GATE);
    let document = embedder.embed_texts(&tokenizer, &EmbeddingTask::document(), &[text]).unwrap();
    assert!(apart(&document[0], &expected[0]) > 1e-6, "a prompt matters");
    let error = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &["a", ""]).unwrap_err();
    assert!(matches!(error, Error::Embedding(EmbeddingError::EmptyText { index: 1 })), "{error}");

    // What a tokenizer.json and the settings beside it say.
    let folder = tempfile::tempdir().unwrap();
    let json = std::fs::read(data("tokenizers/spm/tokenizer.json")).unwrap();
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, &json).unwrap();
    let framed = || Tokenizer::from_file(folder.path()).unwrap().encode_framed(text).unwrap();
    let [bos, eos] = [2, 1];
    assert_eq!(framed(), [vec![bos], plain(text)].concat(), "its post-processor puts BOS there");
    for (settings, expected) in [
        (r#"{"add_bos_token": true, "add_eos_token": true}"#, [vec![bos], plain(text), vec![eos]].concat()),
        (r#"{"add_bos_token": false}"#, plain(text)),
        (r#"{"model_max_length": 2048}"#, [vec![bos], plain(text)].concat()),
    ] {
        std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        assert_eq!(framed(), expected, "{settings}");
    }
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(matches!(Tokenizer::from_file(&file), Err(Error::Format { .. })));
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();

    // Prompts beside the weights win.
    let prompts = r#"{"prompts": {"query": "q: ", "Reranking": "r: "}, "default_prompt_name": null}"#;
    std::fs::write(folder.path().join("config_sentence_transformers.json"), prompts).unwrap();
    let own = TaskPrompts::near_weights(folder.path()).unwrap();
    assert_eq!(own.prompt(&EmbeddingTask::Query).unwrap(), "q: ");
    assert_eq!(own.prompt(&EmbeddingTask::document()).unwrap(), "title: none | text: ");
    assert_eq!(own.names().collect::<Vec<_>>(), ["Reranking", "query"]);
    std::fs::write(folder.path().join("config_sentence_transformers.json"), "{").unwrap();
    assert!(matches!(TaskPrompts::near_weights(folder.path()), Err(Error::Format { .. })));
}
