use std::{fs, panic::catch_unwind};

use serde_json::Value;

use super::*;
use crate::image::tests::{data, decode, open, oracle};

/// Small files of every kind, against the pixels that PIL 13 reads from them. JPEG leaves decoders some freedom.
#[test]
fn files_have_the_pixels_that_pil_reads() {
    let expected: Value = serde_json::from_slice(&fs::read(data("pictures/expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 32);
    for (name, picture) in expected {
        let image = open(data("pictures").join(name));
        let size = ["width", "height"].map(|key| picture[key].as_u64().unwrap());
        assert_eq!([image.width(), image.height()].map(|side| side as u64), size, "{name}");
        let pixels = picture["rgb"].as_array().unwrap();
        assert_eq!(image.rgb().len(), pixels.len(), "{name}");
        let worst = image.rgb().iter().zip(pixels).map(|(a, b)| i64::from(*a).abs_diff(b.as_i64().unwrap())).max().unwrap();
        let most = match name.as_str() {
            // The decoder's colour at half the size is enlarged from past the right edge, where libjpeg repeats the edge.
            "subsampled.jpg" => 10,
            name if name.ends_with("jpg") => 2,
            _ => 0,
        };
        assert!(worst <= most, "{name}: {worst}");
    }
}

/// Files that are cut, or have some bits turned.
fn damaged(file: &[u8], rounds: usize, mut found: impl FnMut(Vec<u8>)) {
    let mut seed = file.len() as u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below.max(1)
    };
    for round in 0..rounds {
        let mut damaged = file.to_vec();
        if round % 2 == 0 {
            damaged.truncate(random(file.len()));
        } else {
            // Headers are short, and most faults are in them.
            let within = if round % 4 == 1 { file.len().min(64) } else { file.len() };
            (0..1 + random(4)).for_each(|_| damaged[random(within)] ^= 1 << random(8));
        }
        found(damaged);
    }
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_fn(33, 21, |x, y| image::Rgb([x as u8 * 7, y as u8 * 11, (x * y) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn oracle_pngs() -> [Vec<u8>; 4] {
    let files =
        ["gemma3-vision/inputs/exact", "gemma3-vision/inputs/tiny", "gemma4-vision/inputs/tall", "gemma4-unified/inputs/faint"];
    files.map(|file| fs::read(oracle(&format!("{file}.0.png"))).unwrap())
}

#[test]
fn damaged_files_bring_errors_or_pictures_and_no_panic() {
    let small = fs::read_dir(data("pictures")).unwrap().map(|entry| entry.unwrap().path());
    let small = small
        .filter(|path| path.extension().is_some_and(|name| name != "json" && name != "py"))
        .map(|path| fs::read(path).unwrap());
    let encoded = [ImageFormat::Jpeg, ImageFormat::WebP].map(encoded);
    let limits = ImageLimits { max_width: 4096, max_height: 4096, max_pixels: 1 << 20, max_bytes: 8 << 20 };
    let mut counts = [0; 2];
    for file in oracle_pngs().into_iter().chain(encoded).chain(small) {
        let whole = decode(&file).unwrap();
        let rounds = if whole.width() > 32 { 500 } else { 200 };
        damaged(&file, rounds, |bytes| match catch_unwind(|| Image::from_bytes(&bytes, &limits)) {
            Ok(Ok(image)) => {
                assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
                counts[0] += 1;
            }
            Ok(Err(error)) => {
                assert!(error.to_string().contains("; "), "{error}");
                counts[1] += 1;
            }
            Err(_) => panic!("panics: {bytes:?}"),
        });
    }
    assert!(counts[0] > 500 && counts[1] > 7000, "{counts:?}");
}

/// Whatever is cut off, no part of a picture is taken for the whole; a PNG may lack its last chunk.
#[test]
fn files_that_are_cut_off_are_errors() {
    for (file, spare) in [(encoded(ImageFormat::Png), 24), (encoded(ImageFormat::Jpeg), 0), (encoded(ImageFormat::WebP), 0)] {
        for length in 0..file.len() - spare {
            assert!(decode(&file[..length]).is_err(), "{length} of {} bytes", file.len());
        }
        let mut longer = file;
        longer.extend(b"EXIF\xff\xff\xff\xff and more that does not belong to it");
        assert!(decode(&longer).is_ok());
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A PNG whose header claims a size, with nothing behind it.
fn claiming(width: u32, height: u32, depth: u8, kind: u8) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(width.to_be_bytes().into_iter().chain(height.to_be_bytes()).chain([depth, kind, 0, 0, 0]));
    let crc = crc32(&png[12..]);
    png.extend(crc.to_be_bytes());
    png.extend(b"\0\0\0\x0cIDATx\x9c\x03\0\0\0\0\x01\0\0\0\0");
    png
}

#[test]
fn a_size_past_the_limits_is_refused_by_the_header() {
    for (width, height) in [(100_000, 100_000), (1, 100_000), (100_000, 1), (16_000, 16_000), (u32::MAX >> 1, u32::MAX >> 1)] {
        let error = decode(&claiming(width, height, 16, 6)).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { max_width: 16_384, .. }), "{width}×{height}: {error}");
    }
    assert!(matches!(decode(&claiming(0, 5, 8, 2)), Err(ImageError::Empty { width: 0, height: 5 })));
    let file = fs::read(data("pictures/rgb16.png")).unwrap();
    let bytes = |max_bytes| Image::from_bytes(&file, &ImageLimits { max_bytes, ..ImageLimits::default() });
    assert!(bytes(90).is_ok());
    assert!(matches!(bytes(89), Err(ImageError::Memory { bytes: 90, max_bytes: 89 })));
    for (name, [width, height]) in [("subsampled.jpg", [24, 16]), ("lossy.webp", [24, 16]), ("moving.webp", [5, 3])] {
        let file = fs::read(data("pictures").join(name)).unwrap();
        let limit = |max_width, max_height, max_pixels| ImageLimits { max_width, max_height, max_pixels, max_bytes: 1 << 20 };
        assert!(Image::from_bytes(&file, &limit(width, height, width * height)).is_ok(), "{name}");
        for limits in [limit(width - 1, 99, 9999), limit(99, height - 1, 9999), limit(99, 99, width * height - 1)] {
            assert!(matches!(Image::from_bytes(&file, &limits), Err(ImageError::TooLarge { .. })), "{name}");
        }
    }
}

/// A WebP file of these chunks.
fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (name, content) in chunks {
        body.extend(*name);
        body.extend((content.len() as u32).to_le_bytes());
        body.extend(*content);
        body.extend(std::iter::repeat_n(0, content.len() % 2));
    }
    [b"RIFF".to_vec(), (body.len() as u32).to_le_bytes().to_vec(), body].concat()
}

/// Sizes and lengths within a WebP file that its canvas does not show.
#[test]
fn webp_files_cannot_claim_more_than_they_have() {
    let huge: [u8; 14] = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f, 0, 0, 0, 0];
    let small: [u8; 14] = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 10, 0, 10, 0, 0, 0, 0, 0];
    let canvas = |flags: u8| [flags, 0, 0, 0, 9, 0, 0, 9, 0, 0];
    let nested = [&[0; 16][..], &riff(&[(b"VP8 ", &huge)])[12..]].concat();
    for file in [
        riff(&[(b"VP8 ", &huge)]),
        riff(&[(b"VP8X", &canvas(0)), (b"VP8 ", &huge)]),
        riff(&[(b"VP8X", &canvas(2)), (b"ANIM", &[0; 6]), (b"ANMF", &nested)]),
    ] {
        let error = decode(&file).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { width: 16_383, height: 16_383, .. }), "{error}");
    }
    let mut exif = riff(&[(b"VP8X", &canvas(8)), (b"VP8 ", &small), (b"EXIF", b"II*\0")]);
    let length = exif.len() - 8;
    exif[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&exif).unwrap_err().to_string();
    assert!(error.contains("a chunk 'EXIF' claims 4294967295 bytes of 4"), "{error}");
    let generous = ImageLimits { max_width: usize::MAX, max_height: usize::MAX, max_pixels: usize::MAX, max_bytes: u64::MAX };
    let file = riff(&[(b"VP8X", &[0, 0, 0, 0, 0xff, 0xff, 0, 1, 0, 0]), (b"VP8 ", &small)]);
    assert!(matches!(Image::from_bytes(&file, &generous), Err(ImageError::TooLarge { width: 65_536, max_width: 16_384, .. })));
}

#[test]
fn other_formats_are_named() {
    let error = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    assert!(error(b"GIF89a\x01\0\x01\0").contains("image/gif"));
    assert!(error(b"%PDF-1.7\n").contains("%PDF-1.7"));
    assert!(error(b"").contains("0 bytes"));
    assert!(error(b"\x89PNG\r\n\x1a\n").contains("ends within its header"));
}
