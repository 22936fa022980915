use super::SOURCES;
use crate::ir::Packed;

/// Shaders that are complete as they are and compiled by the module that uses them.
const PLAIN: [&str; 5] =
    ["fill_random.wgsl", "increment.wgsl", "multiply_add.wgsl", "multiply_matrices.wgsl", "read_memory.wgsl"];

#[test]
fn the_table_is_the_folder() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    let mut found = Vec::new();
    for folder in ["", "lib/", "lib/packed/"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".wgsl") && !PLAIN.contains(&name.as_str()) {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found.sort();
    assert_eq!(found, SOURCES.iter().map(|(file, _)| *file).collect::<Vec<_>>());
}

#[test]
fn every_packed_format_has_its_file() {
    let mut named: Vec<_> = Packed::all().map(|format| format!("lib/packed/{}.wgsl", format.name())).collect();
    named.sort();
    let found: Vec<_> = SOURCES.iter().map(|(file, _)| *file).filter(|file| file.starts_with("lib/packed/")).collect();
    assert_eq!(found, named);
}
