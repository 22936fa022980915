//! Models by name from the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use gemmaflow::hub::{DownloadProgress, HubModel, HubOptions, download};

use super::environment::Environment;

/// The model's path: `model` itself where something lies there or it is no name of the hub, else the model in the
/// cache, fetched if need be.
pub fn local(model: &Path) -> Result<PathBuf> {
    let name = model.to_str().and_then(|name| name.parse::<HubModel>().ok());
    let Some(name) = name.filter(|_| !model.exists()) else {
        return Ok(model.to_path_buf());
    };
    let options = Environment(&|name| std::env::var_os(name)).hub_options()?;
    let bar = super::bar(0, "downloading {bar:30} {bytes}/{total_bytes}, {eta} left");
    let shown = bar.clone();
    let on_progress = Box::new(move |progress: DownloadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    });
    let path = download(&name, HubOptions { on_progress: Some(on_progress), ..options });
    bar.finish_and_clear();
    path.map_err(|error| anyhow::anyhow!("there is no {} here, and from the hub: {error}", model.display()))
}
