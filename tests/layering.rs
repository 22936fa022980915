//! Which module may know what, by reading the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every file below `folder` that ends in `extension`, with its path below the crate's root.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, extension, found),
                false if path.extension().is_some_and(|e| e == extension) => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    collect(&Path::new(ROOT).join(folder), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file in {folder}");
    let relative = |path: &Path| path.strip_prefix(ROOT).unwrap().to_string_lossy().replace('\\', "/");
    found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// The code alone: comments, the contents of text literals, and the tests at a file's end are gone; line breaks stay.
fn code(source: &str) -> String {
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut out = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                out.push('"');
                while let Some(inside) = chars.next() {
                    match inside {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        '\n' => out.push('\n'),
                        _ => {}
                    }
                }
                out.push('"');
            }
            // A quotation mark as a character opens no text.
            '\'' if chars.peek() == Some(&'"') => {
                chars.next();
                out.push('\'');
            }
            _ => out.push(c),
        }
    }
    out
}

/// The sources without tests, as code.
fn library() -> Vec<(String, String)> {
    let is_test = |path: &str| path.ends_with("/tests.rs");
    files("src", "rs").into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| (path, code(&text))).collect()
}

/// Where `word` stands on its own in `text`: not within a longer name.
fn mentions(text: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .any(|(at, _)| !part_of_name(text[..at].chars().next_back()) && !part_of_name(text[at + word.len()..].chars().next()))
}

/// Fails with every line outside of `allowed` that mentions `word`, and if no file in `allowed` does: then the rule is
/// dead.
fn only_in(word: &str, allowed: &[&str]) {
    let mut used = false;
    for (path, text) in library() {
        if allowed.iter().any(|prefix| path.starts_with(prefix)) {
            used |= mentions(&text, word);
            continue;
        }
        let line = text.lines().find(|line| mentions(line, word));
        assert_eq!(line, None, "{path} mentions {word}");
    }
    assert!(used, "nothing in {allowed:?} mentions {word}");
}

/// What a source names of its own crate: its `use` declarations, and every path from `crate` on.
fn imports(text: &str) -> String {
    let declarations = text.split(';').filter_map(|part| part.rsplit_once("use ").map(|(_, names)| names));
    let paths = text.match_indices("crate::").map(|(at, path)| {
        let rest = &text[at + path.len()..];
        rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next().unwrap_or_default()
    });
    declarations.chain(paths).collect::<Vec<_>>().join("\n")
}

/// Fails where a file below `folder` holds one of the words in what `part` leaves of it.
fn never(folder: &str, words: &[&str], part: impl Fn(&str) -> String) {
    let files: Vec<_> = library().into_iter().filter(|(path, _)| path.starts_with(folder)).collect();
    assert!(!files.is_empty(), "{folder} holds no file");
    for (path, text) in files {
        let text = part(&text);
        for word in words {
            let line = text.lines().find(|line| mentions(line, word));
            assert_eq!(line, None, "{path} mentions {word}");
        }
    }
}

#[test]
fn the_reader_of_sources_sees_code_and_nothing_else() {
    let text =
        "use a; // wgpu\nlet s = \"println! \\\" wgpu\"; let c = '\"'; x();\n/// naga\n#[cfg(test)]\nmod tests {\n    wgpu\n}";
    assert_eq!(code(text), "use a; \nlet s = \"\"; let c = ''; x();\n");
    assert!(mentions("use wgpu::Device;", "wgpu") && !mentions("use wgpu_hal;", "wgpu"));
    let imports = imports("use crate::{\n ir::Graph,\n plan,\n};\nfn f(lower: u32) { crate::shader::compose() }");
    assert!(["ir", "plan", "shader"].iter().all(|m| mentions(&imports, m)) && !mentions(&imports, "lower"));
}

#[test]
fn each_library_has_its_module() {
    only_in("wgpu", &["src/runtime/", "src/generate/engine/gpu/"]);
    only_in("naga", &["src/shader/"]);
    only_in("toml", &["src/profile/"]);
    only_in("safetensors", &["src/weights/"]);
    only_in("memmap2", &["src/weights/"]);
    only_in("tokenizers", &["src/text/"]);
    only_in("llguidance", &["src/guide/"]);
    only_in("gemm", &["src/reference/", "src/ir/ops/"]);
    only_in("ureq", &["src/hub/"]);
    only_in("sha2", &["src/audio/", "src/hub/", "src/image/"]);
    only_in("symphonia", &["src/audio/"]);
    only_in("pollster", &["src/platform/"]);
    only_in("web_time", &["src/platform/"]);
}

