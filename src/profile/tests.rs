//! Profiles from text and files: values, overrides, and mistakes with their place.

use std::fs;

use super::*;
use crate::{
    Error,
    ir::{Compute, DType},
};

const FULL: &str = r#"
[fusion]
policy = "direct"
skip = ["geglu", "layer.3.attention"]
assert_clean = true
[passes]
dce = false
constant_folding = false
verbose = true
[precision]
compute = "f16"
mixed = "none"
kv = "f16"
[backend.vulkan]
skip_fusion = true
unfuse_regions = ["rms_norm"]
[decode.fusion]
policy = "fusable"
[decode.backend.vulkan]
skip_fusion = false
[prefill.precision]
kv = "f32"
"#;

#[test]
fn every_key_is_read_and_modes_override_key_by_key() {
    let [prefill, decode] = [false, true].map(|decode| CompileProfile::from_toml(FULL, decode).unwrap());
    assert_eq!((prefill.fusion.policy, decode.fusion.policy), (Policy::Direct, Policy::Fusable));
    assert_eq!((prefill.precision.kv, decode.precision.kv), (DType::F32, DType::F16));
    assert_eq!((prefill.backend.vulkan.skip_fusion, decode.backend.vulkan.skip_fusion), (true, false));
    for profile in [&prefill, &decode] {
        assert_eq!(profile.fusion.skip, ["geglu", "layer.3.attention"]);
        assert_eq!(profile.backend.vulkan.unfuse_regions, ["rms_norm"]);
        assert_eq!((profile.precision.compute, profile.precision.mixed), (Compute::F16, Mixed::None));
        let options = profile.options("vulkan");
        assert_eq!(options.unfused, ["geglu", "layer.3.attention", "rms_norm"]);
        assert!(options.assert_clean && options.verbose && !options.dce && !options.constant_folding && !options.mixed);
        assert_eq!(profile.options("metal").unfused, ["geglu", "layer.3.attention"]);
        // A profile reads back as it is printed.
        assert_eq!(CompileProfile::from_toml(&profile.to_string(), true).unwrap(), *profile);
    }
    assert!(!prefill.options("vulkan").fuse && decode.options("vulkan").fuse && !prefill.options("dx12").fuse);
    assert!(prefill.options("cpu").fuse && prefill.options("cpu").unfused.is_empty());
}

#[test]
fn an_empty_profile_is_the_preset() {
    let empty = CompileProfile::from_toml("", false).unwrap();
    assert_eq!((&empty, &empty), (&CompileProfile::gemma_prefill(), &CompileProfile::gemma_decode()));
    for backend in ["vulkan", "metal", "dx12", "cpu", "noop"] {
        assert_eq!(empty.options(backend), LowerOptions { compute: Compute::Auto, ..LowerOptions::default() });
    }
}

#[test]
fn mistakes_have_a_place_and_a_key() {
    let cases = [
        ("[fusion]\npolcy = 'direct'\n", (2, 1), "fusion.polcy"),
        ("[fusion]\npolicy = 'both'\n", (2, 10), "fusion.policy"),
        ("[fusion]\n  skip = ['a', 7]\n", (2, 16), "fusion.skip"),
        ("[passes]\ndce = 1\n", (2, 7), "passes.dce"),
        ("[precision]\ncompute = 'bf16'\n", (2, 11), "storage type"),
        ("[precision]\nkv = 'q8'\n", (2, 6), "precision.kv"),
        ("[backend.opengl]\nskip_fusion = true\n", (1, 10), "opengl"),
        ("[decode.fusion]\nskip = 'geglu'\n", (2, 8), "decode.fusion.skip"),
        ("[prefill.decode]\n", (1, 10), "decode"),
        ("[fusion]\n\n\nskip = [\n 'a'\n", (5, 5), "fusion.skip"),
        ("[fusion\n", (1, 8), ""),
        ("[fusion]\nskip = []\nskip = []\n", (3, 1), "fusion.skip"),
        ("unknown = 1", (1, 1), "unknown"),
    ];
    for (text, place, word) in cases {
        match CompileProfile::from_toml(text, true) {
            Err(Error::Profile { line, column, problem, .. }) => {
                assert!((line, column) == place && problem.contains(word), "{text:?}: {line}:{column}: {problem}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_file_beside_the_weights_counts_and_its_absence_is_the_preset() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    fs::write(&weights, b"").unwrap();
    assert_eq!(CompileProfile::near_weights(&weights, false).unwrap(), CompileProfile::gemma_prefill());
    assert_eq!(gemma_profile_near_weights(folder.path(), true).unwrap(), CompileProfile::gemma_decode());
    let file = folder.path().join(GEMMA_PROFILE_FILE);
    fs::write(&file, "[decode.precision]\nkv = 'f16'\n").unwrap();
    for beside in [&weights, &folder.path().to_path_buf()] {
        assert_eq!(CompileProfile::near_weights(beside, false).unwrap().precision.kv, DType::F32);
        assert_eq!(CompileProfile::near_weights(beside, true).unwrap().precision.kv, DType::F16);
    }
    fs::write(&file, b"[decode]\n\xff").unwrap();
    let error = CompileProfile::near_weights(&weights, true).unwrap_err().to_string();
    assert!(error.contains("gemma.rlx.toml:2:1") && error.contains("UTF-8"), "{error}");
    assert!(matches!(CompileProfile::from_file(folder.path().join("none"), true), Err(Error::Io { .. })));
}
