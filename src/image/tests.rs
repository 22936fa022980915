use std::{fs, path::PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::*;
use crate::gemma::{GemmaConfig, VisionConfig};

/// The pictures that the tests read: checkpoints with what transformers made of their pictures, and small files with
/// the pixels that PIL reads from them.
pub(super) fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

/// A file of a checkpoint, `<checkpoint>/…`.
pub(super) fn oracle(path: &str) -> PathBuf {
    data("multimodal").join(path)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Image, ImageError> {
    Image::from_bytes(bytes, &ImageLimits::default())
}

pub(super) fn open(path: PathBuf) -> Image {
    decode(&fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first eight bytes of SHA-256, as numpy's side of a test prints them.
pub(super) fn short_hash(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes.as_ref()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A picture of a linear congruential generator's bits 16 to 23; numpy was given the same.
pub(super) fn noise(width: usize, height: usize) -> Image {
    let mut state = (width * 1000 + height) as u32;
    let rgb: Vec<u8> = (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u8
        })
        .collect();
    Image::from_rgb8(width, height, rgb).unwrap()
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
    assert!(matches!(none.target(640, 480), Err(ImageError::Aspect { max_soft_tokens: 0, .. })));
}

/// Every picture of every checkpoint whose tower is computed, to the bit, from the file.
#[test]
fn pixels_are_those_of_transformers() {
    let mut compared = 0;
    for entry in fs::read_dir(oracle("")).unwrap() {
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
            let pictures = images.iter().flat_map(|file| with_crops(&open(folder.join(file)), case));
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
    assert_eq!(compared, 32, "pictures of the checkpoints");
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

/// SigLIP's patches and MobileNet's pixels as a whole picture [3, S, S], others as they are.
fn in_their_order(patches: &Patches, vision: &VisionConfig) -> Vec<f32> {
    if let VisionConfig::MobileNet(_) = vision {
        let channel = |channel: usize| patches.values.iter().skip(channel).step_by(3);
        return (0..3).flat_map(channel).copied().collect();
    }
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

/// A picture in memory may have any size: what resizing takes follows from the result's.
#[test]
fn a_line_of_a_million_pixels_is_resized() {
    let size = TargetSize::Square(16);
    let processor = ImageProcessor { size, filter: Filter::Bilinear, patch: 4, layout: PatchLayout::ChannelsFirst };
    for image in [blank(1, 1_000_000), blank(1_000_000, 1)] {
        let patches = processor.patches(&image).unwrap();
        assert_eq!((patches.rows, patches.columns), (4, 4));
        assert!(patches.values.iter().all(|value| *value == -1.0));
    }
}