/// The folders (and single files) of `src`, and those that each knows: they come before it.
const KNOWS: [(&str, &[&str]); 31] = [
    ("platform", &[]),
    ("files", &["platform"]),
    ("cancel", &[]),
    ("checksum", &[]),
    ("text_file", &["files"]),
    ("prompt", &[]),
    ("audio", &[]),
    ("quant", &[]),
    ("weights", &["cancel", "files", "platform", "quant", "text_file"]),
    ("ir", &["quant", "weights"]),
    ("profile", &["files", "ir", "text_file"]),
    ("plan", &["ir"]),
    ("shader", &["checksum", "ir"]),
    ("lower", &["ir", "plan"]),
    ("reference", &["cancel", "ir", "weights"]),
    ("flow", &["ir", "profile", "weights"]),
    ("gemma", &["files", "flow", "ir", "profile", "text_file", "weights"]),
    ("checkpoint", &["files", "gemma", "quant", "text_file", "weights"]),
    (
        "runtime",
        &["cancel", "checksum", "flow", "ir", "lower", "plan", "platform", "profile", "prompt", "reference", "shader", "weights"],
    ),
    ("image", &["gemma"]),
    ("tower", &["cancel", "flow", "ir", "plan", "profile", "prompt", "runtime", "weights"]),
    (
        "vision",
        &[
            "cancel",
            "checkpoint",
            "files",
            "flow",
            "gemma",
            "image",
            "ir",
            "platform",
            "profile",
            "prompt",
            "runtime",
            "tower",
            "weights",
        ],
    ),
    (
        "hearing",
        &[
            "audio",
            "cancel",
            "checkpoint",
            "files",
            "flow",
            "gemma",
            "ir",
            "platform",
            "profile",
            "prompt",
            "runtime",
            "tower",
            "weights",
        ],
    ),
    (
        "generate",
        &[
            "cancel",
            "checkpoint",
            "checksum",
            "files",
            "flow",
            "gemma",
            "ir",
            "lower",
            "plan",
            "platform",
            "profile",
            "prompt",
            "reference",
            "runtime",
            "text_file",
            "weights",
        ],
    ),
    ("text", &["files", "gemma", "platform", "prompt", "text_file", "weights"]),
    (
        "embed",
        &[
            "audio",
            "checkpoint",
            "files",
            "flow",
            "gemma",
            "generate",
            "hearing",
            "image",
            "ir",
            "platform",
            "profile",
            "prompt",
            "runtime",
            "text",
            "tower",
            "vision",
            "weights",
        ],
    ),
    ("trace", &["flow", "ir", "reference", "runtime"]),
    ("lora", &["files", "flow", "gemma", "ir", "text_file", "weights"]),
    ("guide", &["generate", "platform", "text"]),
    ("hub", &["checkpoint", "gemma"]),
    (
        "conversation",
        &[
            "audio",
            "checkpoint",
            "checksum",
            "files",
            "gemma",
            "generate",
            "hearing",
            "image",
            "platform",
            "prompt",
            "runtime",
            "text",
            "tower",
            "vision",
            "weights",
        ],
    ),
];

#[test]
fn folders_know_those_that_the_table_says() {
    for (place, (folder, known)) in KNOWS.iter().enumerate() {
        let later = |name: &str| KNOWS.iter().position(|(other, _)| *other == name).is_none_or(|other| other >= place);
        let upwards: Vec<&str> = known.iter().copied().filter(|name| later(name)).collect();
        assert!(upwards.is_empty(), "{folder} comes before {upwards:?}");
    }
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in library() {
        let below = path.trim_start_matches("src/");
        let name = below.split(['/', '.']).next().unwrap_or_default();
        // The root, the error type that all return, and what re-exports all for tests.
        if ["lib", "error", "internals"].contains(&name) {
            continue;
        }
        let row = KNOWS.iter().find(|(folder, _)| *folder == name);
        let (folder, known) = row.unwrap_or_else(|| panic!("{path} has no row"));
        let is_folder = |module: &String| module != folder && KNOWS.iter().any(|(folder, _)| folder == module);
        for module in crate_modules(&text).into_iter().filter(is_folder) {
            assert!(known.contains(&module.as_str()), "{path} uses {module}, which {folder} does not know");
            used.entry(folder).or_default().insert(module);
        }
    }
    for (folder, known) in KNOWS {
        let used = used.remove(folder).unwrap_or_default();
        assert_eq!(used, known.iter().map(ToString::to_string).collect(), "{folder} knows more than it uses");
    }
}

