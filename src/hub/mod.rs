//! Models by name from the Hugging Face Hub (feature `hub`).
//!
//! ```no_run
//! use gemmaflow::{gemma::GemmaConfig, generate::GemmaGenerator, hub::{self, HubOptions}, runtime::Device};
//!
//! # fn main() -> gemmaflow::Result<()> {
//! // Nothing larger than 20 GiB.
//! let on_progress: hub::OnDownload = Box::new(|progress| progress.total <= 20 << 30);
//! let options = HubOptions { on_progress: Some(on_progress), ..HubOptions::new("models") };
//! let path = hub::download(&"google/gemma-3-270m-it".parse()?, options)?;
//! let generator = GemmaGenerator::from_path(GemmaConfig::near_weights(&path)?, &path, Device::Auto)?;
//! # Ok(())
//! # }
//! ```
//!
//! The cache has the layout of Hugging Face's own libraries and can be shared with them: `blobs/` holds files under the
//! server's names of their contents, `snapshots/COMMIT/` links to them, `refs/main` names the commit. A file that is
//! being fetched lies in `blobs/NAME.part`; it gets its name when its length is right and, for large files, its
//! SHA-256. So an interrupted download continues where it ended, and half a file is never taken for a whole one. If
//! several processes want one file, Hugging Face's own among them, one fetches it and the others wait (`.locks/`). If
//! the hub cannot be reached, a complete copy in the cache serves, with a `tracing` warning.
//!
//! The projector of a GGUF model, which has its towers for pictures and sounds, comes by [`download_with_projector`];
//! [`download`] brings the text model alone.
//!
//! The token goes to the endpoint alone, never to a server that it redirects to. The server's answers (commit, names of
//! contents, shards of an index) are checked before they become a path. No wait is longer than a minute.

mod cache;
mod client;
mod lock;
mod name;
mod part;
mod projector;
mod proxy;
mod transfer;

use std::path::PathBuf;

pub use name::HubModel;

use self::{
    cache::Store,
    client::{Client, Failed},
    transfer::Transfer,
};
use crate::{Error, Result, checkpoint::index_shards, error::HubError};

const CONFIG: &str = "config.json";
/// Taken where the repository has them; the last ones are those of a model that embeds texts, as sentence-transformers
/// names them.
const OPTIONAL: [&str; 15] = [
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_Dense/config.json",
    "3_Dense/model.safetensors",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The progress of a download. `done` begins with the bytes that an interrupted download has left, and ends equal to
/// `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadProgress {
    /// Bytes of the files to fetch that are there.
    pub done: u64,
    /// Bytes of the files to fetch, as far as they are known: it grows once where an index names shards.
    pub total: u64,
}

/// Called before every request and after every portion of at most 256 KiB; `false` cancels with [`Error::Cancelled`].
pub type OnDownload = Box<dyn FnMut(DownloadProgress) -> bool + Send>;

/// The source of models, and the place where they are kept.
pub struct HubOptions {
    /// The hub: `https://huggingface.co`, or a mirror that answers as it does.
    pub endpoint: String,
    /// The folder that all models share; Hugging Face's libraries use `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// An access token, for gated and private models.
    pub token: Option<String>,
    /// Use what is in the cache and nothing else: no request is made.
    pub offline: bool,
    /// A proxy, such as `http://proxy:3128` or `socks5h://proxy:1080`.
    pub proxy: Option<String>,
    /// Servers that are asked without the proxy, as the entries of `NO_PROXY`: `example.com` with all below it,
    /// `.example.com`, `10.0.0.0/8`, `localhost:8080`, `*`. An entry that is none of them is passed over.
    pub no_proxy: Vec<String>,
    /// Progress, and the way to cancel.
    pub on_progress: Option<OnDownload>,
}

impl HubOptions {
    /// The public hub without a token, kept in `cache`.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        let endpoint = "https://huggingface.co".to_string();
        let no_proxy = Vec::new();
        Self { endpoint, cache: cache.into(), token: None, offline: false, proxy: None, no_proxy, on_progress: None }
    }
}

/// Brings a model into the cache and returns its path: a folder with `config.json` and safetensors weights, or the GGUF
/// file that `model` names. Files that are in the cache are not fetched again. If all of them are, the hub is asked for
/// the newest commit alone. If the hub cannot be reached then (no connection, no answer within 10 s, HTTP 408, 429 or
/// 5xx), the copy in the cache serves.
///
/// # Errors
/// - [`HubError::Access`] for a gated or private model.
/// - [`HubError::Missing`] if the hub has no such repository or file, or the repository has no weights that can be
///   chosen without a name.
/// - [`HubError::Offline`] if offline mode needs a file that is not in the cache.
/// - [`HubError::Transfer`] if the connection fails or the disk is full; the same call continues from there.
/// - [`Error::Format`] for an index that leads out of its folder.
/// - [`HubError::Option`], [`Error::Cancelled`], [`Error::Io`].
pub fn download(model: &HubModel, options: HubOptions) -> Result<PathBuf> {
    Ok(bring(model, None, options)?.path)
}

