//! The examples as programs: what they print, what they write, and how they fail.

mod common;
#[path = "examples/from_hub.rs"]
mod from_hub;
#[path = "common/hub.rs"]
mod hub;
#[path = "common/program.rs"]
mod program;
#[path = "common/shown.rs"]
mod shown;
#[path = "mmproj/text.rs"]
mod text;
#[path = "examples/towers.rs"]
mod towers;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use common::{
    gguf::GgufOracle,
    multimodal::Multimodal,
    oracle::{GATE, Oracle, data, worst},
};
use gemmaflow::{
    embed::{EmbeddingTask, GemmaEmbedder},
    runtime::Device,
    text::Tokenizer,
};
use program::program;
use safetensors::SafeTensors;
use serde_json::Value;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

fn start(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name)).args(arguments).output().expect("an example, built by `cargo test` or `cargo build --examples`")
}

/// Standard output of a run that must succeed.
fn succeeds(name: &str, arguments: &[&str]) -> String {
    let output = start(name, arguments);
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Standard error of a run that must fail in plain words.
fn fails(name: &str, arguments: &[&str]) -> String {
    let output = start(name, arguments);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{name} {arguments:?}: {text}");
    assert!(text.contains("error: ") && !text.contains("panicked"), "{text}");
    text
}

/// The projector of a checkpoint.
fn mmproj(oracle: &Multimodal) -> PathBuf {
    oracle.folder.join("mmproj.gguf")
}

/// transformers' greedy continuation of the demo model's first prompt.
fn expected() -> Value {
    let text = std::fs::read_to_string(Path::new(DEMO).join("expected.json")).expect("in the tree");
    serde_json::from_str::<Value>(&text).expect("JSON")["greedy"][0].clone()
}

#[test]
fn generate_writes_the_text_that_transformers_writes() {
    let expected = expected();
    let ids: Vec<u32> = serde_json::from_value(expected["new_ids"].clone()).expect("ids");
    let text = Tokenizer::from_file(DEMO).expect("in the tree").decode(&ids[..20]).expect("known ids");
    assert!(expected["text"].as_str().is_some_and(|all| all.starts_with(&text)));
    let prompt = expected["prompt"].as_str().expect("a prompt");
    for device in ["cpu", "gpu"] {
        let arguments = ["--prompt", prompt, "--temperature", "0", "--max-tokens", "20", "--device", device];
        let output = start("generate", &arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n'), text.trim_end_matches('\n'), "{device}");
        assert!(output.stdout.ends_with(b"\n"));
        let report = String::from_utf8_lossy(&output.stderr);
        for line in ["adapter:", "load:", "first token:", "prefill:", "decode:"] {
            assert!(report.contains(line), "{line} in {report}");
        }
    }
}

#[test]
fn a_seed_is_a_text_and_a_full_context_is_said() {
    let text = |seed| succeeds("generate", &["--device", "cpu", "--max-tokens", "24", "--seed", seed]);
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
    let output = start("generate", &["--device", "cpu", "--context", "9", "--max-tokens", "50"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("the context of 9 tokens is full"));
}

#[test]
fn without_an_adapter_the_reference_generates_and_says_so() {
    let mut command = Command::new(program("generate"));
    // The loader then finds no Vulkan driver.
    command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    let output = command.args(["--max-tokens", "4", "--temperature", "0"]).output().expect("the example is built");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{report}");
    if cfg!(target_os = "linux") {
        assert!(report.contains("WARN") && report.contains("adapter:     CPU reference"), "{report}");
    }
}

#[test]
fn logits_by_every_path_equal_transformers() {
    let oracle = Oracle::open("gemma3-text");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokens = oracle.tokens("p33.input_ids");
    let list = folder.path().join("tokens.json");
    std::fs::write(&list, serde_json::to_string(&tokens).expect("JSON")).expect("written");
    let list = format!("@{}", list.display());
    let inline = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let weights = oracle.folder.join("model.safetensors");
    let runs = [
        ("prefill", &oracle.folder, &list),
        ("steps", &weights, &inline),
        ("cached", &oracle.folder, &inline),
        ("chunked", &weights, &list),
        ("bucketed", &oracle.folder, &list),
    ];
    for (path, model, tokens) in runs {
        let out = folder.path().join(format!("{path}.safetensors"));
        let (model, out) = (model.display().to_string(), out.display().to_string());
        let arguments = ["--model", &model, "--tokens", tokens, "--device", "cpu", "--path", path, "--out", &out];
        succeeds("logits", &arguments);
        let bytes = std::fs::read(&out).expect("written");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let logits = file.tensor("logits").expect("a tensor of this name");
        assert_eq!((logits.shape(), logits.dtype()), (&oracle.shape("p33.logits")[1..], safetensors::Dtype::F32));
        let difference = worst(&bytemuck::pod_collect_to_vec(logits.data()), &oracle.f32("p33.logits"));
        assert!(difference <= GATE, "{path}: {difference}");
    }
}

#[test]
fn a_gguf_file_is_a_model_to_every_example() {
    let oracle = GgufOracle::open("gemma2-s-q4_0-pure");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model.gguf");
    std::fs::copy(&oracle.path, &model).expect("copied");
    let [model, out] = [model, folder.path().join("logits.safetensors")].map(|path| path.display().to_string());
    let tokens = oracle.tokens("p7.input_ids").iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    succeeds("logits", &["--model", &model, "--tokens", &tokens, "--device", "cpu", "--out", &out]);
    let bytes = std::fs::read(&out).expect("written");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(file.tensor("logits").expect("a tensor of this name").data());
    assert!(worst(&logits, &oracle.f32("exact.p7.logits")) < GATE);

    let generate = ["--model", &model, "--prompt", "the", "--max-tokens", "5", "--device", "cpu"];
    assert!(!succeeds("generate", &generate).is_empty());
    let bench = ["--model", &model, "--prompt", "5", "--depth", "0", "--gen", "2", "--reps", "1", "--device", "cpu"];
    assert!(succeeds("bench", &bench).contains("model.gguf"));
    let inspect = ["--model", &model, "--memory", "--device", "portable", "--context", "128"];
    assert!(succeeds("inspect", &inspect).contains("weights"));
    let whole = std::fs::read(&model).expect("readable");
    std::fs::write(&model, &whole[..whole.len() - 1000]).expect("written");
    assert!(fails("inspect", &inspect).contains("bytes short"));
}

#[test]
fn bench_ends_with_one_json_object() {
    let arguments = ["--shape", "gemma-3-270m", "--layers", "1", "--prompt", "5,7", "--depth", "6,0"];
    let arguments = [&arguments[..], &["--gen", "3", "--reps", "2", "--json"]].concat();
    let output = succeeds("bench", &[&arguments[..], &["--device", "gpu"]].concat());
    let report: Value = serde_json::from_str(output.lines().last().expect("a line")).expect("JSON");
    for rate in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
        let number = |key: &str| report[rate][key].as_f64().expect("a number");
        assert!(0.0 < number("min") && number("min") <= number("median") && number("median") <= number("max"), "{report}");
    }
    assert!(report["adapter"].as_str().is_some_and(|name| !name.is_empty()));
    for key in ["bytes_per_token", "dispatches_per_token", "copy_bandwidth_read_gb_s", "first_token_ms", "load_ms"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key} in {report}");
    }
    // One layer of gemma-3-270m in bf16: the embedding, Q and O, K and V, the FFW, and the norms.
    let layer = 2 * 1024 * 640 + 2 * 256 * 640 + 3 * 2048 * 640 + 4 * 640 + 2 * 256;
    assert_eq!(report["bytes_per_token"], 2 * (262_144 * 640 + layer + 640));
    assert_eq!((&report["prompt"], &report["prefill"][1]["tokens"]), (&5.into(), &7.into()));
    assert_eq!((&report["decode"][0]["depth"], &report["decode"][1]["depth"]), (&6.into(), &0.into()));
    for decode in report["decode"].as_array().expect("a list") {
        assert_eq!((decode["submits_per_token"].as_f64(), decode["bytes_read_back_per_token"].as_f64()), (Some(1.0), Some(4.0)));
        let (host, rate) = (decode["host_us_per_token"]["median"].as_f64(), decode["tokens_per_s"]["median"].as_f64());
        assert!(host.zip(rate).is_some_and(|(host, rate)| 0.0 < host && host < 1e6 / rate), "{decode}");
    }
    let reference = ["--prompt", "5", "--depth", "0", "--gen", "2", "--reps", "1", "--device", "cpu"];
    assert!(succeeds("bench", &reference).contains("CPU reference"));
    assert!(fails("bench", &["--prompt", "4000"]).contains("context holds 2048 tokens"));
}

#[test]
fn bench_says_where_the_first_token_comes_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kept = folder.path().join("pipelines").display().to_string();
    let arguments = ["--first-token", "--device", "gpu", "--pipelines", &kept, "--json"];
    for state in ["None", "Used"] {
        let output = succeeds("bench", &arguments);
        let report: Value = serde_json::from_str(output.lines().last().expect("a line")).expect("JSON");
        assert_eq!(report["kept_pipelines"], state);
        let parts = report["parts"].as_array().expect("a list");
        let time = |count: usize| parts[..count].iter().filter_map(|part| part["ms"].as_f64()).sum::<f64>();
        assert!((report["from_nothing_ms"].as_f64().expect("a number") - time(3)).abs() < 1e-6, "{report}");
    }
}

