//! Parts of the examination, each on a thread of its own within its share of the time.

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use gemmaflow::generate::CancelToken;
use indicatif::ProgressBar;

use crate::report::{Part, Report, without_folders};

/// What is said of what there was no time for.
pub const NOT_REACHED: &str = "not reached in time";

/// The report and where it is written.
pub struct Record {
    report: Mutex<Report>,
    path: PathBuf,
    /// The number of the part that may write.
    current: AtomicUsize,
    bar: ProgressBar,
}

impl Record {
    /// A record that writes to `folder`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn new(report: Report, folder: &Path, bar: ProgressBar) -> Result<Arc<Self>> {
        let path = folder.join("report.json");
        let record = Self { report: Mutex::new(report), path, current: AtomicUsize::new(0), bar };
        record.write()?;
        Ok(Arc::new(record))
    }

    /// The report as it is.
    pub fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the report as it is.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&*self.report())?;
        text.push('\n');
        std::fs::write(&self.path, text)
            .map_err(|e| anyhow!("{}: {e}; give a folder that can be written to with --out", self.path.display()))
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.report();
        change(&mut report);
        report.count();
    }
}

/// What a part has: its share of the time, and the report.
#[derive(Clone)]
pub struct Scope {
    record: Arc<Record>,
    name: &'static str,
    number: usize,
    end: Instant,
    /// Cancelled when the time is over.
    pub cancel: CancelToken,
}

impl Scope {
    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether the time is over.
    pub fn over(&self) -> bool {
        self.left().is_zero() || self.cancel.is_cancelled()
    }

    /// Says in the file what is under way, before it is done: a driver may end the process.
    pub fn at(&self, what: &str) {
        self.update(|report| report.running = Some(format!("{}: {what}", self.name)));
        self.record.bar.set_message(format!("{}: {what}", self.name));
    }

    /// Changes the report, which is written with the next [`at`](Self::at), unless this part was given up.
    pub fn change(&self, change: impl FnOnce(&mut Report)) {
        if self.is_current() {
            self.record.change(change);
        }
    }

    /// Changes the report and writes it, unless this part was given up.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        if self.is_current() {
            self.record.change(change);
            // The first write has shown that the file can be written; the last one says so where it no longer can.
            self.record.write().ok();
        }
    }

    fn is_current(&self) -> bool {
        self.record.current.load(Relaxed) == self.number
    }
}

/// How much of the time that is left a part may take, and how long it may go on after that before it is given up.
#[derive(Clone, Copy)]
pub struct Share {
    pub of_rest: f64,
    pub grace: Duration,
}

/// Runs a part. What stops it, a panic too, is a line in the report.
pub fn run(
    record: &Arc<Record>,
    rest: Duration,
    share: Share,
    name: &'static str,
    part: impl FnOnce(&Scope) -> Result<()> + Send + 'static,
) -> Part {
    let number = record.current.fetch_add(1, Relaxed) + 1;
    let time = rest.mul_f64(share.of_rest);
    let start = Instant::now();
    let scope = Scope { record: record.clone(), name, number, end: start + time, cancel: CancelToken::new() };
    scope.at("begins");
    let (done, ended) = channel();
    let (inner, cancel) = (scope.clone(), scope.cancel.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| part(&inner)));
        // Nobody listens to a part that was given up.
        done.send(caught.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", said(&*panic))))).ok();
    });
    let outcome = match thread {
        Ok(_) => ended.recv_timeout(time).or_else(|timeout| {
            cancel.cancel();
            if timeout == RecvTimeoutError::Timeout { ended.recv_timeout(share.grace) } else { Err(timeout) }
        }),
        Err(error) => Ok(Err(error.into())),
    };
    let problem = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) if scope.over() => Some(format!("{NOT_REACHED}: {}", without_folders(&error.to_string()))),
        Ok(Err(error)) => Some(without_folders(&error.to_string())),
        Err(_) => Some(format!("given up {:.0} s after its time, at: {}", share.grace.as_secs_f64(), at(record))),
    };
    let part = Part { name, seconds: start.elapsed().as_secs_f64(), problem };
    scope.update(|report| {
        report.running = None;
        report.parts.push(part.clone());
    });
    // From here on a thread that was given up changes nothing.
    record.current.fetch_add(1, Relaxed);
    part
}

fn at(record: &Record) -> String {
    record.report().running.clone().unwrap_or_default()
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
    text.unwrap_or_else(|| "without a message".into())
}
