//! What loading takes of the host's heap. A binary of one test, as it counts the whole process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow},
    runtime::{Device, Session},
    weights::load_from_path,
};

/// Counts the heap of this process, for the mistakes that are copies on the host.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`, which are the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; the memory came from `System` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn mistake_29_a_whole_file_in_memory() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    let size = std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as usize;
    let session = Session::new(&Device::Gpu).expect("a GPU adapter (lavapipe will do)");
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let config = GemmaConfig::from_file(folder).unwrap();
    let built = GemmaFlow::resident(&config).lm_head().build(load_from_path(folder).unwrap().as_mut()).unwrap();
    let graphs = PEAK.load(Relaxed) - before;
    println!("{graphs} bytes of heap for a graph over {size} bytes of weights");
    assert!(graphs < size / 8, "{graphs} of {size}: building a graph reads no weight");
    PEAK.store(LIVE.load(Relaxed), Relaxed);
    let before = LIVE.load(Relaxed);
    let weights = session.load(&built.params).unwrap();
    let upload = PEAK.load(Relaxed) - before;
    // The driver is in this process too, and its memory for the device is not Rust's.
    println!("{upload} bytes of heap to upload them");
    assert!(upload < size / 2, "{upload} of {size}: weights go from the map to the device through a small ring");
    drop(weights);
}
