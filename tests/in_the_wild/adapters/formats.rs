//! Adapters of other programs.

use super::*;

/// mlx-lm keeps A and B the other way round, with a factor of its own.
#[test]
fn an_adapter_of_mlx_is_the_same_adapter() {
    let (oracle, name) = (Oracle::open("gemma3-text"), "gemma3-dora");
    let mut changed = Changed::of(name).transposed().renamed(|key| {
        let key = key.replace("base_model.model.", "").replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b");
        key.replace("lora_magnitude_vector", "m")
    });
    changed.file = "adapters.safetensors";
    changed.config = json!({"fine_tune_type": "dora", "num_layers": 7, "iters": 600,
        "lora_parameters": {"rank": 2, "scale": 1.5, "dropout": 0.0, "keys": ["self_attn.q_proj"]}});
    check(&oracle, changed.open(&oracle.config).unwrap(), name, &Device::Cpu, TablePlacement::default());
    changed.config["lora_parameters"]["alpha"] = json!(16);
    assert!(changed.refused(&oracle.config).contains("alpha = 16"));
    changed.config = json!({"fine_tune_type": "full"});
    assert!(changed.refused(&oracle.config).contains("fine_tune_type"));
}

/// A GGUF file of the adapter's A and B, with metadata as `convert_lora_to_gguf.py` writes it.
fn gguf(oracle: &Oracle, name: &str, architecture: &str, kind: &str) -> Writer {
    let writer =
        Writer::new(architecture).text("general.type", "adapter").text("adapter.type", kind).f32("adapter.lora.alpha", 3.0);
    values(&folder(name).join("adapter_model.safetensors")).into_iter().fold(writer, |writer, (key, (shape, values))| {
        let (module, part) = key.rsplit_once(".lora_").unwrap();
        let module = module.replace("base_model.model.model.", "");
        let at = WeightPosition::from_hugging_face(oracle.config.arch, &format!("{module}.weight")).unwrap();
        let name = format!("{}.lora_{}", at.gguf(oracle.config.arch).unwrap(), part[..1].to_lowercase());
        let dims: Vec<u64> = shape.iter().rev().map(|size| *size as u64).collect();
        writer.tensor(&name, &dims, 0, bytemuck::cast_slice(&values))
    })
}

#[test]
fn an_adapter_of_llama_cpp_is_the_same_adapter() {
    // Rank 2, alpha 3, on projections alone.
    let (oracle, name) = (Oracle::open("gemma4-e2b"), "gemma4-e2b-all");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    gguf(&oracle, name, "gemma4", "lora").write(&path);
    let lora = Lora::open(&path, &oracle.config).unwrap();
    check(&oracle, lora, name, &Device::Cpu, TablePlacement::default());
    gguf(&oracle, name, "gemma3", "lora").write(&path);
    let text = Lora::open(&path, &oracle.config).unwrap_err().to_string();
    assert!(text.contains("\"gemma3\", and the model is a Gemma4"), "{text}");
    assert_eq!(oracle.config.arch, GemmaArch::Gemma4);
    gguf(&oracle, name, "gemma4", "control_vector").write(&path);
    assert!(Lora::open(&path, &oracle.config).unwrap_err().to_string().contains("adapter.type"));
    let model = Lora::open(data("gguf/gemma2-s-q4_0-pure/model.gguf"), &oracle.config).unwrap_err().to_string();
    assert!(model.contains("this is a model, not an adapter") || model.contains("general.type"), "{model}");
}

/// A hook that makes the layers itself leaves the adapter on them.
#[test]
fn a_layer_of_a_hooks_own_is_adapted() {
    let oracle = Oracle::open("gemma2");
    let lora = Arc::new(Lora::open(folder("gemma2-patterns"), &oracle.config).unwrap());
    let own = lora.clone();
    let build = |flow: GemmaFlow| flow.build(load_from_path(&oracle.folder).unwrap().as_mut()).unwrap().graph.to_string();
    let flow = || GemmaFlow::for_prefill(&oracle.config, 1, 3).lm_head();
    assert_eq!(build(own.apply(flow()).layer(|layer| layer.default_stage())), build(lora.apply(flow())));
    // A layer that is left out has no product to adapt.
    let cut = lora.apply(flow()).layer(|layer| match layer.index() {
        3 => gemmaflow::flow::FlowStage::identity(),
        _ => layer.default_stage(),
    });
    let error = cut.build(oracle.loader().as_mut()).unwrap_err().to_string();
    assert!(error.contains("layer.3.") && error.contains("no effect"), "{error}");
}

/// An adapter that a program has from elsewhere.
#[test]
fn parts_of_a_programs_own_are_an_adapter() {
    let oracle = Oracle::open("gemma2");
    let from_file = Lora::open(folder("gemma2-bias"), &oracle.config).unwrap();
    let parts: Vec<_> = from_file.targets().map(|target| (target.to_string(), from_file.part(target).unwrap().clone())).collect();
    assert!(parts.iter().all(|(_, part)| part.bias.as_ref().is_some_and(|bias: &Tensor| bias.shape().len() == 1)));
    check(&oracle, Lora::from_parts(parts), "gemma2-bias", &Device::Cpu, TablePlacement::default());
}
