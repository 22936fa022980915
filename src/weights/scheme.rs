//! Quantised checkpoints of other libraries: known by the tensors that they add, or by what their configuration calls
//! them.

/// A library's format, and the nearest of GGUF files that is read.
pub(crate) struct Scheme {
    /// Its name in `quant_method` (`mlx` has none).
    method: &'static str,
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// The nearest format of GGUF files.
    pub(crate) nearest: &'static str,
}

const fn scheme(method: &'static str, name: &'static str, nearest: &'static str) -> Scheme {
    Scheme { method, name, nearest }
}

const BNB_4: Scheme = scheme("bitsandbytes", "a checkpoint quantised by bitsandbytes (4 bits)", "Q4_K");
const BNB_8: Scheme = scheme("bitsandbytes", "a checkpoint quantised by bitsandbytes (8 bits)", "Q8_0");
const GPTQ: Scheme = scheme("gptq", "a checkpoint quantised by GPTQ", "Q4_K");
const AWQ: Scheme = scheme("awq", "a checkpoint quantised by AWQ", "Q4_K");
const COMPRESSED: Scheme = scheme("compressed-tensors", "a checkpoint quantised by compressed-tensors", "Q8_0, of 4 bits Q4_0");
const TORCHAO: Scheme = scheme("torchao", "a checkpoint quantised by torchao", "Q8_0, of 4 bits Q4_K");
const MLX: Scheme = scheme("mlx", "a checkpoint quantised by MLX", "Q8_0, of 4 bits Q4_K");
const FP8: Scheme = scheme("fp8", "a checkpoint in FP8 with scales", "Q8_0");
const MODELOPT: Scheme = scheme("modelopt", "a checkpoint quantised by NVIDIA's ModelOpt", "Q8_0, of 4 bits Q4_K");
const GEMMA: Scheme =
    scheme("gemma", "a checkpoint quantised in Gemma's own format (packed integers, ranges of activations)", "Q4_0");
const HQQ: Scheme = scheme("hqq", "a checkpoint quantised by HQQ", "Q4_K");
const QUANTO: Scheme = scheme("quanto", "a checkpoint quantised by quanto", "Q8_0, of 4 bits Q4_K");
const EETQ: Scheme = scheme("eetq", "a checkpoint quantised by EETQ", "Q8_0");
const AQLM: Scheme = scheme("aqlm", "a checkpoint quantised by AQLM", "Q2_K");
const EXL: Scheme = scheme("exl2", "a checkpoint quantised by ExLlama", "Q4_K");

/// Ends of tensors' names, and the scheme of each. The first that fits counts, so that ends of several schemes come
/// last.
const BY_TENSOR: [(&str, &Scheme); 35] = [
    (".SCB", &BNB_8),
    (".weight_format", &BNB_8),
    (".absmax", &BNB_4),
    (".nested_absmax", &BNB_4),
    (".quant_map", &BNB_4),
    (".nested_quant_map", &BNB_4),
    (".quant_state.bitsandbytes__nf4", &BNB_4),
    (".quant_state.bitsandbytes__fp4", &BNB_4),
    (".g_idx", &GPTQ),
    (".embedding_quantized", &GEMMA),
    (".input_activation_scale", &GEMMA),
    (".output_activation_scale", &GEMMA),
    (".weight_packed", &COMPRESSED),
    (".weight_global_scale", &COMPRESSED),
    (".input_global_scale", &COMPRESSED),
    (".weight_scale_2", &MODELOPT),
    (".weight_scale_inv", &FP8),
    (".scale_weight", &FP8),
    (".comfy_quant", &FP8),
    ("_weight_qdata", &TORCHAO),
    (":qdata", &TORCHAO),
    (":_data", &TORCHAO),
    (":int_data", &TORCHAO),
    (".weight._data", &QUANTO),
    (".weight_scales", &EETQ),
    (".W_q", &HQQ),
    (".codebooks", &AQLM),
    (".q_weight", &EXL),
    (".trellis", &EXL),
    (".qzeros", &AWQ),
    (".qweight", &AWQ),
    (".biases", &MLX),
    (".scales", &MLX),
    (".weight_zero_point", &COMPRESSED),
    (".weight_scale", &COMPRESSED),
];

/// The schemes that a configuration may name, those of which no tensor is known among them.
const BY_METHOD: [Scheme; 30] = [
    GPTQ,
    AWQ,
    COMPRESSED,
    TORCHAO,
    MLX,
    FP8,
    MODELOPT,
    GEMMA,
    HQQ,
    QUANTO,
    EETQ,
    AQLM,
    EXL,
    scheme("exl3", EXL.name, EXL.nearest),
    scheme("fbgemm_fp8", "a checkpoint quantised by FBGEMM (FP8)", "Q8_0"),
    scheme("vptq", "a checkpoint quantised by VPTQ", "Q2_K"),
    scheme("higgs", "a checkpoint quantised by HIGGS", "Q4_K"),
    scheme("bitnet", "a checkpoint quantised by BitNet", "Q2_K"),
    scheme("spqr", "a checkpoint quantised by SpQR", "Q3_K"),
    scheme("quark", "a checkpoint quantised by AMD's Quark", "Q8_0, of 4 bits Q4_K"),
    scheme("fp_quant", "a checkpoint quantised by FP-Quant", "MXFP4 or Q4_K"),
    scheme("auto-round", "a checkpoint quantised by AutoRound", "Q4_K"),
    scheme("intel/auto-round", "a checkpoint quantised by AutoRound", "Q4_K"),
    scheme("mxfp4", "a checkpoint quantised in MXFP4", "MXFP4"),
    scheme("mxfp8", "a checkpoint quantised in MXFP8", "Q8_0"),
    scheme("nvfp4", "a checkpoint quantised in NVFP4", "MXFP4 or Q4_K"),
    scheme("metal", "a checkpoint quantised for Metal", "Q4_K"),
    scheme("fouroversix", "a checkpoint quantised by Four Over Six (NVFP4)", "MXFP4 or Q4_K"),
    scheme("sinq", "a checkpoint quantised by SINQ", "Q4_K"),
    scheme("gguf", "a checkpoint that stands for a GGUF file", "the GGUF file itself"),
];

/// The scheme whose tensors are among `names`, and the name that shows it.
pub(crate) fn of_tensors<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<(&'static Scheme, &'a str)> {
    BY_TENSOR.iter().find_map(|(end, scheme)| {
        let name = names.clone().find(|name| name.ends_with(end))?;
        Some((*scheme, name))
    })
}

/// The scheme that a configuration calls `method`, or for bitsandbytes the one of its number of bits.
pub(crate) fn of_method(method: &str, in_4_bits: bool) -> Option<&'static Scheme> {
    match method.to_ascii_lowercase().as_str() {
        "bitsandbytes" if in_4_bits => Some(&BNB_4),
        "bitsandbytes" => Some(&BNB_8),
        method => BY_METHOD.iter().find(|scheme| scheme.method == method),
    }
}

#[cfg(test)]
mod tests;
