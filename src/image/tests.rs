use std::{fs, io::Cursor, path::PathBuf};

use image::{DynamicImage, ImageFormat, RgbImage};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{resize::Axis, *};
use crate::gemma::{GemmaConfig, VisionConfig};

/// The checkpoints with pictures, and the pixels that transformers made of them.
const ORACLE: &str = "tests/data/multimodal";

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(ORACLE).join(name)
}

fn picture(name: &str, file: &str) -> Vec<u8> {
    fs::read(folder(name).join("inputs").join(file)).unwrap()
}

fn decode(bytes: &[u8]) -> Result<Image, ImageError> {
    Image::from_bytes(bytes, &ImageLimits::default())
}

/// A column of grey pixels.
fn column(values: &[u8]) -> Image {
    let rgb: Vec<u8> = values.iter().flat_map(|value| [*value; 3]).collect();
    Image::from_rgb8(1, values.len(), rgb).unwrap()
}

/// torchvision's numbers for a column of five pixels.
#[test]
fn the_weights_and_pixels_of_a_column_are_those_of_torchvision() {
    let bilinear = Axis::new(5, 3, Filter::Bilinear);
    assert_eq!(bilinear.taps(), (&[(0, vec![18725, 14043, 0]), (1, vec![7282, 18204, 7282]), (3, vec![14043, 18725])][..], 15));
    let bicubic = Axis::new(5, 3, Filter::Bicubic);
    let rows = [(0, vec![19157, 14620, 0, -1008]), (0, vec![-1219, 8078, 19051, 8078, -1219]), (1, vec![-1008, 0, 14620, 19157])];
    assert_eq!(bicubic.taps(), (&rows[..], 15));
    let enlarged = Axis::new(5, 8, Filter::Bicubic);
    assert_eq!((enlarged.taps().1, &enlarged.taps().0[..2]), (14, &[(0, vec![17563, -1179]), (0, vec![9916, 7293, -825])][..]));
    let grey = column(&[0, 50, 100, 200, 255]);
    for (to, filter, expected) in [
        (3, Filter::Bilinear, &[21, 111, 231][..]),
        (3, Filter::Bicubic, &[16, 110, 237]),
        (8, Filter::Bilinear, &[0, 22, 53, 84, 131, 194, 231, 255]),
        (8, Filter::Bicubic, &[0, 17, 53, 81, 129, 195, 238, 255]),
    ] {
        let upright = resize::resize(grey.rgb(), [1, 5], [1, to], filter);
        let lying = resize::resize(grey.rgb(), [5, 1], [to, 1], filter);
        let values: Vec<u8> = upright.iter().step_by(3).copied().collect();
        assert_eq!((&values[..], upright == lying), (expected, true), "{filter:?} to {to}");
    }
}

fn blank(width: usize, height: usize) -> Image {
    Image::from_rgb8(width, height, vec![0; width * height * 3]).unwrap()
}

#[test]
fn crops_are_those_of_pan_and_scan() {
    let sizes = |width, height| {
        PanAndScan::default().crops(&blank(width, height)).iter().map(|crop| [crop.width(), crop.height()]).collect::<Vec<_>>()
    };
    assert_eq!(sizes(1000, 300), [[334, 300], [334, 300], [332, 300]]);
    assert_eq!(sizes(300, 1000), [[300, 334], [300, 334], [300, 332]]);
    assert_eq!(sizes(2000, 500), [[500, 500]; 4]);
    assert_eq!(sizes(5000, 400), [[1250, 400]; 4]);
    assert!(sizes(1000, 850).is_empty() && sizes(600, 250).is_empty());
}

#[test]
fn sizes_keep_the_aspect_within_the_budget() {
    let size = TargetSize::Budget { unit: 48, patch_size: 16, max_soft_tokens: 280 };
    let processor = ImageProcessor { size, filter: Filter::Bicubic, patch: 16, layout: PatchLayout::ChannelsLast };
    for (given, expected) in [
        ([640, 480], [912, 672]),
        ([1, 1], [768, 768]),
        ([1000, 10], [8016, 48]),
        ([3, 2000], [48, 13440]),
        ([672, 960], [672, 960]),
        ([1920, 1080], [1056, 576]),
        ([4000, 100], [5040, 96]),
    ] {
        assert_eq!(processor.target(given[0], given[1]).unwrap(), expected, "{given:?}");
    }
    let none = ImageProcessor { size: TargetSize::Budget { unit: 48, patch_size: 16, max_soft_tokens: 0 }, ..processor };
    assert!(matches!(none.target(640, 480), Err(ImageError::Aspect { budget: 0, .. })));
}

