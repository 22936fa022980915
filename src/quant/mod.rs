//! Packed formats of weights: rows of blocks, each of a few elements with their scales.
//!
//! One table has each format's name, block size, the meaning of its bytes and its layout on devices. The arithmetic is
//! that of ggml (`ggml-quants.c`), step by step in f32 without fused multiply-adds, so that every value is the same to
//! the bit. `shaders/lib/packed/` has the same arithmetic for devices.

mod dtype;
mod four_bits;
mod k_quants;
mod quantise;
pub(crate) mod rows;
mod simple;

use std::{fmt, ops::Range};

pub use dtype::DType;
pub use quantise::Quantise;
use rows::{Rows, rows};

/// One row of the table.
struct Format {
    /// ggml's name, which is also that of the shader file.
    name: &'static str,
    /// The number of the format in GGUF files (`enum ggml_type`).
    ggml_type: u32,
    /// Elements of one block; rows hold whole blocks.
    elements: usize,
    /// Bytes of one block.
    bytes: usize,
    /// The bytes of a block that hold its factors: 1, 2 or a multiple of 4, at its start or end. The rest is whole
    /// words; scales lie with the factors where that leaves an even number of words.
    factors: Range<usize>,
    /// Widens a row, or multiplies by it.
    rows: Rows,
}

/// A row of the table; the last is the function that widens a block, or does so but for its factor.
macro_rules! format {
    ($name:literal, $ggml_type:literal, $elements:literal, $bytes:literal, $factors:expr, $($block:tt)+) => {
        Format {
            name: $name,
            ggml_type: $ggml_type,
            elements: $elements,
            bytes: $bytes,
            factors: $factors,
            rows: rows!($elements, $bytes, $($block)+),
        }
    };
}

#[rustfmt::skip]
const FORMATS: [Format; 13] = [
    format!("Q4_0",    2,  32,  18,     0..2, but for simple::q4_0),
    format!("Q4_1",    3,  32,  20,     0..4, simple::q4_1),
    format!("Q5_0",    6,  32,  22,     0..2, but for simple::q5_0),
    format!("Q5_1",    7,  32,  24,     0..8, simple::q5_1),
    format!("Q8_0",    8,  32,  34,     0..2, but for simple::q8_0),
    format!("Q2_K",   10, 256,  84,   80..84, k_quants::q2_k),
    format!("Q3_K",   11, 256, 110, 108..110, k_quants::q3_k),
    format!("Q4_K",   12, 256, 144,    0..16, k_quants::q4_k),
    format!("Q5_K",   13, 256, 176,    0..16, k_quants::q5_k),
    format!("Q6_K",   14, 256, 210, 208..210, k_quants::q6_k),
    format!("IQ4_NL", 20,  32,  18,     0..2, four_bits::iq4_nl),
    format!("IQ4_XS", 23, 256, 136,     0..8, four_bits::iq4_xs),
    format!("MXFP4",  39,  32,  17,     0..1, four_bits::mxfp4),
];

/// The largest block.
pub(crate) const MAX_BLOCK_ELEMENTS: usize = 256;

/// Rows of packed weights on a device are multiples of this.
const ROW_ALIGNMENT: u64 = 16;

/// A packed format of weights, named as ggml names it: blocks of a few elements that share their scales.
///
/// Files hold a row as its blocks, one behind the other. Devices hold the blocks of a row without their factors, then
/// the factors of all blocks, then zeros up to a multiple of 16 bytes, so that all but the factors are whole words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packed(u8);

impl Packed {
    /// Every format, in the order of GGUF's numbers.
    pub fn all() -> impl Iterator<Item = Packed> {
        (0..FORMATS.len() as u8).map(Packed)
    }

    /// The format with a number of `enum ggml_type`; `None` for one that is not here.
    pub fn by_ggml_type(ggml_type: u32) -> Option<Packed> {
        Self::all().find(|packed| packed.format().ggml_type == ggml_type)
    }

    /// The format with ggml's name, such as `Q4_0`; `None` for one that is not here.
    pub fn by_name(name: &str) -> Option<Packed> {
        Self::all().find(|packed| packed.name() == name)
    }

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        self.format().name
    }

    /// Elements of a block. Rows hold whole blocks.
    pub const fn block_elements(self) -> usize {
        self.format().elements
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.format().bytes
    }

    /// The bytes of a block that hold its factors. The first two or four are binary16 numbers, but for MXFP4's one
    /// byte, and the second two of IQ4_XS.
    pub(crate) fn factors(self) -> Range<usize> {
        self.format().factors.clone()
    }

    /// Returns `true` if the words of a row on a device pair up, so that a load may take two.
    pub(crate) fn in_pairs(self) -> bool {
        let Format { bytes, factors, .. } = self.format();
        (bytes - factors.len()).is_multiple_of(8)
    }

    /// Returns `true` if the words of a row's blocks on a device come in fours, so that a load may take four.
    pub(crate) fn in_fours(self) -> bool {
        let Format { bytes, factors, .. } = self.format();
        (bytes - factors.len()).is_multiple_of(16)
    }

    /// Widens rows of blocks and multiplies by them.
    pub(crate) fn rows(self) -> &'static Rows {
        &self.format().rows
    }

    /// Bytes of a row of `blocks` blocks as devices hold it; `None` where that is no 64-bit number.
    pub(crate) fn resident_row_bytes(self, blocks: u64) -> Option<u64> {
        blocks.checked_mul(self.format().bytes as u64)?.checked_next_multiple_of(ROW_ALIGNMENT)
    }

    /// Arranges a row of blocks as devices hold it; `out` is as long as
    /// [`resident_row_bytes`](Self::resident_row_bytes) says.
    pub(crate) fn arrange(self, row: &[u8], out: &mut [u8]) {
        let Format { bytes, factors, .. } = self.format();
        let body = bytes - factors.len();
        let count = row.len() / bytes;
        let (bodies, rest) = out.split_at_mut(count * body);
        let (all_factors, padding) = rest.split_at_mut(count * factors.len());
        let places = bodies.chunks_exact_mut(body).zip(all_factors.chunks_exact_mut(factors.len()));
        for (block, (place, own)) in row.chunks_exact(*bytes).zip(places) {
            own.copy_from_slice(&block[factors.clone()]);
            place[..factors.start].copy_from_slice(&block[..factors.start]);
            place[factors.start..].copy_from_slice(&block[factors.end..]);
        }
        padding.fill(0);
    }

    const fn format(self) -> &'static Format {
        // Whoever makes a `Packed` takes its number from the table.
        let table = const { &FORMATS };
        &table[self.0 as usize]
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names of the formats, for messages.
pub(crate) fn packed_names() -> String {
    Packed::all().map(Packed::name).collect::<Vec<_>>().join(", ")
}

/// The binary16 at byte `at`, widened.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    block[at..].first_chunk().map_or(0.0, |bytes| rows::half(u16::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests;
