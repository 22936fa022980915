//! How files are read, and how much they may ask for.

/// How a checkpoint's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// A system call each time, at an offset. A file that was written to, cut or taken away meanwhile is
    /// [`Error::FileChanged`](crate::Error::FileChanged).
    #[default]
    Positioned,
    /// A memory map; see the [module](crate::weights) for its hazard.
    Mapped,
}

/// How a checkpoint is opened. A [`ReadMode`] alone is one with the default limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// How bytes are read.
    pub mode: ReadMode,
    /// Limits of the header.
    pub limits: FileLimits,
}

impl From<ReadMode> for ReadOptions {
    fn from(mode: ReadMode) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// The most that the header of a file may ask for; beyond it a file is refused with
/// [`Error::Format`](crate::Error::Format).
///
/// Opening a file takes memory in proportion to its header however these are set; they bound the time and memory of
/// absurd files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Bytes of a header or an index of shards. The header of a GGUF file with 262,144 tokens has 7 MB.
    pub header_bytes: u64,
    /// Tensors in a file.
    pub tensors: u64,
    /// Keys of the metadata in a GGUF file.
    pub metadata_keys: u64,
    /// Bytes of such a key.
    pub key_bytes: u64,
    /// Bytes of a tensor's name in a GGUF file.
    pub name_bytes: u64,
    /// The alignment of tensors in a GGUF file, in bytes.
    pub alignment: u64,
}

impl Default for FileLimits {
    /// A header of 100 MB and 100,000 tensors, as the reference implementation of safetensors has it; 10,000 keys of
    /// 65,535 bytes (the format's own limit); names of 256 bytes (llama.cpp's own limit is 63); an alignment of 1 MiB.
    fn default() -> Self {
        Self {
            header_bytes: 100_000_000,
            tensors: 100_000,
            metadata_keys: 10_000,
            key_bytes: 65_535,
            name_bytes: 256,
            alignment: 1 << 20,
        }
    }
}
