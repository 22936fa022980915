//! The choice among projectors of a repository, and names that are no plain paths.

use super::*;

fn chosen(files: &[&str], text: &str) -> Option<String> {
    let mut files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
    let found = choose(&files, text);
    files.reverse();
    assert_eq!(choose(&files, text), found, "the order of a listing decides nothing");
    found
}

#[test]
fn bits_are_those_that_names_tell() {
    let table = [
        ("gemma-3-4b-it-Q4_K_M.gguf", 4),
        ("q/gemma-3-4b-it-UD-IQ2_XXS.gguf", 2),
        ("mmproj-BF16.gguf", 16),
        ("MMPROJ-F32.GGUF", 32),
        ("gemma-3-4b-it.mmproj-Q8_0.gguf", 8),
        ("x-Q6_K-00001-of-00002.gguf", 6),
        ("gemma-3-4b-it.gguf", 0),
        ("Q8_0/model.gguf", 0),
        ("mmproj-F99999999999.gguf", 0),
        ("mmproj-é4.gguf", 4),
        ("x-.gguf", 0),
    ];
    for (file, expected) in table {
        assert_eq!(bits(file), expected, "{file}");
    }
}

#[test]
fn the_nearest_precision_is_taken_and_then_the_first_by_name() {
    let all = ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf", "x-F16.gguf"];
    let of = |files: &[&str], text| chosen(files, text).unwrap();
    assert_eq!(of(&all, "x-Q4_K_M.gguf"), "mmproj-Q8_0.gguf");
    assert_eq!(of(&all[..3], "x-Q4_K_M.gguf"), "mmproj-BF16.gguf");
    assert_eq!(of(&all[1..3], "x-Q4_K_M.gguf"), "mmproj-F16.gguf");
    assert_eq!(of(&all, "x-F32.gguf"), "mmproj-F32.gguf");
    assert_eq!(of(&["a.MMPROJ-F16.GGUF"], "x.gguf"), "a.MMPROJ-F16.GGUF");
    assert_eq!(chosen(&["mmproj-F16.gguf.part", "vision.gguf", "mmproj/x.gguf", "mmproj.json"], "x.gguf"), None);
    assert_eq!(chosen(&["mmproj-F16-00001-of-00002.gguf"], "x.gguf"), None);
    assert_eq!(chosen(&["mmproj-F16.gguf"], "mmproj-BF16.gguf"), None);
}

#[test]
fn the_nearest_folder_is_taken_and_no_other_than_those_above() {
    let files = ["mmproj-Q4_0.gguf", "a/mmproj-F16.gguf", "a/b/mmproj-F32.gguf", "ab/mmproj-F16.gguf"];
    assert_eq!(chosen(&files, "a/b/x-Q4_0.gguf").unwrap(), files[2]);
    assert_eq!(chosen(&files, "a/c/x-Q4_0.gguf").unwrap(), files[1]);
    assert_eq!(chosen(&files, "abc/x-Q4_0-00001-of-00002.gguf").unwrap(), files[0]);
    assert_eq!(chosen(&files[1..], "x-Q4_0.gguf"), None);
}

#[test]
fn names_with_a_way_out_are_never_taken() {
    let names = ["../mmproj.gguf", "/mmproj.gguf", "a/../mmproj.gguf", "C:mmproj.gguf", "..\\mmproj.gguf", "mmproj\n.gguf"];
    for name in names {
        for text in ["x.gguf", "a/x.gguf", "a/b/x.gguf"] {
            assert_eq!(chosen(&[name], text), None, "{name:?}");
        }
    }
}