#[test]
fn bench_profiles_by_kernel_and_draws_a_chart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chart = folder.path().join("profile.svg").display().to_string();
    let arguments = ["--profile", "--depth", "3", "--prompt", "20", "--reps", "1", "--device", "gpu", "--svg", &chart];
    let table = succeeds("bench", &arguments);
    for line in ["decode step at depth 3: ", "prefill chunk of 20 tokens at depth 0: ", "argmax sample ", "attention attention "]
    {
        assert!(table.lines().any(|l| l.starts_with(line)), "{line} in {table}");
    }
    let svg = std::fs::read_to_string(&chart).expect("written");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("argmax sample × 1"), "{svg}");
    let output = succeeds("bench", &[&arguments[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(output.lines().last().expect("a line")).expect("JSON");
    let run = &report["runs"][0];
    let calls: u64 = run["kernels"].as_array().expect("a list").iter().filter_map(|kernel| kernel["calls"].as_u64()).sum();
    assert_eq!((run["depth"].as_u64(), run["all"]["calls"].as_u64()), (Some(3), Some(calls)), "{report}");
    assert!(report["arithmetic_gflop_s"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(fails("bench", &["--profile", "--device", "cpu", "--prompt", "5", "--depth", "0"]).contains("CPU reference"));
}

/// The line of a report that begins with `start`, and the number before `word` in it.
fn figure(report: &str, start: &str, word: &str) -> f64 {
    let line = report.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("'{start}' in {report}"));
    let before = line.split(word).next().and_then(|text| text.split([' ', ',']).rfind(|part| !part.is_empty()));
    before.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("a number before '{word}' in {line}"))
}

#[test]
fn early_exit_shows_text_speed_and_weights_at_each_depth() {
    let expected = expected();
    let ids: Vec<u32> = serde_json::from_value(expected["new_ids"].clone()).expect("ids");
    let text = Tokenizer::from_file(DEMO).expect("in the tree").decode(&ids[..8]).expect("known ids");
    let prompt = expected["prompt"].as_str().expect("a prompt");
    for device in ["cpu", "gpu"] {
        let arguments = ["--prompt", prompt, "--exit", "1,3", "--max-tokens", "8", "--reps", "1", "--device", device];
        let report = succeeds("early_exit", &arguments);
        assert!(report.contains(&format!("{text:?}")), "the stock model's text {text:?} in {report}");
        for depth in ["after layer 4 of 4", "after layer 1 of 4", "after layer 3 of 4"] {
            assert!(figure(&report, depth, " tokens/s") > 0.0, "{depth}");
        }
        if device == "gpu" {
            let bytes = |depth| figure(&report, depth, " weight bytes") as u64;
            let layer = (bytes("after layer 4") - bytes("after layer 1")) / 3;
            assert_eq!(bytes("after layer 3") - bytes("after layer 1"), 2 * layer);
        }
    }
}

#[test]
fn lora_and_probe_run_on_the_demo_model() {
    for device in ["cpu", "gpu"] {
        let report = succeeds("lora", &["--max-tokens", "6", "--reps", "1", "--device", device]);
        assert!(figure(&report, "with 8 adapted projections", " of the stock model") > 0.0);
        if device == "gpu" {
            let dispatches = |title| figure(&report, title, " dispatches a token");
            // A and B each, and in each layer at most one product that no longer joins its neighbours.
            let added = dispatches("with 8 adapted projections") - dispatches("stock");
            assert!((16.0..=20.0).contains(&added), "{added} dispatches more: {report}");
        }
        let report = succeeds("probe", &["--reps", "1", "--top", "2", "--layers", "0,3", "--device", device]);
        for line in ["layer 0: norm", "layer 3: norm", "prefill:"] {
            assert!(report.contains(line), "{line} in {report}");
        }
    }
    // transformers begins with "I will not": what the last layer says after that is its fourth token.
    let ids: Vec<u32> = serde_json::from_value(expected()["new_ids"].clone()).expect("ids");
    let text = |ids: &[u32]| Tokenizer::from_file(DEMO).expect("in the tree").decode(ids).expect("known ids");
    assert_eq!(text(&ids[..3]), "I will not");
    let report = succeeds("probe", &["--prompt", "ROMEO:\nI will not", "--device", "cpu", "--top", "1", "--reps", "1"]);
    let last = format!("says [{:?}]", text(&ids[3..4]));
    assert!(report.lines().any(|line| line.starts_with("layer 3") && line.contains(&last)), "{last} in {report}");
}

#[test]
fn bench_tells_how_fast_a_model_loads() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    let output = succeeds("bench", &["--model", demo, "--load", "--reps", "1", "--json", "--device", "gpu"]);
    let report: Value = serde_json::from_str(output.lines().last().expect("a line")).expect("JSON");
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"));
    assert!(["read_gb_per_s", "upload_gb_per_s", "load_gb_per_s", "share_of_slower"].iter().all(|key| number(key) > 0.0));
    let file = std::fs::metadata(format!("{demo}/model.safetensors")).expect("the demo model").len();
    assert_eq!(number("file_bytes"), file as f64);
    assert!(number("device_bytes") < file as f64 && number("taken_bytes") > number("device_bytes"), "{report}");
    assert!(number("heap_peak_bytes") < 64e6, "{report}");
}

#[test]
fn inspect_shows_each_stage() {
    let portable = |what: &[&str]| succeeds("inspect", &[what, &["--device", "portable"]].concat());
    assert!(portable(&["--graph"]).contains("layer.3.post_ffw_norm"));
    assert!(portable(&["--plan", "--tokens", "16"]).contains("layer.3.attention"));
    let shader = portable(&["--shader", "layer.3.post_ffw_norm"]);
    assert!(shader.contains("@compute") && !shader.contains("subgroupAdd"), "{shader}");
    let memory = portable(&["--memory", "--shape", "gemma-2-2b", "--context", "8192"]);
    let bytes = |line: &str| -> u64 {
        let line = memory.lines().find(|l| l.starts_with(line)).expect("a line of that name");
        line.split_whitespace().find_map(|word| word.parse().ok()).expect("bytes")
    };
    // Published: 2,614,341,888 parameters; here in bf16.
    assert_eq!(bytes("weights"), 2 * 2_614_341_888);
    // 13 full layers of 4 KV heads of 256, K and V in f32, and one buffer of positions; 16 bytes behind each.
    assert_eq!(bytes("cache, full layers"), 8192 * (13 * 2 * 4 * 256 * 4 + 4) + 27 * 16);
    assert!(bytes("largest binding") <= 128 << 20);
    // A row of a full layer has 4 KiB, and no binding more than 128 MiB.
    assert!(memory.contains("a context of 8192 tokens fits, the longest that fits has 8192"), "{memory}");
    let budget = portable(&["--memory", "--shape", "gemma-2-2b", "--context", "8192", "--budget", "5200"]);
    assert!(budget.contains("a context of 8192 tokens does not fit, the longest that fits has "), "{budget}");
    assert!(succeeds("inspect", &["--devices"]).contains("cpu: the CPU reference"));
}

#[test]
fn inspect_shows_the_profile_in_effect() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mine.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    let path = file.display().to_string();
    let plan = |more: &[&str]| succeeds("inspect", &[&["--plan", "--device", "portable"], more].concat());
    let preset = plan(&[]);
    assert!(preset.starts_with("profile for decode: preset gemma_decode\n[fusion]\npolicy = \"fusable\"\n"), "{preset}");
    assert!(preset.contains("pass dce: ") && preset.contains("pass fuse: ") && !preset.contains("graph gemma_resident"));
    write("[fusion]\nskip = ['geglu']\n[decode.passes]\nverbose = true\n");
    let own = plan(&["--profile", &path]);
    assert!(own.starts_with(&format!("profile for decode: {path}\n")) && own.contains("skip = [\"geglu\"]"), "{own}");
    assert!(own.contains("graph gemma_resident") && own.contains("  layer.0.geglu "), "{own}");
    let prefill = plan(&["--profile", &path, "--tokens", "16"]);
    assert!(prefill.starts_with("profile for prefill: ") && prefill.contains("verbose = false"), "{prefill}");
    write("[backend.cpu]\nskip_fusion = true\n");
    let graph = succeeds("inspect", &["--graph", "--device", "cpu", "--profile", &path]);
    assert!(graph.contains("pass decompose: ") && graph.contains(" = matmul(") && !graph.contains(" = linear("));
    let memory = |text: &str| -> u64 {
        write(text);
        let memory = succeeds("inspect", &["--memory", "--device", "portable", "--profile", &path]);
        let line = memory.lines().find(|line| line.starts_with("cache, full layers")).expect("a line of that name");
        line.split_whitespace().find_map(|word| word.parse().ok()).expect("bytes")
    };
    // K and V at half the bytes; the positions of the rows stay.
    let (full, half) = (memory(""), memory("[precision]\nkv = 'f16'"));
    assert!(half < full && half * 2 - full <= 4 * 1024 + 16 * 16, "{full} and {half}");
    // Beside the weights, without being named.
    let config = data("checkpoints/gemma3-text/config.json");
    std::fs::copy(config, folder.path().join("config.json")).expect("copied");
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(data("checkpoints/gemma3-text/model.safetensors"), &weights).expect("copied");
    let beside = folder.path().join("gemma.rlx.toml");
    std::fs::write(&beside, "[fusion]\npolicy = 'direct'\n").expect("written");
    let found = plan(&["--context", "256", "--model", &weights.display().to_string()]);
    assert!(found.starts_with(&format!("profile for decode: {}\n", beside.display())), "{found}");
    std::fs::write(&beside, "[fusion]\npolicy = 'direct'\nskip = true\n").expect("written");
    let model = folder.path().display().to_string();
    let wrong = fails("inspect", &["--plan", "--device", "portable", "--context", "256", "--model", &model]);
    assert!(wrong.contains("gemma.rlx.toml:3:8: fusion.skip: "), "{wrong}");
}

