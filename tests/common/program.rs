//! Where the examples are.

use std::path::PathBuf;

/// `cargo test` builds the examples beside the tests; with `--test` it does not.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION)
}
