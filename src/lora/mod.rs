//! LoRA adapters (Hu et al. 2021, arXiv 2106.09685): `y + scale · B·(A·x)` for products `y = W·x` of a model.
//!
//! [`Lora::open`] reads the adapters of PEFT (`adapter_config.json` with `adapter_model.safetensors`), of mlx-lm
//! (`adapters.safetensors`) and of llama.cpp (GGUF). Everything in an adapter's files is computed as it was trained, or
//! refused by name; nothing is dropped in silence. [`Lora::apply`] puts an adapter into a flow, through the public hook
//! [`GemmaFlow::adapted`](crate::gemma::GemmaFlow::adapted), and so into a generator:
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use gemmaflow::{gemma::GemmaConfig, generate::{GemmaGenerator, GeneratorOptions}, lora::Lora, runtime::Device};
//! use gemmaflow::checkpoint::load_from_path;
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let model = "models/gemma-3-270m-it";
//! let config = GemmaConfig::near_weights(model)?;
//! let lora = Arc::new(Lora::open(Path::new("my-adapter"), &config)?);
//! let options = GeneratorOptions::default().with_flow(move |flow| lora.apply(flow));
//! let generator = GemmaGenerator::with_options(config, load_from_path(model)?.as_mut(), Device::Gpu, options)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is computed
//! Every product that a decoder has: projections of attention and FFW, the router and the experts of Gemma 4, and the
//! LM head. Also the gates and projections of per-layer embeddings, the products of AltUp and LAuReL in Gemma 3n, and
//! the rows of both embeddings. With them rank-stabilised scales, patterns of ranks and alphas, a bias on B, and DoRA
//! (Liu et al. 2024, arXiv 2402.09353) on matrices. Layers that share the keys and values of others never multiply
//! their own `k_proj` and `v_proj`, so an adapter's parts for those have no effect, as in PEFT. Parts for vision and
//! audio towers have none on text.

mod apply;
mod experts;
mod fields;
mod file;
mod gguf;
mod keys;
mod magnitude;
mod mlx;
mod patterns;
mod peft;
mod place;

use std::{collections::BTreeMap, sync::Mutex};

use crate::{
    Error, Result,
    files::ModelPath,
    gemma::GemmaConfig,
    weights::{Tensor, is_gguf_file},
};

/// An adapter's addition to one product.
#[derive(Debug, Clone)]
pub struct LoraPart {
    /// A `[r, K]`; of a table `[V, r]`; of experts `[E·r, K]`, each one's rows together.
    pub a: Tensor,
    /// B `[N, r]`; of experts `[E·N, r]`.
    pub b: Tensor,
    /// The factor on `B·A·x`.
    pub scale: f32,
    /// Added to `B·A·x` before the factor, `[N]`.
    pub bias: Option<Tensor>,
    /// DoRA's length of each row of the adapted weight, `[N]`.
    pub magnitude: Option<Tensor>,
}

/// An adapter for a model.
#[derive(Debug)]
pub struct Lora {
    path: ModelPath,
    parts: BTreeMap<String, LoraPart>,
    /// Copies of the adapted weights that came with the adapter; they must be the model's.
    copies: BTreeMap<String, Tensor>,
    /// DoRA's factor on each product, once a flow has been built.
    factors: Mutex<BTreeMap<String, Tensor>>,
}

impl Lora {
    /// Reads an adapter for a model of `config`: a folder as PEFT or mlx-lm writes it, its file of weights (the
    /// configuration lies beside it), or a GGUF file of llama.cpp.
    ///
    /// # Errors
    /// [`Error::Adapter`] names the part that cannot be computed as it was trained: a field of the configuration, a
    /// tensor without a place in the model, a rank or shape that the configuration does not imply. [`Error::Io`] and
    /// [`Error::Format`] where files are missing or broken.
    pub fn open(path: impl Into<ModelPath>, config: &GemmaConfig) -> Result<Self> {
        Self::from_files(&path.into(), config)
    }

    fn from_files(path: &ModelPath, config: &GemmaConfig) -> Result<Self> {
        if path.is_dir() {
            return match file::in_folder(path)? {
                file::Found::Peft(weights) => peft::open(&weights, config),
                file::Found::Mlx(weights) => mlx::open(&weights, config),
                file::Found::Gguf(weights) => gguf::open(&weights, config),
            };
        }
        if is_gguf_file(path)? {
            return gguf::open(path, config);
        }
        if path.file_name() == Some(file::MLX) { mlx::open(path, config) } else { peft::open(path, config) }
    }

    /// An adapter from its parts, by the names that [`Projection`](crate::flow::Projection)s have; the LM head's is
    /// `unembed`, tied or not.
    pub fn from_parts(parts: impl IntoIterator<Item = (String, LoraPart)>) -> Self {
        Self::of(ModelPath::from("adapter"), parts.into_iter().collect())
    }

    fn of(path: ModelPath, parts: BTreeMap<String, LoraPart>) -> Self {
        Self { path, parts, copies: BTreeMap::new(), factors: Mutex::default() }
    }

    /// The names of the products that it adapts, in ascending order.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// The part for a product.
    pub fn part(&self, target: &str) -> Option<&LoraPart> {
        self.parts.get(target)
    }
}

/// An error of an adapter's file.
fn refuse(path: &ModelPath, problem: impl Into<String>) -> Error {
    Error::Adapter { path: path.to_path_buf(), problem: problem.into() }
}

/// Advice for an adapter that is more than products.
const MERGE: &str = "merge it into its model where it was trained (PEFT: merge_and_unload) and load the merged model";

#[cfg(test)]
mod tests;
