//! Systems with threads and files.

use std::{fs::File, future::Future, io, thread, time::Duration};

pub(crate) use std::time::Instant;

/// True if a thread may wait for the device.
pub(crate) const BLOCKS: bool = true;

/// What `future` resolves to, waited for; always there.
pub(crate) fn at_once<F: Future>(future: F) -> Option<F::Output> {
    Some(pollster::block_on(future))
}

/// Seconds since 1970; 0 before.
#[cfg(feature = "tokenizer")]
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Threads that run at once; 1 where the system does not say.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `work` on a thread with a stack of so many bytes. What it panicked with is the inner error.
///
/// # Errors
/// The system's, where it makes no thread.
#[cfg(feature = "tokenizer")]
pub(crate) fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> io::Result<thread::Result<T>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work);
        thread.map(|thread| thread.join())
    })
}

/// Runs `work` on this thread and on `extra` others: what it gave here, and what it gave or panicked with there.
pub(crate) fn on_threads<T: Send>(extra: usize, work: impl Fn() -> T + Sync) -> (T, Vec<thread::Result<T>>) {
    thread::scope(|scope| {
        let others: Vec<_> = (0..extra).map(|_| scope.spawn(&work)).collect();
        let own = work();
        (own, others.into_iter().map(|thread| thread.join()).collect())
    })
}

/// Runs `work` while another thread runs `other`, and ends when both have. Without another thread `other` is left out.
pub(crate) fn beside<T>(other: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, other);
        let worked = work();
        drop(thread);
        worked
    })
}

/// Keeps this thread from going on for a while.
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// Starts a thread that nobody joins.
///
/// # Errors
/// The system's, where it makes no thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Fails where there are no files.
///
/// # Errors
/// None here.
pub(crate) fn check_files() -> io::Result<()> {
    Ok(())
}

/// Fills `out` with the bytes of `file` at `offset`.
///
/// # Errors
/// The system's; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where the file ends before that.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// As on other systems.
///
/// # Errors
/// The system's; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where the file ends before that.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = &mut out[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
