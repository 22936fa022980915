//! The cache without the hub.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{COMMIT, Case, REPOSITORY, WEIGHTS};

#[test]
fn offline_names_the_file_and_touches_nothing() {
    let case = Case::small();
    let text = case.offline().unwrap_err().to_string();
    for expected in ["config.json", REPOSITORY, "offline", "HF_HUB_OFFLINE", case.cache().to_str().unwrap()] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(case.tree().is_empty() && !case.cache().exists());
    assert!(case.hub.state().asked.is_empty());

    // One file of a model that was whole.
    let folder = case.get().unwrap();
    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    assert!(case.offline().unwrap_err().to_string().contains(WEIGHTS));
    // The content is still there, and is not fetched again.
    case.hub.forget();
    case.is_whole(&case.get().unwrap());
    assert_eq!(case.starts().len(), 0);
    // A link to nothing is no file.
    fs::remove_file(case.blob(WEIGHTS)).unwrap();
    assert!(case.offline().is_err());
    case.is_whole(&case.get().unwrap());
}

#[test]
fn the_commit_that_the_cache_names_is_no_path() {
    let case = Case::small();
    let folder = case.get().unwrap();
    let main = folder.parent().and_then(Path::parent).unwrap().join("refs/main");
    // Complete models, where other names would lead.
    let elsewhere = TempDir::new().unwrap();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), elsewhere.path().join(file.file_name())).unwrap();
    }
    for name in [elsewhere.path().to_str().unwrap(), &format!("../snapshots/{COMMIT}"), &format!("{COMMIT}/."), ""] {
        fs::write(&main, name).unwrap();
        assert!(case.offline().is_err(), "{name}");
    }
    // An editor ends a file with a line break.
    fs::write(&main, format!("{COMMIT}\n")).unwrap();
    assert_eq!(case.offline().unwrap(), folder);
}
