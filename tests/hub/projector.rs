//! Projectors of GGUF models: which one comes, when, and from where.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use gemmaflow::{
    Error,
    error::HubError,
    hub::{HubOptions, download_with_projector},
};

use crate::{
    COMMIT, Case, REPOSITORY, ROOT,
    server::{Fault, Hub},
    transfer_error,
};

const TEXT: &str = "tiny-Q4_K_M.gguf";
const PROJECTOR: &str = "mmproj-F16.gguf";

/// A hub with a text model and these projectors, whose contents differ.
fn with(projectors: &[&str]) -> Case {
    let text = fs::read(Path::new(ROOT).join("tests/data/gguf/gemma3-s-iq4_nl/model.gguf")).unwrap();
    let bytes = fs::read(Path::new(ROOT).join("tests/data/multimodal/gemma3-vision/mmproj.gguf")).unwrap();
    let of = |name: &&str| (name.to_string(), [&bytes, name.as_bytes()].concat());
    Case::new(Hub::new(projectors.iter().map(of).chain([(TEXT.to_string(), text)])))
}

fn name(file: &str) -> String {
    format!("{REPOSITORY}/{file}")
}

fn get_with(case: &Case, file: &str, options: HubOptions) -> Result<(PathBuf, Option<PathBuf>), Error> {
    case.seen.lock().unwrap().clear();
    download_with_projector(&name(file).parse()?, options)
}

fn get(case: &Case, file: &str) -> Result<(PathBuf, Option<PathBuf>), Error> {
    get_with(case, file, case.options())
}

fn offline(case: &Case, file: &str) -> Result<(PathBuf, Option<PathBuf>), Error> {
    get_with(case, file, HubOptions { offline: true, ..case.options() })
}

/// The files that a snapshot has.
fn files(case: &Case) -> Vec<String> {
    let snapshot = case.cache().join("models--some-one--tiny.model/snapshots").join(COMMIT);
    let below = |path: PathBuf| Some(path.strip_prefix(&snapshot).ok()?.to_str()?.replace('\\', "/"));
    let mut found: Vec<String> = case.tree().into_iter().filter_map(below).collect();
    found.sort();
    found
}

#[test]
fn it_comes_where_it_is_asked_for_and_not_by_default() {
    let case = with(&[PROJECTOR]);
    let text = case.get_named(&name(TEXT)).unwrap();
    assert_eq!(files(&case), [TEXT]);
    assert_eq!(case.starts().len(), 1);
    assert_eq!(offline(&case, TEXT).unwrap(), (text.clone(), None));

    case.hub.forget();
    let (path, projector) = get(&case, TEXT).unwrap();
    let projector = projector.unwrap();
    assert_eq!((path, projector.clone()), (text.clone(), text.with_file_name(PROJECTOR)));
    assert!(fs::read(&projector).unwrap() == case.bytes(PROJECTOR));
    assert_eq!(case.starts().len(), 1, "the text was there");
    let total = case.bytes(PROJECTOR).len() as u64;
    assert_eq!(case.seen.lock().unwrap().last().map(|progress| (progress.done, progress.total)), Some((total, total)));

    // Both at once are counted together.
    let case = with(&[PROJECTOR]);
    get(&case, TEXT).unwrap();
    let total = (case.bytes(PROJECTOR).len() + case.bytes(TEXT).len()) as u64;
    assert_eq!(case.seen.lock().unwrap().last().map(|progress| (progress.done, progress.total)), Some((total, total)));
}

#[test]
fn of_several_the_one_of_llama_cpp_comes_alone() {
    let all = ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf", "q/mmproj-F32.gguf"];
    for (count, expected) in [(5, all[3]), (3, all[0]), (1, all[0])] {
        let case = with(&all[..count]);
        let (path, projector) = get(&case, TEXT).unwrap();
        assert_eq!(projector, Some(path.with_file_name(expected)));
        assert_eq!(files(&case), [expected, TEXT]);
    }
    // Another that was fetched before changes nothing, and stays.
    let case = with(&all);
    case.get_named(&name(all[1])).unwrap();
    let (path, projector) = get(&case, TEXT).unwrap();
    assert_eq!(projector, Some(path.with_file_name(all[3])));
    assert_eq!(files(&case), [all[1], all[3], TEXT]);
    assert_eq!(offline(&case, TEXT).unwrap(), (path, projector));
}

