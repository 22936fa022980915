//! Where templates are found: beside weights and in GGUF files.

use super::*;

/// A folder with a tokenizer that has ChatML's tokens, and these files.
fn folder(case: &Value, files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json(&strings(&case["added"])).to_string()).unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// Every file that transformers reads a template from, and which of them counts.
#[test]
fn templates_are_found_where_files_have_them() {
    let (chatml, gemma) = (case("chatml"), case("gemma"));
    let [chatml_source, other] = [&chatml, &gemma].map(|case| case["template"].as_str().unwrap().to_string());
    let as_text = |source: &str| json!({ "chat_template": source }).to_string();
    let named =
        json!({"chat_template": [{"name": "tool_use", "template": other}, {"name": "default", "template": chatml_source}]})
            .to_string();
    let found: [&[(&str, String)]; 6] = [
        &[("chat_template.jinja", format!("\u{feff}{}", chatml_source.replace('\n', "\r\n")))],
        &[("tokenizer_config.json", as_text(&chatml_source))],
        &[("tokenizer_config.json", named)],
        &[("chat_template.json", as_text(&chatml_source))],
        &[("chat_template.jinja", chatml_source.clone()), ("tokenizer_config.json", as_text(&other))],
        &[("tokenizer_config.json", as_text(&chatml_source)), ("chat_template.json", as_text(&other))],
    ];
    let user = [Message::user("Hi")];
    for files in found {
        let folder = folder(&chatml, files);
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        let template = ChatTemplate::near_weights(&config("gemma-2-2b"), &tokenizer, folder.path()).unwrap();
        assert_eq!(
            template.render(&user, true).unwrap(),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n",
            "{files:?}"
        );
    }
    let tools = case("tools as JSON");
    let tool_use = ("additional_chat_templates/tool_use.jinja", tools["template"].as_str().unwrap().to_string());
    let folder = folder(&chatml, &[("chat_template.jinja", chatml_source), tool_use]);
    let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
    let template = ChatTemplate::near_weights(&config("gemma-2-2b"), &tokenizer, folder.path()).unwrap();
    for golden in tools["cases"].as_array().unwrap().iter().filter(|golden| !golden["tools"].is_null()) {
        let open = golden["add_generation_prompt"].as_bool().unwrap();
        assert_eq!(template.render(&messages(golden), open).unwrap(), golden["text"].as_str().unwrap());
    }
    let without = self::folder(&chatml, &[]);
    let template = ChatTemplate::near_weights(&config("gemma-2-2b"), &tokenizer, without.path()).unwrap();
    assert_eq!(template.format().unwrap(), ChatFormat::Gemma);
}

/// A GGUF file with a vocabulary, no weights, and a template: BOS stands in front where the file says so, as llama.cpp
/// has it.
#[test]
fn templates_of_gguf_files_are_followed() {
    let case = case("chatml");
    let mut tokens = vec![
        "<pad>".to_string(),
        "<eos>".into(),
        "<bos>".into(),
        "<unk>".into(),
        "<|im_start|>".into(),
        "<|im_end|>".into(),
        "▁".into(),
    ];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let types: Vec<i32> = tokens
        .iter()
        .map(|token| {
            if token == "▁" {
                1
            } else if token.starts_with("<0x") {
                6
            } else {
                3
            }
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    for add_bos in [None, Some(true), Some(false)] {
        let mut writer = Writer::new("gemma2")
            .text("tokenizer.ggml.model", "llama")
            .array("tokenizer.ggml.tokens", 8, &tokens.iter().map(|token| string(token.as_bytes())).collect::<Vec<_>>())
            .array("tokenizer.ggml.token_type", 5, &types.iter().map(|ty| ty.to_le_bytes().to_vec()).collect::<Vec<_>>())
            .array("tokenizer.ggml.scores", 6, &tokens.iter().map(|_| 0f32.to_le_bytes().to_vec()).collect::<Vec<_>>())
            .u32("tokenizer.ggml.bos_token_id", 2)
            .u32("tokenizer.ggml.eos_token_id", 1)
            .u32("tokenizer.ggml.unknown_token_id", 3)
            .text("tokenizer.chat_template", case["template"].as_str().unwrap());
        if let Some(add) = add_bos {
            writer = writer.pair("tokenizer.ggml.add_bos_token", 7, vec![u8::from(add)]);
        }
        let path = folder.path().join("model.gguf");
        writer.write(&path);
        let tokenizer = Tokenizer::from_gguf(&path).unwrap();
        let template = ChatTemplate::near_weights(&config("gemma-2-2b"), &tokenizer, &path).unwrap();
        let ids = template.encode(&tokenizer, &[Message::user("<|im_end|>")], true).unwrap();
        let controls: Vec<u32> = ids.iter().copied().filter(|id| *id < 6).collect();
        let bos: &[u32] = if add_bos == Some(false) { &[] } else { &[2] };
        assert_eq!(controls, [bos, &[4, 5, 4]].concat(), "{add_bos:?}");
    }
}

/// A whole model of a fine-tune: its conversation is laid out by its template, and ends by its token.
#[test]
fn a_model_follows_the_template_beside_its_weights() {
    let case = case("chatml");
    let source = case["template"].as_str().unwrap().to_string();
    let folder = folder(&case, &[("chat_template.jinja", source)]);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(demo.join(file), folder.path().join(file)).unwrap();
    }
    let json = std::fs::read_to_string(demo.join("tokenizer.json")).unwrap();
    let json = json.replace("\"<start_of_turn>\"", "\"<|im_start|>\"").replace("\"<end_of_turn>\"", "\"<|im_end|>\"");
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    assert!(model.format().is_err());
    let mut conversation = model.conversation().unwrap();
    conversation.send("no").unwrap();
    let tokenizer = model.tokenizer();
    let text = "<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n\n";
    assert_eq!(model.chat_template().render(conversation.messages(), true).unwrap(), text);
    let expected = model.chat_template().encode(tokenizer, conversation.messages(), true).unwrap();
    assert_eq!(conversation.tokens(), expected);
    assert_eq!(expected[0], tokenizer.special_id("<|im_start|>").unwrap());
    // Plain text goes on where turns are refused.
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ raise_exception('only pictures') }}").unwrap();
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let error = model.conversation().unwrap().send("no").unwrap_err().to_string();
    assert!(error.contains("only pictures") && error.contains("plain text"), "{error}");
    let mut text = model.conversation().unwrap();
    text.write("no").unwrap();
    text.answer().unwrap();
}