/// Every picture of every checkpoint whose tower is computed, to the bit, from the file.
#[test]
fn pixels_are_those_of_transformers() {
    let mut compared = 0;
    for entry in fs::read_dir(folder("")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let config = GemmaConfig::from_file(&folder).unwrap();
        let Some(vision) = config.multimodal.vision.filter(|vision| ImageProcessor::new(vision, 1).is_some()) else { continue };
        let cases: Value = serde_json::from_slice(&fs::read(folder.join("mm_oracle.json")).unwrap()).unwrap();
        let bytes = fs::read(folder.join("mm_oracle.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            let title = format!("{name} {}", case["name"]);
            let images: Vec<_> = case["images"].as_array().into_iter().flatten().map(|file| file.as_str().unwrap()).collect();
            if images.is_empty() {
                continue;
            }
            let pictures =
                images.iter().flat_map(|file| with_crops(&decode(&fs::read(folder.join(file)).unwrap()).unwrap(), case));
            let budget = case["image_options"]["max_soft_tokens"].as_u64().unwrap_or(0) as usize;
            let processor = ImageProcessor::new(&vision, budget).unwrap();
            let stored = tensors.tensor(&format!("{}.pixel_values", case["name"].as_str().unwrap())).unwrap();
            let expected: Vec<f32> = bytemuck::pod_collect_to_vec(stored.data());
            let one: usize = stored.shape()[1..].iter().product();
            let mut count = 0;
            for (at, picture) in pictures.enumerate() {
                let found = in_their_order(&processor.patches(&picture).unwrap(), &vision);
                let same = found.iter().zip(&expected[at * one..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && found.len() <= one, "{title}: picture {at}");
                count += 1;
            }
            assert_eq!(count, stored.shape()[0], "{title}");
            compared += count;
        }
    }
    assert_eq!(compared, 25, "pictures of the checkpoints");
}

/// The picture, and its crops where the case has some.
fn with_crops(image: &Image, case: &Value) -> Vec<Image> {
    let options = &case["image_options"];
    if options["do_pan_and_scan"] != true {
        return vec![image.clone()];
    }
    let size = |key: &str| options[key].as_u64().unwrap() as usize;
    let pan_and_scan = PanAndScan {
        min_crop_size: size("pan_and_scan_min_crop_size"),
        max_crops: size("pan_and_scan_max_num_crops"),
        min_ratio: options["pan_and_scan_min_ratio_to_activate"].as_f64().unwrap(),
    };
    [image.clone()].into_iter().chain(pan_and_scan.crops(image)).collect()
}

/// SigLIP's patches as a whole picture [3, S, S], others as they are.
fn in_their_order(patches: &Patches, vision: &VisionConfig) -> Vec<f32> {
    let VisionConfig::Siglip(config) = vision else { return patches.values.clone() };
    let (size, side) = (config.image_size, config.patch_size);
    let value = |at: usize| {
        let [channel, y, x] = [at / (size * size), at / size % size, at % size];
        let patch = y / side * patches.columns + x / side;
        patches.values[patch * 3 * side * side + channel * side * side + y % side * side + x % side]
    };
    (0..3 * size * size).map(value).collect()
}

/// PIL's numbers, worked out by hand from its C source.
#[test]
fn opacity_is_laid_over_white() {
    let over = |r, a| Image::from_rgba8(1, 1, &[r, 255, 0, a]).unwrap().rgb().to_vec();
    assert_eq!(over(10, 0), [255; 3]);
    assert_eq!(over(10, 255), [10, 255, 0]);
    assert_eq!(over(0, 128), [127, 255, 127]);
    assert_eq!(over(100, 51), [224, 255, 204]);
}

#[test]
fn pictures_differ_by_size_and_pixels() {
    let image = Image::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
    let turned = Image::from_rgb8(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
    let other = Image::from_rgb8(2, 1, vec![1, 2, 3, 4, 5, 7]).unwrap();
    assert_eq!(image.content_hash(), image.clone().content_hash());
    assert!(image.content_hash() != turned.content_hash() && image.content_hash() != other.content_hash());
    assert!(matches!(Image::from_rgb8(2, 2, vec![0; 11]), Err(ImageError::Length { found: 11, .. })));
    assert!(matches!(Image::from_rgba8(0, 2, &[]), Err(ImageError::Empty { .. })));
    assert!(matches!(Image::from_rgb8(usize::MAX, 2, vec![0; 6]), Err(ImageError::Length { .. })));
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_fn(33, 21, |x, y| image::Rgb([x as u8 * 7, y as u8 * 11, (x * y) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn two_thousand_damaged_files_bring_errors_or_pictures_and_no_panic() {
    let png = [("gemma3-vision", "exact.0.png"), ("gemma3-vision", "tiny.0.png")].map(|(name, file)| picture(name, file));
    let whole = png.into_iter().chain([ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(encoded));
    let mut seed = 1u32;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below.max(1)
    };
    for file in whole {
        decode(&file).unwrap();
        for round in 0..400 {
            let mut damaged = file.clone();
            if round % 2 == 0 {
                damaged.truncate(random(file.len()));
            } else {
                (0..1 + random(4)).for_each(|_| damaged[random(file.len())] ^= 1 << random(8));
            }
            if let Ok(image) = decode(&damaged) {
                assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
            }
        }
    }
}

/// A PNG whose header claims more than any limit, with nothing behind it.
#[test]
fn a_size_past_the_limits_is_refused_by_the_header() {
    let claims = |width: u32, height: u32| {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend(width.to_be_bytes().into_iter().chain(height.to_be_bytes()).chain([8, 2, 0, 0, 0]));
        let crc = crc32(&png[12..]);
        png.extend(crc.to_be_bytes());
        png.extend(b"\0\0\0\x0cIDATx\x9c\x03\0\0\0\0\x01\0\0\0\0");
        png
    };
    for (width, height) in [(100_000, 100_000), (1, 100_000), (16_000, 16_000)] {
        let error = decode(&claims(width, height)).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{width}×{height}: {error}");
    }
    assert!(decode(&claims(0, 5)).is_err() && decode(b"").is_err() && decode(b"GIF89a").is_err());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
