//! Towers in the examples: the memory that `inspect` plans for them, and the projector that `describe` fetches.

use std::path::Path;

use gemmaflow::{
    checkpoint::load_towers_from_path,
    gemma::GemmaConfig,
    hearing::AudioEncoder,
    runtime::Capabilities,
    vision::{TowerMemory, TowerOptions, VisionEncoder},
};

use super::{
    common::{files::read_gguf, multimodal::Multimodal},
    from_hub::from_hub,
    hub, mmproj, shown, succeeds, text,
};

/// The bytes in the line of a report that begins with `name`.
fn bytes(report: &str, name: &str) -> u64 {
    let line = report.lines().find(|line| line.starts_with(&format!("{name}  "))).unwrap_or_else(|| panic!("{name} in {report}"));
    line[name.len()..].split_whitespace().find_map(|word| word.parse().ok()).expect("bytes")
}

fn is_listed(report: &str, name: &str, memory: &TowerMemory) {
    for (what, expected) in [("weights", memory.weights), ("a run", memory.runs), ("loading", memory.loading)] {
        assert_eq!(bytes(report, &format!("{name}, {what}")), expected, "{name}, {what}: {report}");
    }
}

#[test]
fn inspect_counts_the_towers_of_a_checkpoint_and_of_a_projector() {
    let oracle = Multimodal::open("gemma4-audio");
    let gguf = text::folder(&oracle);
    for model in [oracle.folder.clone(), gguf.path().join("model.gguf")] {
        let path = model.display().to_string();
        let arguments = ["--model", &path, "--memory", "--device", "portable", "--context", "128"];
        let report = succeeds("inspect", &arguments);
        let config = GemmaConfig::near_weights(&model).unwrap();
        let device = Capabilities::portable();
        let options = TowerOptions::default();
        let towers = || load_towers_from_path(&model).unwrap();
        let vision = VisionEncoder::memory_plan(&config, towers().as_mut(), &device, None, &options).unwrap();
        let audio = AudioEncoder::memory_plan(&config, towers().as_mut(), &device, &options).unwrap();
        is_listed(&report, "vision", &vision);
        is_listed(&report, "audio", &audio);
        let sum = vision.peak() + audio.peak();
        assert_eq!(bytes(&report, "towers"), sum, "{report}");
        let text = ["weights", "cache, full layers", "cache, sliding layers", "scratch"].map(|name| bytes(&report, name));
        assert_eq!(bytes(&report, "together"), text.iter().sum::<u64>() + sum, "{report}");

        // A budget has to hold the towers too.
        let peak = bytes(&report, "most at once");
        for (budget, said) in [(peak, "fits, "), (peak - sum, "does not fit, ")] {
            let mib = budget.div_ceil(1 << 20).to_string();
            let report = succeeds("inspect", &[&arguments[..], &["--budget", &mib]].concat());
            assert!(report.contains(&format!("a context of 128 tokens {said}")), "{mib} MiB: {report}");
        }
    }
}

