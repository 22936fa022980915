//! Kinds of files by their first bytes: names tell nothing of blobs that are called by their digest, or of renamed
//! files.

use super::source::FileSource;
use crate::Result;
use crate::files::ModelPath;

/// Bytes that are looked at.
const FIRST: usize = 32;

/// The first bytes of a GGUF file.
pub(super) const GGUF: &[u8] = b"GGUF";

/// Other kinds of files that are taken for weights: the place and the bytes by which they are known, what they are and
/// what to do.
const OTHERS: [(usize, &[u8], &str); 18] = [
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file it stands for: fetch that (git lfs pull)"),
    (0, b"<!DOCTYPE", "a web page, perhaps a message of the server that the file came from: fetch the file again"),
    (0, b"<!doctype", "a web page, perhaps a message of the server that the file came from: fetch the file again"),
    (0, b"<html", "a web page, perhaps a message of the server that the file came from: fetch the file again"),
    (0, b"<?xml", "an XML document, perhaps a message of the server that the file came from: fetch the file again"),
    (
        0,
        b"PK\x03\x04",
        "a zip archive, as PyTorch's .bin, .pt and .pth and MediaPipe's .task are: take the model's safetensors or GGUF",
    ),
    (0, b"\x80\x02", "a Python pickle, as PyTorch's .bin and .pt are: take the model's safetensors or GGUF"),
    (0, b"lmgg", "a file of ggml, from before GGUF: convert the model again, or take its GGUF file"),
    (0, b"fmgg", "a file of ggml (ggmf), from before GGUF: convert the model again, or take its GGUF file"),
    (0, b"tjgg", "a file of ggml (ggjt), from before GGUF: convert the model again, or take its GGUF file"),
    (0, b"algg", "a LoRA adapter of ggml (ggla), from before GGUF, and no model"),
    (0, b"FUGG", "a GGUF file with its bytes in the opposite order (big-endian): convert it with gguf_convert_endian.py"),
    (0, b"\x89HDF", "an HDF5 file, as Keras has them: take the model's safetensors or GGUF"),
    (4, b"TFL3", "a LiteRT (TensorFlow Lite) model: take the model's safetensors or GGUF"),
    (0, b"LITERTLM", "a LiteRT-LM model: take the model's safetensors or GGUF"),
    (0, b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
    (0, b"\xfd7zXZ", "compressed (xz): unpack it first"),
];

/// True for the path of a GGUF file, by the file's first four bytes.
///
/// Of a path that nothing can be read from, and of a file that is called `.gguf` and is nothing else that this crate
/// reads, the name counts, so that whoever opens it says what is wrong.
pub fn is_gguf(path: impl Into<ModelPath>) -> bool {
    is_gguf_at(&path.into())
}

fn is_gguf_at(path: &ModelPath) -> bool {
    let named = || path.has_extension("gguf");
    match first_bytes(path) {
        Some(bytes) if bytes.starts_with(GGUF) => true,
        Some(bytes) => named() && !is_json(&bytes) && !is_safetensors(&bytes),
        None => named(),
    }
}

/// True for the path of a JSON text, such as an index of shards.
pub(crate) fn is_index(path: &ModelPath) -> bool {
    first_bytes(path).is_some_and(|bytes| is_json(&bytes))
}

/// The kind of a file that is not of the expected kind, in words that continue "is"; `None` for an unknown kind.
pub(super) fn instead(file: &FileSource) -> Result<Option<String>> {
    let mut bytes = vec![0; file.len().min(FIRST as u64) as usize];
    super::TensorSource::read(file, 0, &mut bytes)?;
    if let Some(piece) = piece(file.path()) {
        return Ok(Some(piece));
    }
    let other = OTHERS.iter().find(|(at, magic, _)| bytes.get(*at..).is_some_and(|bytes| bytes.starts_with(magic)));
    Ok(match other {
        Some((_, _, what)) => Some((*what).to_string()),
        None if bytes.starts_with(GGUF) => Some("a GGUF file: open it with load_from_path or GgufLoader".into()),
        None if is_json(&bytes) => Some("a JSON text, and no weights".into()),
        None if bytes.len() == FIRST && bytes.iter().all(|byte| *byte == 0) => {
            Some("full of zeros, as a download that never came is: fetch it again".into())
        }
        None => None,
    })
}

/// Says that a file is one piece of several that a file was cut into, `NAME.part1of3`; `None` where its name says
/// nothing of that.
pub(super) fn piece(path: &ModelPath) -> Option<String> {
    let name = path.file_name()?;
    let (stem, end) = name.rsplit_once(".part")?;
    let (part, count) = end.split_once("of")?;
    let (part, count): (usize, usize) = (part.parse().ok()?, count.parse().ok()?);
    let joined = format!("cat {stem}.part?of{count} > {stem}");
    (count > 1)
        .then(|| format!("piece {part} of {count} that a file was cut into: join them in order and open the whole ({joined})"))
}

fn first_bytes(path: &ModelPath) -> Option<Vec<u8>> {
    path.first_bytes(FIRST).ok()?
}

/// A brace without the zeros that a length of eight bytes ends with.
fn is_json(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    text.starts_with(b"{") && !bytes.iter().take(8).any(|byte| *byte == 0)
}

/// A length that leaves its upper bytes zero, then a brace.
fn is_safetensors(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, _, 0, 0, 0, b'{', ..])
}