#[test]
fn embed_ranks_the_lines_of_a_file() {
    let model = GgufOracle::open("embeddinggemma-s-q4_0").path;
    let (embedder, tokenizer) =
        (GemmaEmbedder::from_path(&model, Device::Cpu).expect("a model"), Tokenizer::from_gguf(&model).expect("a tokenizer"));
    let lines = ["the red planet", "a cup of tea", "Mars", "tea and cake", "the night sky"];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("lines.txt");
    // The second line is empty and has a number all the same.
    std::fs::write(&file, format!("{}\n\n{}\n", lines[0], lines[1..].join("\n"))).expect("written");
    let numbers = [1, 3, 4, 5, 6];
    let (model, file) = (model.display().to_string(), file.display().to_string());
    for (device, dimensions) in [("cpu", 64), ("gpu", 64), ("cpu", 16)] {
        let embedder = embedder.clone().with_dimensions(dimensions).expect("a length");
        let query = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &["planets"]).expect("a vector").concat();
        let vectors = embedder.embed_texts(&tokenizer, &EmbeddingTask::document(), &lines).expect("vectors");
        let cosine = |vector: &Vec<f32>| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
        let mut expected: Vec<(f32, usize, &str)> =
            vectors.iter().zip(numbers).zip(lines).map(|((vector, number), line)| (cosine(vector), number, line)).collect();
        expected.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        let cut = dimensions.to_string();
        let arguments = ["--model", &model, "--query", "planets", &file, "--dimensions", &cut, "--device", device, "--top", "4"];
        let found = succeeds("embed", &arguments);
        assert_eq!(found.lines().count(), 4, "{found}");
        for (found, (score, number, line)) in found.lines().zip(&expected) {
            let mut words = found.split_whitespace();
            let printed: f32 = words.next().and_then(|word| word.parse().ok()).expect("a score");
            assert!((printed - score).abs() < 1e-3, "{found}, expected {score}");
            assert_eq!(words.next(), Some(&*number.to_string()), "{found}");
            assert!(found.ends_with(line), "{found}");
        }
    }
    let long = "a ".repeat(600);
    std::fs::write(&file, &long).expect("written");
    let arguments = ["--model", &model, "--query", "planets", &file, "--device", "cpu"];
    let wrong = fails("embed", &arguments);
    assert!(wrong.contains("at most 512 are taken") && wrong.contains("no line is left to rank"), "{wrong}");
    std::fs::write(&file, "\n \n").expect("written");
    assert!(fails("embed", &arguments).contains("no line with text"));
    let generating = GgufOracle::open("gemma2-s-q4_0-pure").path.display().to_string();
    std::fs::write(&file, "a line").expect("written");
    assert!(fails("embed", &["--model", &generating, "--query", "planets", &file, "--device", "cpu"]).contains("GemmaGenerator"));
    assert!(fails("embed", &[&arguments[..], &["--dimensions", "65"]].concat()).contains("65, expected 1 to 64"));
    assert!(fails("generate", &["--model", &model, "--device", "cpu"]).contains("GemmaEmbedder"));
}

