//! Models by name from the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use gemmaflow::hub::{DownloadProgress, HubModel, HubOptions, download, download_with_projector};

use super::environment::Environment;

/// The model's path: `model` itself where something lies there or it is no name of the hub, else the model in the
/// cache, fetched if need be.
pub fn local(model: &Path) -> Result<PathBuf> {
    match named(model) {
        Some(name) => fetched(model, |options| download(&name, options)),
        None => Ok(model.to_path_buf()),
    }
}

/// As [`local`], and of a GGUF model of the hub the projector that its repository has.
pub fn local_with_projector(model: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    match named(model) {
        Some(name) => fetched(model, |options| download_with_projector(&name, options)),
        None => Ok((model.to_path_buf(), None)),
    }
}

/// The name on the hub, where nothing lies here.
fn named(model: &Path) -> Option<HubModel> {
    let name = model.to_str().and_then(|name| name.parse::<HubModel>().ok());
    name.filter(|_| !model.exists())
}

/// What `download` fetches for `model`, with a progress bar.
fn fetched<T>(model: &Path, download: impl FnOnce(HubOptions) -> gemmaflow::Result<T>) -> Result<T> {
    let options = Environment(&|name| std::env::var_os(name)).hub_options()?;
    let bar = super::bar(0, "downloading {bar:30} {bytes}/{total_bytes}, {eta} left");
    let shown = bar.clone();
    let on_progress = Box::new(move |progress: DownloadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    });
    let found = download(HubOptions { on_progress: Some(on_progress), ..options });
    bar.finish_and_clear();
    found.map_err(|error| anyhow::anyhow!("there is no {} here, and from the hub: {error}", model.display()))
}
