//! Errors of weights.

/// A weight that is missing, cannot be used, or does not belong to the graph.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// A tensor that the model needs is not in the checkpoint.
    #[error(
        "weight '{name}' is missing{}; is this the right checkpoint for this config.json?",
        nearest.as_ref().map(|n| format!(" (nearest key present: '{n}')")).unwrap_or_default()
    )]
    Missing {
        /// The name looked for, without the checkpoint's prefix.
        name: String,
        /// The most similar key that is present.
        nearest: Option<String>,
    },
    /// A graph runs before all of its weights are given.
    #[error("the graph's weight '{name}' was not given; set it before the graph runs")]
    NotGiven {
        /// The weight's name in the graph.
        name: String,
    },
    /// A weight is given to a graph that has none of that name.
    #[error(
        "the graph has no weight '{name}'{}; name weights as the graph does",
        nearest.as_ref().map(|n| format!(" (nearest: '{n}')")).unwrap_or_default()
    )]
    NotInGraph {
        /// The name given.
        name: String,
        /// The most similar name of the graph's weights.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "weight '{name}' has shape {found:?}, the configuration implies {expected:?}; config.json and weights do not belong together"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A tensor's element type cannot be used here.
    #[error(
        "weight '{name}' has element type {found}; supported are F32, F16, BF16, F64 and, in GGUF files, {}; {advice}",
        crate::quant::packed_names()
    )]
    Type {
        /// The tensor.
        name: String,
        /// Its element type in the file.
        found: String,
        /// The nearest that works, and how to come by it.
        advice: String,
    },
    /// A checkpoint in a quantised format that this crate does not read.
    #[error(
        "{scheme} is not supported (found {found}); expected weights in F32, F16, BF16 or F64, or a GGUF file; \
         take the model's unquantised safetensors, or a GGUF file of it: the nearest is {nearest}"
    )]
    Quantised {
        /// The library whose format it is, and the kind of format where the file says so.
        scheme: String,
        /// The evidence: a key of the configuration, or a tensor, with the file.
        found: String,
        /// The nearest format of GGUF files that works.
        nearest: &'static str,
    },
}