#[test]
fn embed_looks_for_a_picture_and_a_sound() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let oracle = data("multimodal/embeddinggemma2");
    for file in ["config.json", "model.safetensors", "processor_config.json"] {
        std::fs::copy(oracle.join(file), folder.path().join(file)).expect("copied");
    }
    std::fs::copy(data("tokenizers/gemma4/tokenizer.json"), folder.path().join("tokenizer.json")).expect("copied");
    let lines = folder.path().join("lines.txt");
    std::fs::write(&lines, "the red planet\na cup of tea\n").expect("written");
    let input = |name: &str| oracle.join("inputs").join(name).display().to_string();
    let (model, lines) = (folder.path().display().to_string(), lines.display().to_string());
    let (image, audio) = (input("two.1.png"), input("clip.0.wav"));
    let arguments = ["--model", &model, "--device", "cpu", &lines];
    let scores = |more: &[&str]| {
        let found = succeeds("embed", &[&arguments[..], more].concat());
        assert_eq!(found.lines().count(), 2, "{found}");
        found
    };
    let alone = scores(&["--image", &image]);
    let all = [scores(&["--audio", &audio]), scores(&["--image", &image, "--query", "planets"]), scores(&["--query", "planets"])];
    assert!(all.iter().all(|other| *other != alone), "{alone}");
    assert!(fails("embed", &[&arguments[..], &["--image", &audio]].concat()).contains("clip.0.wav"));
    let texts = GgufOracle::open("embeddinggemma-s-q4_0").path.display().to_string();
    assert!(fails("embed", &["--model", &texts, "--device", "cpu", &lines, "--image", &image]).contains("no tower"));
}