#[test]
fn inspect_says_of_a_tower_why_it_is_not_counted() {
    let oracle = Multimodal::open("gemma3-vision");
    let folder = text::folder(&oracle);
    let model = folder.path().join("model.gguf");
    let inspect = || {
        let path = model.display().to_string();
        succeeds("inspect", &["--model", &path, "--memory", "--device", "portable", "--context", "512"])
    };
    let counted = inspect();
    let tokens = oracle.config.multimodal.vision.as_ref().unwrap().max_soft_tokens();
    assert!(counted.contains(&format!("a picture of {tokens} soft tokens")) && !counted.contains("audio"), "{counted}");

    std::fs::copy(mmproj(&oracle), folder.path().join("mmproj-other.gguf")).unwrap();
    let report = inspect();
    let line = report.lines().find(|line| line.starts_with("vision tower")).expect("a line of the tower");
    assert!(line.contains("not counted: ") && line.contains("2 projectors lie beside the model"), "{line}");
    assert!(report.contains("together") && !report.contains("\ntowers"), "{report}");

    // Without towers nothing is said of them.
    for file in ["mmproj-other.gguf", "mmproj-model-f16.gguf"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let report = inspect();
    assert!(["vision", "audio", "towers"].iter().all(|word| !report.contains(word)), "{report}");
    assert!(bytes(&report, "together") < bytes(&counted, "together"));
}

/// What an example writes to stdout and to stderr with the hub `server` and a cache in `home`.
fn with_hub(name: &str, server: &hub::Hub, home: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = from_hub(name, server, home);
    let output = command.args(arguments).output().expect("the example is built");
    let [said, told] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{name}: {told}");
    (said, told)
}

#[test]
fn describe_fetches_the_projector_with_a_model_of_the_hub() {
    let oracle = Multimodal::open("gemma3-vision");
    let folder = text::folder(&oracle);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    // A projector of other bytes under the name that is not taken.
    let files = [
        ("model-Q4_0.gguf".to_string(), read("model.gguf")),
        ("mmproj-F16.gguf".to_string(), read("mmproj-model-f16.gguf")),
        ("mmproj-F32.gguf".to_string(), b"GGUF, but no more".to_vec()),
    ];
    let server = hub::Hub::new(files);
    let home = tempfile::tempdir().unwrap();
    let picture = shown::checkpoint("gemma3-vision").join("inputs/two.0.png").display().to_string();
    let sampling = ["--temperature", "0", "--max-tokens", "4", "--device", "cpu"];
    let here = folder.path().join("model.gguf").display().to_string();
    let expected = succeeds("describe", &[&["--model", &here, &picture][..], &sampling].concat());

    let name = format!("{}/model-Q4_0.gguf", hub::REPOSITORY);
    let arguments = [&["--model", &name, &picture][..], &sampling].concat();
    let (said, told) = with_hub("describe", &server, home.path(), &arguments);
    assert_eq!(said, expected, "{told}");
    let fetched = |server: &hub::Hub| server.state().fetched.len();
    assert_eq!(fetched(&server), 2);

    // One that is named wins, and no other comes.
    let elsewhere = tempfile::tempdir().unwrap();
    server.forget();
    let named = mmproj(&oracle).display().to_string();
    let (said, told) = with_hub("describe", &server, elsewhere.path(), &[&arguments[..], &["--mmproj", &named]].concat());
    assert_eq!((said, fetched(&server)), (expected, 1), "{told}");
    // Nobody need take one.
    let elsewhere = tempfile::tempdir().unwrap();
    server.forget();
    with_hub("chat", &server, elsewhere.path(), &["--model", &name, "--no-mmproj", "--device", "cpu"]);
    assert_eq!(fetched(&server), 1);
    // Other examples fetch the text alone.
    let elsewhere = tempfile::tempdir().unwrap();
    server.forget();
    with_hub("inspect", &server, elsewhere.path(), &["--model", &name, "--graph", "--device", "portable"]);
    assert_eq!(fetched(&server), 1);
}

/// One that does not fit is no reason to refuse text.
#[test]
fn a_repositorys_projector_that_does_not_fit_is_left_out() {
    let oracle = Multimodal::open("gemma3-vision");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    text::write(&oracle, &model);
    let mut projector = read_gguf(&mmproj(&oracle));
    projector = projector.text("general.architecture", "something");
    projector.write(&folder.path().join("mmproj.gguf"));
    let server = hub::Hub::of_folder(folder.path(), &["model.gguf", "mmproj.gguf"]);
    let home = tempfile::tempdir().unwrap();
    let name = format!("{}/model.gguf", hub::REPOSITORY);
    let (_, told) = with_hub("chat", &server, home.path(), &["--model", &name, "--device", "cpu"]);
    assert!(told.contains("pictures and sounds cannot be taken") && told.contains("mmproj.gguf"), "{told}");
    assert_eq!(server.state().fetched.len(), 2);
}
