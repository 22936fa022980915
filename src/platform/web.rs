//! A browser: one thread, which may not block, and no files. On other systems the tests alone have it.

use std::{
    fs::File,
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

#[cfg(target_arch = "wasm32")]
pub(crate) use web_time::Instant;

/// True if a thread may wait for the device.
pub(crate) const BLOCKS: bool = false;

/// What `future` resolves to, if it is ready now; else it is dropped.
pub(crate) fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Seconds since 1970; 0 before.
#[cfg(all(feature = "tokenizer", target_arch = "wasm32"))]
pub(crate) fn now() -> u64 {
    let since = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Threads that run at once.
pub(crate) fn cores() -> usize {
    1
}

/// Runs `work` on the stack there is.
///
/// # Errors
/// None here.
#[cfg(feature = "tokenizer")]
pub(crate) fn with_stack<T: Send>(_bytes: usize, work: impl FnOnce() -> T + Send) -> io::Result<thread::Result<T>> {
    Ok(Ok(work()))
}

/// Runs `work` once.
pub(crate) fn on_threads<T: Send>(_extra: usize, work: impl Fn() -> T + Sync) -> (T, Vec<thread::Result<T>>) {
    (work(), Vec::new())
}

/// Runs `work` and leaves `other` out.
pub(crate) fn beside<T>(_other: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    work()
}

/// Goes on at once.
pub(crate) fn pause(_time: Duration) {}

/// Starts nothing.
///
/// # Errors
/// [`Unsupported`](io::ErrorKind::Unsupported).
pub(crate) fn spawn(_name: &str, _work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "a browser has one thread"))
}

/// Says that there are no files.
///
/// # Errors
/// [`Unsupported`](io::ErrorKind::Unsupported), with what to do.
pub(crate) fn check_files() -> io::Result<()> {
    let problem = "a browser has no file system: give the model's files as gemmaflow::files::Files, and Files::at for a path";
    Err(io::Error::new(io::ErrorKind::Unsupported, problem))
}

/// As [`check_files`].
///
/// # Errors
/// As [`check_files`].
pub(crate) fn read_exact_at(_file: &File, _out: &mut [u8], _offset: u64) -> io::Result<()> {
    check_files()
}