#[test]
fn json_fulfils_its_schema_or_says_that_it_is_cut() {
    for (device, seed) in [("cpu", "1"), ("gpu", "2"), ("gpu", "3")] {
        let text = succeeds("json", &["--device", device, "--seed", seed]);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert!(value["age"].as_u64().is_some_and(|age| (1..100).contains(&age)) && value["friends"].is_array(), "{text}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let schema = |text: &str| {
        let path = folder.path().join("schema.json");
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let words = schema(r#"{"type": "array", "items": {"enum": ["to", "be"]}, "minItems": 3, "maxItems": 3}"#);
    let text = succeeds("json", &["--device", "cpu", "--temperature", "0", "--schema", &words]);
    assert_eq!(serde_json::from_str::<Vec<String>>(&text).expect("words").len(), 3);
    let cut = fails("json", &["--device", "cpu", "--max-tokens", "2", "--schema", &words]);
    assert!(cut.contains("not complete after 2 tokens"), "{cut}");
    assert!(fails("json", &["--schema", &schema("{\"type\": \"poem\"}")]).contains("error: grammar: "));
}

#[test]
fn mistakes_are_explained() {
    let model = data("checkpoints/gemma3-text").display().to_string();
    let logits = |more: &[&str]| fails("logits", &[&["--model", &model, "--device", "cpu", "--out", "/dev/null"], more].concat());
    let cases = [
        (fails("generate", &["--temprature", "1"]), "--temperature"),
        (fails("generate", &["--temperature", "-1"]), "temperature is -1"),
        (fails("generate", &["--model", "/no/such/folder"]), "/no/such/folder"),
        (fails("generate", &["--model", &model]), "tokenizer.json"),
        (fails("generate", &["--device", "no such GPU"]), "no such GPU"),
        (fails("generate", &["--device", "cpu", "--context", "2"]), "capacity is 2"),
        (logits(&["--tokens", "1,x"]), "'x' is no token id"),
        (logits(&["--tokens", "1,5000"]), "5000 at position 1"),
        (logits(&["--tokens", ""]), "no tokens"),
        (logits(&["--tokens", "@/no/such.json"]), "/no/such.json"),
        (logits(&["--tokens", "1", "--path", "chunked", "--chunk", "3"]), "--chunk is 3, expected a power of two"),
        (fails("bench", &["--shape", "gemma-9"]), "gemma-3-270m"),
        (fails("bench", &["--layers", "99", "--device", "cpu"]), "99"),
        (fails("bench", &["--reps", "0"]), "--reps is 0"),
        (fails("early_exit", &["--exit", "5"]), "--exit 5: the model has layers 1 to 4"),
        (fails("lora", &["--adapter", "/no/such/adapter", "--device", "cpu"]), "/no/such/adapter"),
        (fails("probe", &["--layers", "4"]), "--layers 4: the model has layers 0 to 3"),
        (fails("inspect", &[]), "--graph"),
        (fails("inspect", &["--shader", "zork", "--device", "portable"]), "rms_norm"),
    ];
    for (text, word) in cases {
        assert!(text.contains(word), "'{word}' in {text}");
    }
}

/// The pixels of a PNG file that have the colour of generated text, and how many colours the picture has.
fn ink(path: &Path) -> (Vec<usize>, usize) {
    let file = std::io::BufReader::new(std::fs::File::open(path).expect("written"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG file");
    let mut bytes = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut bytes).expect("a picture");
    assert_eq!((info.width, info.height, bytes.len()), (640, 360, 640 * 360 * 3));
    let pixels: Vec<&[u8]> = bytes.chunks_exact(3).collect();
    let inked = (0..).zip(&pixels).filter(|(_, pixel)| **pixel == [245, 240, 224]).map(|(index, _)| index);
    (inked.collect(), pixels.iter().collect::<std::collections::BTreeSet<_>>().len())
}

#[test]
fn a_model_writes_into_the_picture_of_an_application() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let picture = |name: &str, more: &[&str]| {
        let [png, csv] = ["png", "csv"].map(|end| folder.path().join(name).with_extension(end));
        let files = ["--out", png.to_str().expect("UTF-8"), "--frames-csv", csv.to_str().expect("UTF-8")];
        let output = start("embed_in_app", &[&["--idle", "3"], &files[..], more].concat());
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout.is_empty(), "{report}");
        assert!(report.contains("idle:        3 frames") && report.contains("generating:  "), "{report}");
        assert!(std::fs::read_to_string(&csv).expect("written").lines().count() > 3);
        ink(&png)
    };
    let (silent, colours) = picture("silent", &["--tokens", "0"]);
    assert!(silent.is_empty() && colours > 4, "{} pixels of text, {colours} colours", silent.len());
    let (written, _) = picture("written", &["--tokens", "12"]);
    // A dozen pieces of text, four pixels for each dot of a glyph.
    assert!(written.len() > 400, "{} pixels of text", written.len());
    assert_eq!(picture("sliced", &["--tokens", "12", "--submit-ms", "0.1"]).0, written);
    assert!(picture("cut", &["--frames", "6", "--tokens", "2000"]).1 > 4);
    assert!(fails("embed_in_app", &["--model", "/no/such/folder"]).contains("/no/such/folder"));
    assert!(fails("embed_in_app", &["--submit-ms", "-1"]).contains("--submit-ms -1"));
    if cfg!(not(feature = "window")) {
        assert!(fails("embed_in_app", &["--window"]).contains("--features window"));
    }
}

#[test]
fn help_names_every_flag() {
    let flags = [
        (
            "generate",
            "--model --prompt --max-tokens --temperature --top-k --top-p --min-p --seed --device \
             --chat --thinking --context --draft --list-devices",
        ),
        ("describe", "--model --mmproj --question --budget --crops --max-tokens --temperature --device"),
        ("early_exit", "--model --prompt --exit --max-tokens --reps --device"),
        ("lora", "--model --adapter --prompt --max-tokens --reps --device"),
        ("probe", "--model --prompt --layers --top --reps --device"),
        ("json", "--model --prompt --schema --max-tokens --temperature --top-k --seed --device --chat"),
        ("logits", "--model --tokens --parts --stages --case --device --path --chunk --out"),
        ("embed", "--model --query --dimensions --top --device"),
        (
            "embed_in_app",
            "--model --shape --layers --prompt --tokens --seed --submit-ms --max-binding --frames --idle --out --frames-csv --window",
        ),
        (
            "bench",
            "--model --shape --weights --layers --prompt --depth --gen --reps \
             --profile --clock --svg --first-token --pipelines --load --cold --device --json",
        ),
        ("inspect", "--model --shape --graph --plan --shader --memory --devices --tokens --context --budget --profile --device"),
    ];
    for (name, flags) in flags {
        let help = succeeds(name, &["--help"]);
        for flag in flags.split(' ') {
            assert!(help.contains(flag), "{flag} in the help of {name}");
        }
    }
}

#[test]
fn kernels_compiles_on_the_device_and_writes_standard_text() {
    let compiled = succeeds("kernels", &["--shapes", "gemma-3-270m", "compile"]);
    assert!(compiled.contains(" kernels in ") && compiled.ends_with(" 0 failed\n"), "{compiled}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("kernels.json").display().to_string();
    succeeds("kernels", &["--shapes", "gemma-3-270m", "write", "--tier", "subgroups", &out]);
    let written: Vec<Value> = serde_json::from_slice(&std::fs::read(&out).expect("written")).expect("JSON");
    let has = |kernel: &Value, text: &str| kernel["wgsl"].as_str().is_some_and(|wgsl| wgsl.contains(text));
    assert!(written.iter().any(|kernel| has(kernel, "enable subgroups;") && has(kernel, "subgroupAdd")));
    assert!(written.iter().all(|kernel| kernel["constants"].is_object() && has(kernel, "@compute")));
    assert!(fails("kernels", &["--shapes", "gemma-9", "compile"]).contains("gemma-9"));
}
