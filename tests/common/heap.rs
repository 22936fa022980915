//! The heap of this process, counted. For binaries that measure it: the allocator is the whole process's.
#![allow(dead_code)] // Each binary uses a part.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator with a counter of live bytes. Memory that drivers take by other means is not counted.
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

/// Bytes that are live now.
pub fn live() -> usize {
    LIVE.load(Relaxed)
}

/// Most bytes that were live at once since the process or the last [`restart`] began.
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Begins to look for the peak anew; returns the bytes that are live now.
pub fn restart() -> usize {
    PEAK.store(live(), Relaxed);
    live()
}
