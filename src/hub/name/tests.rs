use super::*;

#[test]
fn names_of_the_hub_are_taken_as_they_are() {
    for name in ["google/gemma-3-270m-it", "a/b", "A.b_c/d.e-f_G", "o/r/x.gguf", "o/r/BF16/x y.gguf"] {
        assert_eq!(name.parse::<HubModel>().unwrap().to_string(), name);
    }
    let model: HubModel = "o/r/q/x-00001-of-00003.gguf".parse().unwrap();
    let parts = model.parts().unwrap();
    assert_eq!(parts, ["q/x-00001-of-00003.gguf", "q/x-00002-of-00003.gguf", "q/x-00003-of-00003.gguf"]);
    assert_eq!(model.within("s".into()), Path::new("s/q/x-00001-of-00003.gguf"));
    assert_eq!("o/r".parse::<HubModel>().unwrap().parts(), None);
    assert_eq!("o/r/x-1-of-3.gguf".parse::<HubModel>().unwrap().parts().unwrap(), ["x-1-of-3.gguf"]);
}

#[test]
fn hostile_names_are_refused() {
    let names = [
        "",
        "gemma",
        "../..",
        "a/..",
        "../b",
        "./b",
        "/etc/passwd",
        "a//b",
        "a/b/",
        "a/b/c",
        "a/b/../x.gguf",
        "a/b//x.gguf",
        "a/b/x\\..\\y.gguf",
        "a/b/C:x.gguf",
        "a/b/x\n.gguf",
        "a b/c",
        "a/b\\c",
        "a/b%2f",
        "a--b/c",
        "a/b..c",
        "-a/b",
        "a/b-",
        "a/b/x-00002-of-00003.gguf",
        "https://huggingface.co/a/b",
        "a/b?x",
        "a/b#x",
        "ä/b",
    ];
    for name in names {
        let error = name.parse::<HubModel>().unwrap_err();
        assert!(matches!(error, Error::Hub(HubError::Name { .. })), "{name}: {error}");
        assert!(error.to_string().contains("owner/name"), "{error}");
    }
    assert!(format!("{}/b", "a".repeat(97)).parse::<HubModel>().is_err());
}

#[test]
fn shards_with_a_way_out_are_refused() {
    for shard in ["..", "../x", "/x", "a/x", "a\\x", "c:x", "", ".", "x\0"] {
        let shards = BTreeSet::from(["model-00001.safetensors".to_string(), shard.to_string()]);
        assert!(matches!(plain(Path::new("i.json"), shards), Err(Error::Format { .. })), "{shard:?}");
    }
    let fine = BTreeSet::from(["model-00001-of-00002.safetensors".to_string()]);
    assert_eq!(plain(Path::new("i.json"), fine.clone()).unwrap(), fine);
}
