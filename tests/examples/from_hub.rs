//! Models of the hub in the examples.

use std::{path::Path, process::Command};

use super::{DEMO, hub, program::program};

/// An example that knows no hub but `server`, and no cache but the one below `home`.
pub fn from_hub(name: &str, server: &hub::Hub, home: &Path) -> Command {
    let mut command = Command::new(program(name));
    let hub = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"];
    let more = ["TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    for name in hub.into_iter().chain(more) {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", server.endpoint());
    command
}

#[test]
fn a_model_is_taken_from_the_hub_as_the_environment_says() {
    let files = ["config.json", "model.safetensors", "tokenizer.json"];
    let server = hub::Hub::of_folder(Path::new(DEMO), &files);
    server.state().gate = Some(("hf_stored", 401));
    let home = tempfile::tempdir().expect("a temporary folder");
    let inspect = |model: &str, variables: &[(&str, &str)]| {
        let mut command = from_hub("inspect", &server, home.path());
        command.envs(variables.iter().copied());
        let output = command.args(["--graph", "--device", "portable", "--model", model]).output().expect("the example is built");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
    };
    let (_, expected, _): (bool, String, String) = inspect(DEMO, &[]);
    let (ok, _, error): (bool, String, String) = inspect(hub::REPOSITORY, &[]);
    assert!(!ok && error.contains("licence") && error.lines().count() == 1, "{error}");
    let (ok, text, error) = inspect(hub::REPOSITORY, &[("HF_TOKEN", "hf_stored")]);
    assert!(ok && text == expected, "{error}");
    server.forget();
    let (ok, text, error) = inspect(hub::REPOSITORY, &[("HF_HUB_OFFLINE", "1")]);
    assert!(ok && text == expected && server.state().asked.is_empty(), "{error}");

    let elsewhere = home.path().join("elsewhere");
    let place = [("HF_HUB_CACHE", elsewhere.to_str().expect("UTF-8"))];
    std::fs::write(home.path().join("token"), "hf_stored\n").expect("written");
    let (ok, text, error) = inspect(hub::REPOSITORY, &place);
    assert!(ok && text == expected && elsewhere.is_dir(), "{error}");
    let (ok, _, error) = inspect("some-one/else", &[]);
    assert!(!ok && error.contains("there is no some-one/else here"), "{error}");
}