#[test]
fn only_what_lowers_knows_kernels() {
    for folder in ["src/reference/", "src/gemma/", "src/flow/", "src/profile/", "src/embed/"] {
        never(folder, &["kernel"], imports);
    }
}

/// The modules at the crate's root that a source names.
fn crate_modules(text: &str) -> BTreeSet<String> {
    let first =
        |path: &str| path.trim().split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default().to_string();
    let mut found: BTreeSet<String> = text.match_indices("crate::").map(|(at, path)| first(&text[at + path.len()..])).collect();
    for (at, head) in text.match_indices("use crate::{") {
        let mut depth = 0;
        let mut item = String::new();
        for c in text[at + head.len()..].chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => _ = found.insert(first(&std::mem::take(&mut item))),
                _ => item.push(c),
            }
            depth += i32::from(c == '{') - i32::from(c == '}');
        }
        found.insert(first(&item));
    }
    found
}

#[test]
fn building_a_graph_reads_no_weight() {
    for folder in ["src/gemma/", "src/flow/"] {
        never(folder, &["read_bytes", "read_f32", "to_f32"], str::to_owned);
    }
}

#[test]
fn nothing_prints_reads_the_environment_or_keeps_module_state() {
    for (path, text) in library() {
        for (number, line) in text.lines().enumerate() {
            let at = format!("{path}:{}: {line}", number + 1);
            for forbidden in ["println!", "eprintln!", "print!", "eprint!", "dbg!", "stdout", "stderr"] {
                assert!(!mentions(line, forbidden), "{at}");
            }
            for forbidden in ["env::", "env!", "option_env!", "thread_local!", "LazyLock", "lazy_static"] {
                assert!(!mentions(line, forbidden), "{at}");
            }
            for forbidden in ["todo!", "unimplemented!"] {
                assert!(!mentions(line, forbidden), "{at}");
            }
            let item = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            assert!(!item.starts_with("static "), "{at}");
        }
    }
}

#[test]
fn what_a_browser_lacks_has_its_module() {
    let elsewhere = |path: &str| !["src/platform/", "src/hub/"].iter().any(|folder| path.starts_with(folder));
    for (path, text) in library().into_iter().filter(|(path, _)| elsewhere(path)) {
        for lacking in
            ["thread::scope", "thread::Builder", "thread::spawn", "thread::sleep", "available_parallelism", "SystemTime::now"]
        {
            assert!(!text.contains(lacking), "{path} has {lacking}");
        }
        assert!(!mentions(&text, "Instant") || mentions(&imports(&text), "platform"), "{path} has a clock of its own");
    }
}

#[test]
fn files_have_a_bearable_length() {
    for folder in ["src", "tests", "examples"] {
        for (path, text) in files(folder, "rs") {
            assert!(text.lines().count() <= 600, "{path} has {} lines", text.lines().count());
        }
    }
}

#[test]
fn every_shader_is_used() {
    let composed: BTreeSet<String> = files("src", "rs").iter().flat_map(|(_, text)| quoted(text)).collect();
    for (path, _) in files("shaders", "wgsl") {
        let name = path.trim_start_matches("shaders/");
        let kernel = name.trim_end_matches(".wgsl");
        // Composed by name, included whole, or a fragment that another shader includes.
        let by_name = composed.contains(kernel);
        let whole = composed.iter().any(|literal| literal.ends_with(&format!("shaders/{name}")));
        let fragment =
            files("shaders", "wgsl").iter().any(|(other, text)| *other != path && text.contains(&format!("#include {name}\n")));
        // Included by an option, which is a name in the sources.
        let (folder, stem) = kernel.rsplit_once('/').unwrap_or_default();
        let by_option = composed.contains(stem)
            && files("shaders", "wgsl").iter().any(|(_, text)| text.contains(&format!("#include {folder}/${{")));
        assert!(by_name || whole || fragment || by_option, "nothing uses {path}");
    }
}

/// The text literals of a source.
fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}
