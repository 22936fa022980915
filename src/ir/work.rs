//! The bytes and operations of a dispatch, which its op states as it is emitted.

use super::kernel::Slot;

/// The least that a dispatch must move and compute.
///
/// Sizes are the kernel's own, so that a padded bucket counts as it is computed. A second read of the same bytes is not
/// counted: it separates the kernel from the roofline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes of all activations that are read, and of all that are written, each once.
    pub bytes: u64,
    /// Multiplications and additions of products, attention, norms and rotations; 0 for data movement, selection and
    /// activations.
    pub flops: u64,
    /// The bound weights that are read.
    pub weights: WeightsRead,
    /// The part that grows with the keys that the queries see.
    pub attention: Option<AttentionWork>,
}

/// How much of the bound weights a dispatch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightsRead {
    /// All, once.
    #[default]
    All,
    /// So many of so many equal parts.
    Parts {
        /// The parts that are read.
        read: u64,
        /// All parts.
        of: u64,
    },
    /// Single rows, which count among the bytes of the activations.
    Rows,
}

/// The part of an attention's work that follows from the positions of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionWork {
    /// Sequences.
    pub batch: u64,
    /// Bytes of the key, value and position of a cached token.
    pub token_bytes: u64,
    /// Operations for a query and a key that it sees, of all heads.
    pub pair_flops: u64,
    /// The slot of the visible positions, whose mask limits the keys.
    pub visible: Slot,
    /// Queries of a sequence, and keys: all pairs count where the visible positions are computed.
    pub pairs: [u64; 2],
}

impl Work {
    /// Data movement and selection of so many bytes.
    pub fn moves(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// So many bytes of activations and operations, and all bound weights.
    pub fn of(bytes: u64, flops: u64) -> Self {
        Self { bytes, flops, ..Self::default() }
    }
}
