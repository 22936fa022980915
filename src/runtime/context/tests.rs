//! A native device as a browser would have it, for tests.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake},
    time::Duration,
};

use super::GpuContext;
use crate::{
    platform::Instant,
    runtime::{Device, GpuOptions, Opened},
};

/// No future of a test takes longer.
const MOST: Duration = Duration::from_secs(120);

/// Set by what a future waits for.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl GpuContext {
    /// The same device where nothing may block.
    pub(crate) fn without_blocking(self: Arc<Self>) -> Option<Arc<Self>> {
        let mut context = Arc::into_inner(self)?;
        context.blocks = false;
        context.capabilities.timestamps = false;
        Some(Arc::new(context))
    }

    /// A device of this machine where nothing may block.
    pub(crate) fn unblocking() -> Arc<Self> {
        match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
            Opened::Gpu(context) => context.without_blocking().expect("nobody else has it"),
            Opened::Reference => panic!("Device::Gpu opened the reference"),
        }
    }

    /// What `future` resolves to where it is looked at when it was woken, and callbacks come in between.
    pub(crate) fn drive<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = woken.clone().into();
        let start = Instant::now();
        loop {
            if woken.0.swap(false, SeqCst)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            self.device.poll(wgpu::PollType::Poll).expect("a device that is there");
            assert!(start.elapsed() < MOST, "nothing woke the future");
        }
    }
}
