//! Element types.

use super::{
    Packed,
    rows::{self, Rows},
};

/// Element type of a tensor.
///
/// Activations are `F32`, ids and positions `U32` and `I32`; `F16`, `BF16` and the packed formats are storage types of
/// weights (and `F16` of the cache) and are widened in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 32-bit signed.
    I32,
    /// 32-bit unsigned.
    U32,
    /// Blocks of a few bits an element; of matrices that are weights only.
    Packed(Packed),
}

impl DType {
    /// Bytes of one element; `None` for a packed format, whose elements have no bytes of their own.
    pub const fn scalar_bytes(self) -> Option<usize> {
        match self {
            DType::F32 | DType::I32 | DType::U32 => Some(4),
            DType::F16 | DType::BF16 => Some(2),
            DType::Packed(_) => None,
        }
    }

    /// Elements and bytes of the smallest piece of a row: one element, or a block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            DType::F32 | DType::I32 | DType::U32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::Packed(format) => (format.block_elements(), format.block_bytes()),
        }
    }

    /// How rows of this type are widened and multiplied by; `None` for integers.
    pub(crate) fn rows(self) -> Option<&'static Rows> {
        match self {
            DType::F32 => Some(&rows::F32),
            DType::F16 => Some(&rows::F16),
            DType::BF16 => Some(&rows::BF16),
            DType::Packed(format) => Some(format.rows()),
            DType::I32 | DType::U32 => None,
        }
    }

    /// Bytes of a row of `elements` elements as files hold it; `None` where they are no whole blocks or the bytes no
    /// 64-bit number.
    pub fn row_bytes(self, elements: usize) -> Option<u64> {
        let (block, bytes) = self.block();
        (elements / block).checked_mul(bytes).filter(|_| elements.is_multiple_of(block)).map(|bytes| bytes as u64)
    }

    /// Bytes of a row of `elements` elements as devices hold it; `None` as for [`row_bytes`](Self::row_bytes).
    pub fn resident_row_bytes(self, elements: usize) -> Option<u64> {
        let bytes = self.row_bytes(elements)?;
        match self {
            DType::Packed(format) => format.resident_row_bytes((elements / format.block_elements()) as u64),
            _ => Some(bytes),
        }
    }

    /// Refuses rows that are no whole blocks, in words that continue "has".
    pub(crate) fn check_row(self, elements: usize) -> Result<(), String> {
        let (block, _) = self.block();
        if elements.is_multiple_of(block) {
            Ok(())
        } else {
            Err(format!("rows of {elements} elements, {self} has blocks of {block}"))
        }
    }

    /// Returns `true` if an element is one word of 32 bits, which any shader reads as it is.
    pub const fn is_word(self) -> bool {
        matches!(self, DType::F32 | DType::I32 | DType::U32)
    }

    /// Returns `true` if an element has 16 bits, two of them to a word.
    pub const fn is_half_word(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// The name used in printed graphs and as a shader's option: `f32`, `bf16`, `Q4_0`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::Packed(format) => format.name(),
        }
    }

    /// The storage type of weights with a [`name`](Self::name); `None` for one that no weight has.
    pub fn of_weights(name: &str) -> Option<DType> {
        let scalar = [DType::F32, DType::F16, DType::BF16].into_iter().find(|dtype| dtype.name() == name);
        scalar.or_else(|| Packed::by_name(name).map(DType::Packed))
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