/// As [`download`], and of a GGUF model also its projector: llama.cpp's `mmproj` file of the same repository, which has
/// the towers for pictures and sounds. [`Model::open_with_projector`](crate::conversation::Model::open_with_projector)
/// takes both paths. The second is `None` for a checkpoint, which has its own towers, and where the repository has no
/// projector.
///
/// The choice among several is that of llama.cpp's `-hf`. The nearest folder counts first, from that of the model's file
/// up to the repository. Then the precision that the name tells counts, the nearest to that of the model's own: of F16
/// and Q8_0, a Q4_K_M model takes Q8_0. Then the name: BF16 comes before F16.
///
/// Offline, and where the hub cannot be reached, the choice is among the projectors in the cache. `None` then means
/// that there is none of the commit that was fetched last.
///
/// ```no_run
/// use gemmaflow::hub::{self, HubOptions};
///
/// # fn main() -> gemmaflow::Result<()> {
/// let model = "ggml-org/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf".parse()?;
/// let (path, projector) = hub::download_with_projector(&model, HubOptions::new("models"))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`download`]; one while the projector is fetched is an error of the whole.
pub fn download_with_projector(model: &HubModel, options: HubOptions) -> Result<(PathBuf, Option<PathBuf>)> {
    let brought = bring(model, model.file(), options)?;
    Ok((brought.path, brought.projector))
}

/// Where a model lies in the cache.
struct Brought {
    path: PathBuf,
    projector: Option<PathBuf>,
}

/// The model, and the projector of the GGUF file at `text` if there is to be one.
fn bring(model: &HubModel, text: Option<&str>, options: HubOptions) -> Result<Brought> {
    let store = Store::new(&options.cache, model.repository());
    if options.offline {
        return kept(model, text, &store);
    }
    let client = Client::new(model.repository(), &options)?;
    let kept = kept(model, text, &store).ok();
    let listing = match (client.listing(kept.is_some()), kept) {
        (Ok(listing), _) => listing,
        (Err(Failed { unreachable: Some(why), .. }), Some(kept)) => {
            tracing::warn!(
                "{model}: the hub cannot be reached ({why}); the copy in the cache is used, which may not be the newest"
            );
            return Ok(kept);
        }
        (Err(failed), _) => return Err(failed.error),
    };
    let folder = store.snapshot(&listing.commit);
    let mut transfer = Transfer::new(&client, &store, &listing, options.on_progress);
    let mut wanted = match model.parts() {
        Some(parts) => parts,
        None if listing.has(WEIGHTS) => checkpoint(&listing.files, [WEIGHTS.to_string()]),
        None if listing.has(INDEX) => {
            transfer.fetch(&[INDEX.to_string()])?;
            checkpoint(&listing.files, name::plain(&folder.join(INDEX), index_shards(&folder.join(INDEX).into())?)?)
        }
        None => return Err(no_weights(model, &listing.files)),
    };
    let projector = text.and_then(|text| projector::choose(&listing.files, text));
    wanted.extend(projector.clone());
    transfer.fetch(&wanted)?;
    store.point_to(&listing.commit, &wanted[0])?;
    Ok(Brought { projector: projector.map(|file| folder.join(file)), path: model.within(folder) })
}

/// The files of a checkpoint in a repository that has `files`.
fn checkpoint(files: &[String], weights: impl IntoIterator<Item = String>) -> Vec<String> {
    let optional = OPTIONAL.into_iter().filter(|name| files.iter().any(|file| file == name));
    [CONFIG].into_iter().chain(optional).map(str::to_string).chain(weights).collect()
}

/// The model without a request, with the projector that is there for the GGUF file at `text`.
fn kept(model: &HubModel, text: Option<&str>, store: &Store) -> Result<Brought> {
    let path = in_cache(model, store)?;
    let projector = text.and_then(|text| projector::choose(&store.files_towards(text), text));
    Ok(Brought { path, projector: projector.and_then(|file| store.find(&file)) })
}

/// The path of the model without a request. Optional files that are missing may not exist, so that only the others are
/// asked for.
fn in_cache(model: &HubModel, store: &Store) -> Result<PathBuf> {
    let find = |file: &str| store.find(file).ok_or_else(|| store.absent(file));
    if let Some(parts) = model.parts() {
        let paths = parts.iter().map(|part| find(part)).collect::<Result<Vec<_>>>()?;
        return paths.into_iter().next().ok_or_else(|| store.absent(CONFIG));
    }
    let config = find(CONFIG)?;
    if store.find(WEIGHTS).is_none() {
        let index = store.find(INDEX).ok_or_else(|| store.absent(WEIGHTS))?;
        for shard in name::plain(&index, index_shards(&index.as_path().into())?)? {
            find(&shard)?;
        }
    }
    Ok(config.parent().map(PathBuf::from).unwrap_or_default())
}

fn no_weights(model: &HubModel, files: &[String]) -> Error {
    let gguf = files.iter().find(|file| file.ends_with(".gguf"));
    let advice = match gguf {
        Some(file) => format!("but GGUF files: name the one to take, as in {}/{}", model.repository(), file.escape_debug()),
        None => "nor a GGUF file; is this the repository of a model's weights?".to_string(),
    };
    let problem = format!("the repository has neither {WEIGHTS} nor {INDEX}, {advice}");
    Error::Hub(HubError::Missing { model: model.to_string(), problem })
}
