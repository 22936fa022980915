//! Models that look both ways, saved by releases of transformers that halve their window each time.

use gemmaflow::gemma::GemmaConfig;
use serde_json::{Value, json};

use super::common::{files, gguf::GgufOracle, oracle::data};

fn config(change: impl FnOnce(&mut Value)) -> GemmaConfig {
    let text = std::fs::read_to_string(data("checkpoints/embeddinggemma/config.json")).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    change(&mut config);
    GemmaConfig::from_json(&config.to_string()).unwrap()
}

/// Computed as transformers does, and told: 512 was saved as 257, that as 129.
#[test]
fn a_window_that_was_halved_is_told() {
    for (saved, made_with) in [(257, "512"), (129, "256"), (33, "64")] {
        let (config, told) = files::warnings(|| config(|config| config["sliding_window"] = json!(saved)));
        assert_eq!(config.sliding_window, Some(saved));
        assert!(told.len() == 1 && told[0].contains(&format!("made_with {made_with} ")), "{told:?}");
    }
    let (_, told) = files::warnings(|| config(|config| config["sliding_window"] = json!(512)));
    assert!(told.is_empty(), "{told:?}");
    let one_way = |config: &mut Value| {
        config["sliding_window"] = json!(257);
        config["use_bidirectional_attention"] = json!(false);
    };
    let (_, told) = files::warnings(|| config(one_way));
    assert!(told.is_empty(), "{told:?}");
}

/// A converter takes the number as it stands.
#[test]
fn a_halved_window_of_a_gguf_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut file = files::read_gguf(&GgufOracle::open("embeddinggemma-s-bf16").path);
    let key = "gemma-embedding.attention.sliding_window";
    let pair = file.pairs.iter_mut().find(|(name, ..)| name == key).unwrap();
    pair.2 = 257u32.to_le_bytes().to_vec();
    file.write(&path);
    let (config, told) = files::warnings(|| GemmaConfig::from_gguf(&path).unwrap());
    assert_eq!(config.sliding_window, Some(257));
    assert!(told.len() == 1 && told[0].contains("made_with 512 "), "{told:?}");
}
