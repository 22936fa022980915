//! Soft tokens that are kept on the device too: the same logits to the bit, fewer bytes uploaded, and memory to the byte.

use std::sync::Arc;

use gemmaflow::{
    checkpoint::load_towers_from_path,
    generate::GeneratorOptions,
    image::Image,
    prompt::{Prompt, SoftTokens},
    runtime::{Device, GpuContext},
    vision::{TowerOptions, VisionEncoder},
};

use super::Seeing;

/// One whose pictures see each other, and one whose layers have tables of their own.
const CHECKPOINTS: [&str; 2] = ["gemma3-vision", "gemma4-e-vision-bf16"];

fn seeing(name: &'static str, options: TowerOptions) -> Seeing {
    // Otherwise a slow device has smaller chunks, and other bits.
    let options_of_text = GeneratorOptions { prefill_chunk: Some(16), deterministic: true, ..GeneratorOptions::default() };
    let mut seeing = Seeing::new(name, Device::Gpu, options_of_text);
    seeing.encoder = encoder(&seeing, seeing.generator.gpu(), options);
    seeing
}

fn encoder(seeing: &Seeing, gpu: Option<Arc<GpuContext>>, options: TowerOptions) -> VisionEncoder {
    let mut loader = load_towers_from_path(&seeing.oracle.folder).unwrap();
    VisionEncoder::from_loader(&seeing.oracle.config, loader.as_mut(), gpu, options).unwrap()
}

fn on_device() -> TowerOptions {
    TowerOptions { kept_on_device: true, ..TowerOptions::default() }
}

/// A picture of one colour.
fn flat(level: u8) -> Image {
    Image::from_rgb8(48, 48, vec![level; 3 * 48 * 48]).unwrap()
}

fn bytes(soft: &SoftTokens) -> u64 {
    size_of_val(soft.values()) as u64
}

fn of(prompt: &Prompt) -> u64 {
    prompt.soft_tokens().map(|(_, soft)| bytes(soft)).sum()
}

impl Seeing {
    /// The last logits of a prompt, of which nothing is computed yet, and the bytes that were uploaded for them.
    fn computed(&mut self, prompt: &Prompt) -> (Vec<u32>, u64) {
        self.generator.prefill(&[1][..]).unwrap();
        let uploaded = |seeing: &Self| seeing.generator.counters().unwrap().bytes_uploaded;
        let before = uploaded(self);
        let logits = self.generator.prefill_get_last_logits(prompt.clone()).unwrap();
        (logits.into_iter().map(f32::to_bits).collect(), uploaded(self) - before)
    }

    fn live(&self) -> u64 {
        self.generator.counters().unwrap().bytes_live
    }
}

#[test]
fn prefill_takes_them_from_there() {
    for name in CHECKPOINTS {
        let mut host = seeing(name, TowerOptions::default());
        let mut kept = seeing(name, on_device());
        for case in host.oracle.cases() {
            let prompts = [&host, &kept].map(|seeing| seeing.prompt(seeing.oracle.case(&case)));
            let [Some(uploaded), Some(copied)] = prompts else { continue };
            let (expected, all) = host.computed(&uploaded);
            let (found, rest) = kept.computed(&copied);
            assert!(found == expected, "{name} {case}");
            assert!(rest + of(&copied) <= all, "{name} {case}: {rest} bytes uploaded, {all} with rows of {}", of(&copied));
            // The rows are the host's as well: another device, or the reference, computes with them.
            assert!(host.computed(&copied).0 == expected, "{name} {case}, of another device");
        }
    }
}

/// One picture of which a part is uploaded, since the other's rows are on the host alone.
#[test]
fn those_on_the_host_stand_beside_them() {
    let host = seeing("gemma3-vision", TowerOptions::default());
    let mut kept = seeing("gemma3-vision", on_device());
    let of_both = |first: &VisionEncoder, second: &VisionEncoder| {
        let picture = |encoder: &VisionEncoder, level| encoder.prompt(&flat(level)).unwrap();
        Prompt::from([2]).then(picture(first, 10)).then([5]).then(picture(second, 200)).then([7, 9])
    };
    let (expected, _) = kept.computed(&of_both(&host.encoder, &host.encoder));
    for prompt in [of_both(&kept.encoder, &host.encoder), of_both(&kept.encoder, &kept.encoder)] {
        assert!(kept.computed(&prompt).0 == expected);
    }
}

#[test]
fn they_take_the_bytes_that_the_plan_counts_and_go_with_their_entry() {
    let mut seeing = seeing("gemma3-vision", TowerOptions::default());
    let gpu = seeing.generator.gpu().unwrap();
    let one = bytes(&seeing.encoder.encode(&flat(0)).unwrap());
    let room_for = |count: u64| TowerOptions { kept_bytes: Some((count * one) as usize), ..on_device() };
    let plan = |options: &TowerOptions| {
        let mut loader = load_towers_from_path(&seeing.oracle.folder).unwrap();
        VisionEncoder::memory_plan(&seeing.oracle.config, loader.as_mut(), gpu.capabilities(), None, options).unwrap()
    };
    let nothing = plan(&TowerOptions::default());
    let two = plan(&room_for(2));
    assert_eq!((nothing.kept, two.kept), (0, 2 * one));
    assert_eq!(two.peak(), two.weights + two.loading.max(two.runs + two.kept));

    seeing.encoder = encoder(&seeing, seeing.generator.gpu(), room_for(2));
    let first = seeing.encoder.prompt(&flat(1)).unwrap().then([7]);
    let before = seeing.live();
    seeing.encoder.encode(&flat(2)).unwrap();
    assert_eq!(seeing.live(), before + one);
    let expected = seeing.computed(&first).0;
    let before = seeing.live();
    seeing.encoder.encode(&flat(3)).unwrap();
    assert_eq!(seeing.live(), before, "the oldest went");
    assert!(seeing.computed(&first).0 == expected, "and is uploaded");
    seeing.encoder = encoder(&seeing, seeing.generator.gpu(), TowerOptions { kept_bytes: Some(1), ..on_device() });
    seeing.encoder.encode(&flat(4)).unwrap();
    let before = seeing.live();
    seeing.encoder.encode(&flat(5)).unwrap();
    assert_eq!(seeing.live(), before, "one is always kept");
}
