//! Counts of the runtime's requests to the device.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Running totals of one [`super::GpuContext`]. Cheap to bump from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    buffers_created: AtomicU64,
    buffers_live: AtomicU64,
    bytes_live: AtomicU64,
    pipelines_created: AtomicU64,
    bind_groups_created: AtomicU64,
    submits: AtomicU64,
    bytes_read_back: AtomicU64,
    bytes_uploaded: AtomicU64,
    nanos_waited: AtomicU64,
}

/// The values of a device's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterSnapshot {
    /// Buffers created since the device was opened.
    pub buffers_created: u64,
    /// Buffers that exist now.
    pub buffers_live: u64,
    /// Bytes of the buffers that exist now.
    pub bytes_live: u64,
    /// Compute pipelines created since the device was opened.
    pub pipelines_created: u64,
    /// Bind groups created since the device was opened.
    pub bind_groups_created: u64,
    /// Queue submits.
    pub submits: u64,
    /// Bytes copied from the device to the host.
    pub bytes_read_back: u64,
    /// Bytes copied from the host to the device.
    pub bytes_uploaded: u64,
    /// Nanoseconds that threads were blocked until the device was done; the rest of a step's time is the host's own.
    pub nanos_waited: u64,
}

impl Counters {
    /// The values now.
    pub fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            buffers_created: self.buffers_created.load(Relaxed),
            buffers_live: self.buffers_live.load(Relaxed),
            bytes_live: self.bytes_live.load(Relaxed),
            pipelines_created: self.pipelines_created.load(Relaxed),
            bind_groups_created: self.bind_groups_created.load(Relaxed),
            submits: self.submits.load(Relaxed),
            bytes_read_back: self.bytes_read_back.load(Relaxed),
            bytes_uploaded: self.bytes_uploaded.load(Relaxed),
            nanos_waited: self.nanos_waited.load(Relaxed),
        }
    }

    /// Counts a buffer that is about to be made, unless all would then have more than `most` bytes.
    pub(crate) fn admit(&self, bytes: u64, most: u64) -> bool {
        let sum = |live: u64| live.checked_add(bytes).filter(|sum| *sum <= most);
        let admitted = self.bytes_live.fetch_update(Relaxed, Relaxed, sum).is_ok();
        self.buffers_live.fetch_add(u64::from(admitted), Relaxed);
        admitted
    }

    pub(crate) fn buffer_created(&self) {
        self.buffers_created.fetch_add(1, Relaxed);
    }

    pub(crate) fn buffer_dropped(&self, bytes: u64) {
        self.buffers_live.fetch_sub(1, Relaxed);
        self.bytes_live.fetch_sub(bytes, Relaxed);
    }

    pub(crate) fn pipeline_created(&self) {
        self.pipelines_created.fetch_add(1, Relaxed);
    }

    pub(crate) fn bind_group_created(&self) {
        self.bind_groups_created.fetch_add(1, Relaxed);
    }

    pub(crate) fn submitted(&self) {
        self.submits.fetch_add(1, Relaxed);
    }

    pub(crate) fn read_back(&self, bytes: u64) {
        self.bytes_read_back.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn uploaded(&self, bytes: u64) {
        self.bytes_uploaded.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn waited(&self, time: std::time::Duration) {
        self.nanos_waited.fetch_add(time.as_nanos() as u64, Relaxed);
    }
}
