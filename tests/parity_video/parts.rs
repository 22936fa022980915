//! `logits --parts` with videos.

use std::{fs, process::Command};

use gemmaflow::runtime::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{BUDGET, MEDIA, Oracle, WIDE_GATE, data, folder, program::program, prompt, worst};

/// Ids of a first frame's time, such as `00:00 `: the tokenizer is one of letters.
const TIME: usize = 6;

/// The parts of a case. `timed`: the program reads the frames' times; else their ids are given.
fn parts(case: &Value, ids: &[u32], soft: &[(usize, usize)], timed: bool) -> Value {
    let mut parts = Vec::new();
    let mut text = 0;
    let mut soft = soft.iter();
    // The ids before the next control token that begins a picture.
    let mut before = || {
        let (start, tokens) = soft.next().unwrap();
        let words = ids[text..start - 1].to_vec();
        text = start + tokens + 1;
        words
    };
    let file = |name: &Value| json!(data("video").join(name.as_str().unwrap()));
    let said = case["text"].as_str().unwrap();
    let mut places: Vec<(usize, &str)> = MEDIA.iter().flat_map(|name| said.match_indices(name)).collect();
    places.sort();
    let [mut pictures, mut videos] = ["images", "videos"].map(|key| case[key].as_array().unwrap().iter());
    for (_, name) in places {
        if name == MEDIA[0] {
            parts.push(json!({"tokens": before()}));
            parts.push(json!({"image": file(pictures.next().unwrap()), "max_soft_tokens": BUDGET}));
            continue;
        }
        let frames = videos.next().unwrap().as_array().unwrap();
        let words: Vec<Vec<u32>> = frames.iter().map(|_| before()).collect();
        let mut video: Vec<Value> = frames.iter().map(|frame| json!({"image": file(&frame["image"])})).collect();
        if timed {
            let time = words[0].len() - TIME;
            parts.push(json!({"tokens": words[0][..time]}));
            video.iter_mut().zip(frames).for_each(|(part, frame)| part["seconds"] = frame["seconds"].clone());
            parts.push(json!({"video": video}));
        } else {
            parts.push(json!({"video": video, "words": words, "max_soft_tokens": BUDGET}));
        }
    }
    parts.push(json!({"tokens": ids[text..]}));
    parts.into()
}

#[test]
fn the_example_logits_is_shown_videos() {
    let oracle = Oracle::open();
    let scratch = tempfile::tempdir().unwrap();
    let [list, out] = ["parts.json", "out.safetensors"].map(|name| scratch.path().join(name));
    for case in &oracle.cases {
        let folder = folder(case);
        let laid_out = prompt(folder.path(), &Device::Cpu, case);
        let soft: Vec<_> = laid_out.soft_tokens().map(|(start, soft)| (start, soft.len())).collect();
        let ids = oracle.ids(case, "input_ids");
        for timed in [false, true] {
            fs::write(&list, parts(case, &ids, &soft, timed).to_string()).unwrap();
            let mut command = Command::new(program("logits"));
            command.args(["--stages", "--device", "cpu", "--model"]).arg(folder.path());
            let output = command.arg("--parts").arg(&list).arg("--out").arg(&out).output().unwrap();
            assert!(output.status.success(), "{}: {}", case["name"], String::from_utf8_lossy(&output.stderr));
            let bytes = fs::read(&out).unwrap();
            let found = SafeTensors::deserialize(&bytes).unwrap();
            let values = |name: &str| found.tensor(name).unwrap().data().to_vec();
            let types = "mm_token_type_ids";
            assert_eq!(values("input_ids"), oracle.bytes(case, "input_ids"), "{} {timed}", case["name"]);
            assert_eq!(values(types), oracle.bytes(case, types), "{} {timed}", case["name"]);
            let error = worst(&bytemuck::pod_collect_to_vec::<u8, f32>(&values("logits")), &oracle.logits(case));
            assert!(error < WIDE_GATE, "{} {timed}: {error}", case["name"]);
            let pixels: Vec<f32> = bytemuck::pod_collect_to_vec(&values("pixel_values_videos"));
            let expected = oracle.bytes(case, "pixel_values_videos");
            let levels = pixels.iter().map(|value| (value * 255.0).round() as u8);
            assert!(levels.zip(expected).all(|(a, b)| a == *b), "{} {timed}", case["name"]);
        }
    }
}

#[test]
fn the_example_logits_refuses_what_is_no_video() {
    let oracle = Oracle::open();
    let case = &oracle.cases[0];
    let frame = json!({"image": data("video").join("wide.0.0.png")});
    let blind = data("multimodal/gemma3-vision");
    let seeing = folder(case);
    for (model, part, expected) in [
        (seeing.path(), json!({"video": [frame]}), "no \"seconds\""),
        (seeing.path(), json!({"video": [frame, frame], "words": [[5]]}), "2 frames has 1 \"words\""),
        (blind.as_path(), json!({"video": [frame], "words": [[5]]}), "which this model does not take"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let [list, out] = ["parts.json", "out.safetensors"].map(|name| scratch.path().join(name));
        fs::write(&list, json!([part]).to_string()).unwrap();
        let mut command = Command::new(program("logits"));
        command.args(["--device", "cpu", "--model"]).arg(model).arg("--parts").arg(&list).arg("--out").arg(&out);
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(expected), "{told}");
    }
}
