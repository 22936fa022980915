//! The candle side of bench-peers: `candle-peer FOLDER|FILE.gguf f32|f16|bf16|q8_0 PROMPTS GENERATED` prints one JSON object.

use std::{fs, time::Instant};

use candle_core::{D, DType, Device, Result, Tensor, quantized::gguf_file};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, quantized_gemma3};

enum Model {
    Plain(gemma3::Model),
    Quantized(quantized_gemma3::ModelWeights),
}

impl Model {
    fn open(path: &str, format: &str) -> Result<Self> {
        let dtype = match format {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            _ => {
                let mut file = fs::File::open(path)?;
                let content = gguf_file::Content::read(&mut file)?;
                return Ok(Self::Quantized(quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?));
            }
        };
        let config = fs::read_to_string(format!("{path}/config.json"))?;
        let config: gemma3::Config = serde_json::from_str(&config).map_err(candle_core::Error::wrap)?;
        let file = format!("{path}/model.safetensors");
        // SAFETY: nothing writes the file meanwhile.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], dtype, &Device::Cpu)? };
        Ok(Self::Plain(gemma3::Model::new(false, &config, weights)?))
    }

    /// The token after these, which follow `past` others.
    fn next(&mut self, tokens: &[u32], past: usize) -> Result<u32> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Plain(model) => model.forward(&tokens, past)?,
            Self::Quantized(model) => model.forward(&tokens, past)?,
        };
        logits.flatten_all()?.argmax(D::Minus1)?.to_scalar()
    }

    /// Tokens per second of the prompt and of what follows it.
    fn measure(&mut self, prompt: usize, generated: usize) -> Result<(f64, f64)> {
        if let Self::Plain(model) = self {
            model.clear_kv_cache();
        }
        let tokens: Vec<u32> = (0..prompt).map(|i| ((i * 7919 + 17) % 262_144) as u32).collect();
        let start = Instant::now();
        let mut token = self.next(&tokens, 0)?;
        let prefill = prompt as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        for i in 0..generated {
            token = self.next(&[token], prompt + i)?;
        }
        Ok((prefill, generated as f64 / start.elapsed().as_secs_f64()))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, format, prompts, generated] = &arguments[..] else {
        candle_core::bail!("expected a path, a format, prompt lengths and a number of tokens to generate");
    };
    let generated: usize = generated.parse().map_err(candle_core::Error::wrap)?;
    let mut model = Model::open(path, format)?;
    model.measure(32, 2)?;
    let mut result = serde_json::Map::new();
    for (i, prompt) in prompts.split(',').enumerate() {
        let (prefill, decode) = model.measure(prompt.parse().map_err(candle_core::Error::wrap)?, if i == 0 { generated } else { 1 })?;
        result.insert(format!("prefill {prompt}"), prefill.into());
        if i == 0 {
            result.insert("decode".into(), decode.into());
        }
    }
    println!("{}", serde_json::Value::Object(result));
    Ok(())
}
