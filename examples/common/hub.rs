//! Models by name from the Hugging Face Hub, with what the environment says, by the names that Hugging Face's own tools read.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gemmaflow::hub::{DownloadProgress, HubModel, HubOptions, download};

/// The model's path: `model` itself where something lies there or it is no name of the hub, else the model in the cache, fetched
/// if need be.
pub fn local(model: &Path) -> Result<PathBuf> {
    let name = model.to_str().and_then(|name| name.parse::<HubModel>().ok());
    let Some(name) = name.filter(|_| !model.exists()) else {
        return Ok(model.to_path_buf());
    };
    let bar = super::bar(0, "downloading {bar:30} {bytes}/{total_bytes}, {eta} left");
    let shown = bar.clone();
    let on_progress = Box::new(move |progress: DownloadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    });
    let path = download(&name, HubOptions { on_progress: Some(on_progress), ..options()? });
    bar.finish_and_clear();
    path.map_err(|error| anyhow::anyhow!("there is no {} here, and from the hub: {error}", model.display()))
}

fn options() -> Result<HubOptions> {
    let home = variable("HF_HOME").map(PathBuf::from);
    let home = home.or_else(|| variable("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface")));
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cache").join("huggingface")));
    let home = home.context("there is no home folder to keep models in; set HF_HOME")?;
    let cache = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
    let mut options = HubOptions::new(cache);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        options.endpoint = endpoint;
    }
    // `hf auth login` writes the file.
    let file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
    options.token = variable("HF_TOKEN").or_else(|| fs::read_to_string(file).ok());
    let yes = ["1", "ON", "YES", "TRUE"];
    options.offline = variable("HF_HUB_OFFLINE").is_some_and(|value| yes.contains(&value.to_uppercase().as_str()));
    if options.endpoint.starts_with("https:") {
        options.proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].iter().find_map(|name| variable(name));
    }
    Ok(options)
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
