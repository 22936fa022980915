//! What can be read off a file before a decoder sees it: sizes, and whether all of it is there.
//!
//! The decoders take lengths and sizes of the file at their word. Here they are held against the bytes that there are.

/// Bytes of the RIFF header: `RIFF`, a length, `WEBP`.
const RIFF_HEADER: usize = 12;

/// Bytes of a chunk's header: a name and a length.
const CHUNK_HEADER: usize = 8;

/// Bytes of a moving picture's frame before its own chunks.
const FRAME_HEADER: usize = 16;

/// The size, width and height, in the header of a PNG file.
pub(super) fn png_size(bytes: &[u8]) -> Option<[usize; 2]> {
    let side = |at: usize| bytes.get(at..)?.first_chunk().map(|side| u32::from_be_bytes(*side) as usize);
    Some([side(16)?, side(20)?])
}

/// Returns `true` if a JPEG file reaches its end marker, as PIL demands it. The decoder fills what is missing with grey.
pub(super) fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some(start) = rest.iter().position(|byte| *byte == 0xff) {
        let after = rest.get(start + 1..).unwrap_or_default();
        let skipped = match after.first() {
            None => return false,
            Some(0xd9) => return true,
            // A byte that fills up, which may itself begin a marker.
            Some(0xff) => 0,
            // A stuffed byte of the picture's data, a restart, and the marker that no length follows.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => 1,
            Some(_) => {
                let length = after.get(1..).and_then(<[u8]>::first_chunk);
                length.map_or(1, |length| 1 + usize::from(u16::from_be_bytes(*length)))
            }
        };
        rest = after.get(skipped..).unwrap_or_default();
    }
    false
}

/// The part of a WebP file that its header speaks of, and the sizes of the lossy pictures within.
pub(super) struct WebP<'a> {
    /// The bytes up to the end that the header gives.
    pub(super) bytes: &'a [u8],
    /// Width and height of each lossy picture. The decoder takes memory for it before it compares it with the canvas.
    pub(super) pictures: Vec<[usize; 2]>,
}

/// Walks the chunks of a WebP file.
///
/// # Errors
/// A chunk, or the file, that ends after the bytes that there are.
pub(super) fn webp(bytes: &[u8]) -> Result<WebP<'_>, String> {
    let length = length_at(bytes, 4).and_then(|length| length.checked_add(CHUNK_HEADER));
    let whole = length.and_then(|length| bytes.get(..length));
    let bytes = whole.ok_or_else(|| {
        let claimed = length.map_or_else(|| "no length".into(), |length| format!("{length} bytes"));
        format!("its header claims {claimed}, and it has {}", bytes.len())
    })?;
    let mut pictures = Vec::new();
    walk(bytes.get(RIFF_HEADER..).unwrap_or_default(), true, &mut pictures)?;
    Ok(WebP { bytes, pictures })
}

/// Appends the sizes of lossy pictures in a row of chunks, and of those in their frames.
fn walk(mut chunks: &[u8], frames: bool, pictures: &mut Vec<[usize; 2]>) -> Result<(), String> {
    while let Some(name) = chunks.first_chunk::<4>().filter(|_| chunks.len() >= CHUNK_HEADER) {
        let after = chunks.get(CHUNK_HEADER..).unwrap_or_default();
        let length = length_at(chunks, 4).unwrap_or(usize::MAX);
        let content = after
            .get(..length)
            .ok_or_else(|| format!("a chunk '{}' claims {length} bytes of {}", name.escape_ascii(), after.len()))?;
        match name {
            b"VP8 " => pictures.extend(lossy_size(content)),
            b"ANMF" if frames => walk(content.get(FRAME_HEADER..).unwrap_or_default(), false, pictures)?,
            _ => {}
        }
        // A chunk of odd length has a byte after it, which the last one of a file may lack.
        chunks = after.get(length.next_multiple_of(2)..).unwrap_or_default();
    }
    Ok(())
}

/// Width and height, 14 bits each, after the tag and the start code of a lossy picture.
fn lossy_size(content: &[u8]) -> Option<[usize; 2]> {
    let side = |at: usize| content.get(at..)?.first_chunk().map(|side| usize::from(u16::from_le_bytes(*side) & 0x3fff));
    Some([side(6)?, side(8)?])
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|length| u32::from_le_bytes(*length) as usize)
}
