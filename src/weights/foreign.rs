//! Element types of files that no weight here may have: what they are called, and the nearest that works.

use safetensors::Dtype;

/// An element type that is not read.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    /// Its name.
    pub(crate) name: String,
    /// The nearest that works, and how to come by it.
    pub(crate) advice: String,
}

/// Numbers of `enum ggml_type` that are not read, with their names and the nearest format that is; none for types that
/// no matrix of a model has.
#[rustfmt::skip]
const GGML: [(u32, &str, &str); 26] = [
    (4, "Q4_2", "Q4_0"), (5, "Q4_3", "Q4_1"), (9, "Q8_1", "Q8_0"), (15, "Q8_K", "Q8_0"), (16, "IQ2_XXS", "Q2_K"),
    (17, "IQ2_XS", "Q2_K"), (18, "IQ3_XXS", "Q3_K"), (19, "IQ1_S", "Q2_K"), (21, "IQ3_S", "Q3_K"), (22, "IQ2_S", "Q2_K"),
    (24, "I8", ""), (25, "I16", ""), (26, "I32", ""), (27, "I64", ""), (29, "IQ1_M", "Q2_K"), (31, "Q4_0_4_4", "Q4_0"),
    (32, "Q4_0_4_8", "Q4_0"), (33, "Q4_0_8_8", "Q4_0"), (34, "TQ1_0", "Q2_K"), (35, "TQ2_0", "Q2_K"),
    (36, "IQ4_NL_4_4", "IQ4_NL"), (37, "IQ4_NL_4_8", "IQ4_NL"), (38, "IQ4_NL_8_8", "IQ4_NL"), (40, "NVFP4", "MXFP4 or Q4_K"),
    (41, "Q1_0", "Q2_K"), (42, "Q2_0", "Q2_K"),
];

/// Advice for a matrix of whole numbers.
pub(crate) const NO_NUMBERS: &str = "whole numbers are no weights of a Gemma: was the file made for another program?";

/// The type with a number of `enum ggml_type` that is not read.
pub(super) fn of_ggml(number: u32) -> Foreign {
    let Some((_, name, nearest)) = GGML.iter().find(|(own, ..)| *own == number) else {
        let name = format!("number {number} of GGUF files, which is unknown here (newer than this version, or a fork's)");
        return Foreign { name, advice: "take the model's file in Q8_0 or Q4_K".to_string() };
    };
    let advice = match *nearest {
        "" => NO_NUMBERS.to_string(),
        nearest => format!("the nearest that works is {nearest}: take the model's file in that, or quantise its BF16 file so"),
    };
    Foreign { name: format!("{name} (number {number} of GGUF files)"), advice }
}

/// A type of safetensors files that is not read.
pub(super) fn of_safetensors(dtype: Dtype) -> Foreign {
    let float = "the file is of a quantised checkpoint, whose scales lie elsewhere: take the model's BF16 safetensors, or a GGUF \
                 file of it; the nearest is";
    let advice = match dtype {
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E8M0 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => format!("{float} Q8_0"),
        Dtype::F6_E2M3 | Dtype::F6_E3M2 => format!("{float} Q6_K"),
        Dtype::F4 => format!("{float} MXFP4 or Q4_K"),
        Dtype::U8 | Dtype::I8 => format!("bytes are packed or scaled numbers here: {float} Q8_0, of 4 bits Q4_K"),
        _ => NO_NUMBERS.to_string(),
    };
    Foreign { name: format!("{dtype:?}"), advice }
}

#[cfg(test)]
mod tests;
