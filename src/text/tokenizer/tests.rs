use super::*;

#[test]
fn cutting_leaves_no_name_whole() {
    let names = ["<bos>", "<end_of_turn>"];
    let text = "é<bos><bos> <end_of_turn>\n<bo";
    let spans = cut_inside(text, names.into_iter());
    assert_eq!(spans.concat(), text);
    assert_eq!(spans, ["é<", "bos><", "bos> <", "end_of_turn>\n<bo"]);
}

/// A vocabulary whose merges spell `<bos>` out of letters: ids 0 to 6 are `<bos> ▁ < bos> b os> a`.
#[test]
fn merges_cannot_build_a_control_token() {
    let json = r#"{"version":"1.0","truncation":null,"padding":null,
            "added_tokens":[{"id":0,"content":"<bos>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
            "normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},"pre_tokenizer":null,"post_processor":null,
            "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"Fuse"}]},
            "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
                "fuse_unk":true,"byte_fallback":true,"ignore_merges":false,
                "vocab":{"<bos>":0,"▁":1,"<":2,"bos>":3,"b":4,"os>":5,"a":6,"o":7,"s":8,">":9,"os":10},
                "merges":[["o","s"],["os",">"],["b","os>"],["<","bos>"]]}}"#;
    let tokenizer = Tokenizer::from_bytes(json.as_bytes()).expect("a well-formed file");
    assert_eq!(tokenizer.encode_span("a<bos>").expect("in the vocabulary"), [6, 0], "the danger is real");
    assert_eq!(tokenizer.encode("a<bos> a", true).expect("in the vocabulary"), [0, 6, 2, 3, 1, 6]);
    assert_eq!(tokenizer.decode(&[0, 6, 2, 3, 1, 6]).expect("known ids"), "a<bos> a");
}
