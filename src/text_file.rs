//! Small text files, as editors of any system write them.

use crate::{Error, Result, files::ModelPath};

/// Such a file is a few kilobytes; anything far larger is another one.
const MAX_BYTES: u64 = 16 << 20;

/// The text of a configuration file, without a byte-order mark.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a file that is too large or no UTF-8 text.
pub(crate) fn read(path: &ModelPath) -> Result<String> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let format = |problem| Error::Format { path: path.to_path_buf(), problem };
    let bytes = path.len().map_err(io)?;
    if bytes > MAX_BYTES {
        return Err(format(format!("{bytes} bytes are too many for a configuration (at most {MAX_BYTES})")));
    }
    let bytes = path.read().map_err(io)?;
    let text = std::str::from_utf8(without_mark(&bytes).map_err(format)?);
    text.map(str::to_string).map_err(|error| format(format!("not UTF-8 text: {error}")))
}

/// The bytes of a UTF-8 text behind its byte-order mark, if it begins with one.
///
/// # Errors
/// The encoding that another mark stands for.
pub(crate) fn without_mark(bytes: &[u8]) -> Result<&[u8], String> {
    let other = match bytes {
        [0xef, 0xbb, 0xbf, text @ ..] => return Ok(text),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
        _ => return Ok(bytes),
    };
    Err(format!("this is {other} text, expected UTF-8; save it anew in that encoding"))
}