#[test]
fn one_of_a_folder_above_comes_to_its_own_place() {
    let case = with(&["mmproj-F16.gguf", "other/mmproj-F16.gguf"]);
    let text = case.bytes(TEXT);
    for part in ["q/x-Q8_0-00001-of-00002.gguf", "q/x-Q8_0-00002-of-00002.gguf"] {
        case.hub.state().files.insert(part.into(), text.clone());
    }
    let first = "q/x-Q8_0-00001-of-00002.gguf";
    let (path, projector) = get(&case, first).unwrap();
    let root = path.parent().and_then(Path::parent).unwrap();
    assert_eq!(projector, Some(root.join("mmproj-F16.gguf")));
    assert_eq!(files(&case).len(), 3);
    assert_eq!(offline(&case, first).unwrap(), (path, projector));
}

#[test]
fn a_repository_without_one_has_the_text_alone() {
    let case = with(&["other/mmproj-F16.gguf", "mmproj.json", "vision.gguf"]);
    let (path, projector) = get(&case, TEXT).unwrap();
    assert_eq!((projector, files(&case)), (None, vec![TEXT.to_string()]));
    assert_eq!(offline(&case, TEXT).unwrap(), (path, None));
    // A checkpoint has its own towers.
    let case = Case::small();
    let bytes = case.bytes("config.json");
    case.hub.state().files.insert(PROJECTOR.into(), bytes);
    let (folder, projector) = download_with_projector(&REPOSITORY.parse().unwrap(), case.options()).unwrap();
    assert!(projector.is_none() && !folder.join(PROJECTOR).exists());
}

#[test]
fn the_cache_serves_where_the_hub_is_away() {
    let case = with(&[PROJECTOR, "mmproj-F32.gguf"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = || get_with(&case, TEXT, HubOptions { endpoint: format!("http://{nobody}"), ..case.options() });
    transfer_error(away().map(|(path, _)| path), "the list of files");
    let text = case.get_named(&name(TEXT)).unwrap();
    assert_eq!(away().unwrap(), (text.clone(), None));

    // Of two that are there the same one is taken as from the hub.
    case.get_named(&name("mmproj-F32.gguf")).unwrap();
    assert_eq!(away().unwrap().1, Some(text.with_file_name("mmproj-F32.gguf")));
    let both = get(&case, TEXT).unwrap();
    assert_eq!(both, (text.clone(), Some(text.with_file_name(PROJECTOR))));
    assert_eq!(away().unwrap(), both);
    // A link to nothing is no file.
    fs::remove_file(case.blob(PROJECTOR)).unwrap();
    assert_eq!(away().unwrap().1, Some(text.with_file_name("mmproj-F32.gguf")));
    fs::remove_file(&text).unwrap();
    assert!(matches!(offline(&case, TEXT), Err(Error::Hub(HubError::Offline { .. }))));
}

#[test]
fn one_that_was_interrupted_goes_on_in_the_next_run() {
    let case = with(&[PROJECTOR]);
    case.get_named(&name(TEXT)).unwrap();
    let bytes = case.bytes(PROJECTOR);
    case.hub.state().faults.extend([Fault::Cut(10_000), Fault::Drop]);
    transfer_error(get(&case, TEXT).map(|(path, _)| path), PROJECTOR);
    assert!(fs::read(case.part(PROJECTOR)).unwrap() == bytes[..10_000]);
    assert_eq!(offline(&case, TEXT).unwrap().1, None, "half a file is none");

    case.hub.forget();
    let (_, projector) = get(&case, TEXT).unwrap();
    assert_eq!(case.starts(), [10_000]);
    assert!(fs::read(projector.unwrap()).unwrap() == bytes);
    // Nor is one with other bytes.
    let case = with(&[PROJECTOR]);
    case.get_named(&name(TEXT)).unwrap();
    case.hub.state().faults.push_back(Fault::OtherBytes);
    transfer_error(get(&case, TEXT).map(|(path, _)| path), "SHA-256");
    assert_eq!(offline(&case, TEXT).unwrap().1, None);
}

#[test]
fn hostile_names_are_never_asked_for() {
    let names =
        ["../mmproj-evil.gguf", "/mmproj-evil.gguf", "../../../mmproj-evil.gguf", "C:mmproj-evil.gguf", "..\\mmproj-evil.gguf"];
    let case = with(&names);
    let (_, projector) = get(&case, TEXT).unwrap();
    assert_eq!((projector, files(&case)), (None, vec![TEXT.to_string()]));
    let mut state = case.hub.state();
    assert!(state.asked.iter().chain(&state.fetched).all(|request| !request.path.contains("evil")));
    // They do not stand in the way of a plain one.
    let bytes = state.files[names[0]].clone();
    state.files.insert(PROJECTOR.into(), bytes);
    drop(state);
    assert!(get(&case, TEXT).unwrap().1.unwrap().ends_with(PROJECTOR));
    assert!(case.tree().iter().all(|path| path.starts_with(case.cache())), "{:?}", case.tree());
}
