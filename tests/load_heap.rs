//! What loading takes of the host's heap. A binary of one test, as it counts the whole process.

#[path = "common/heap.rs"]
mod heap;

use std::path::Path;

use gemmaflow::{
    checkpoint::load_from_path,
    gemma::{GemmaConfig, GemmaFlow},
    runtime::{Device, Session},
};

#[test]
fn mistake_29_a_whole_file_in_memory() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    let size = std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as usize;
    let session = Session::new(&Device::Gpu).expect("a GPU adapter (lavapipe will do)");
    let before = heap::restart();
    let config = GemmaConfig::from_file(folder).unwrap();
    let built = GemmaFlow::resident(&config).lm_head().build(load_from_path(folder).unwrap().as_mut()).unwrap();
    let graphs = heap::peak() - before;
    println!("{graphs} bytes of heap for a graph over {size} bytes of weights");
    assert!(graphs < size / 8, "{graphs} of {size}: building a graph reads no weight");
    let before = heap::restart();
    let weights = session.load(&built.params).unwrap();
    let upload = heap::peak() - before;
    // The driver is in this process too, and its memory for the device is not Rust's.
    println!("{upload} bytes of heap to upload them");
    assert!(upload < size / 2, "{upload} of {size}: weights go from the map to the device through a small ring");
    drop(weights);
}
