//! Packed formats of weights: rows of blocks, each of a few elements with their scales.
//!
//! One table says what a format is called, how large its blocks are and what their bytes mean. The arithmetic is that of ggml
//! (`ggml-quants.c`), step by step in f32 without fused multiply-adds, so that every value is the same to the bit.

mod four_bits;
mod k_quants;
mod simple;

/// One format of packed elements.
#[derive(Debug)]
pub(crate) struct BlockFormat {
    /// ggml's name.
    pub name: &'static str,
    /// The number of the format in GGUF files (`enum ggml_type`).
    pub ggml_type: u32,
    /// Elements of one block; rows hold whole blocks.
    pub elements: usize,
    /// Bytes of one block.
    pub bytes: usize,
    /// Widens one block.
    widen: fn(&[u8], &mut [f32]),
}

const fn format(name: &'static str, ggml_type: u32, elements: usize, bytes: usize, widen: fn(&[u8], &mut [f32])) -> BlockFormat {
    BlockFormat { name, ggml_type, elements, bytes, widen }
}

#[rustfmt::skip]
const FORMATS: [BlockFormat; 16] = [
    format("F32",     0,   1,   4, simple::f32),
    format("F16",     1,   1,   2, simple::f16),
    format("Q4_0",    2,  32,  18, simple::q4_0),
    format("Q4_1",    3,  32,  20, simple::q4_1),
    format("Q5_0",    6,  32,  22, simple::q5_0),
    format("Q5_1",    7,  32,  24, simple::q5_1),
    format("Q8_0",    8,  32,  34, simple::q8_0),
    format("Q2_K",   10, 256,  84, k_quants::q2_k),
    format("Q3_K",   11, 256, 110, k_quants::q3_k),
    format("Q4_K",   12, 256, 144, k_quants::q4_k),
    format("Q5_K",   13, 256, 176, k_quants::q5_k),
    format("Q6_K",   14, 256, 210, k_quants::q6_k),
    format("IQ4_NL", 20,  32,  18, four_bits::iq4_nl),
    format("IQ4_XS", 23, 256, 136, four_bits::iq4_xs),
    format("BF16",   30,   1,   2, simple::bf16),
    format("MXFP4",  39,  32,  17, four_bits::mxfp4),
];

/// The largest block.
pub(crate) const MAX_BLOCK_ELEMENTS: usize = 256;

impl BlockFormat {
    /// The format with a number of `enum ggml_type`.
    pub fn by_ggml_type(ggml_type: u32) -> Option<&'static BlockFormat> {
        const { &FORMATS }.iter().find(|format| format.ggml_type == ggml_type)
    }

    /// Widens whole blocks; `out` holds their elements, `blocks` their bytes.
    pub fn widen(&self, blocks: &[u8], out: &mut [f32]) {
        debug_assert_eq!(blocks.len() / self.bytes, out.len() / self.elements, "{}: bytes and elements differ", self.name);
        for (block, out) in blocks.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.elements)) {
            (self.widen)(block, out);
        }
    }
}

/// The names of the formats with blocks, for messages.
pub(crate) fn packed_names() -> String {
    let packed: Vec<_> = FORMATS.iter().filter(|format| format.elements > 1).map(|format| format.name).collect();
    packed.join(", ")
}

/// The binary16 at byte `at`, widened.
fn half_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_are_finite_and_fill_their_elements() {
        for format in &FORMATS {
            let mut out = [f32::NAN; MAX_BLOCK_ELEMENTS];
            format.widen(&vec![0; format.bytes], &mut out[..format.elements]);
            let (filled, rest) = out.split_at(format.elements);
            assert!(filled.iter().all(|x| *x == 0.0) && rest.iter().all(|x| x.is_nan()), "{}", format.name);
            assert!(std::ptr::eq(
                BlockFormat::by_ggml_type(format.ggml_type).unwrap(),
                BlockFormat::by_ggml_type(format.ggml_type).unwrap()
            ));
            assert_eq!(BlockFormat::by_ggml_type(format.ggml_type).unwrap().name, format.name);
        }
        assert!(BlockFormat::by_ggml_type(4).is_none() && BlockFormat::by_ggml_type(u32::MAX).is_none());
    }
}
