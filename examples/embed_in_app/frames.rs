//! How long frames took.

use std::{fmt::Write, path::Path, time::Instant};

use anyhow::{Context, Result};

/// What the device did beside the frame.
#[derive(Clone, Copy, PartialEq)]
pub enum Beside {
    Nothing,
    Generating,
}

struct Frame {
    beside: Beside,
    /// Milliseconds since the first frame.
    at: f64,
    /// Milliseconds.
    took: f64,
}

/// The times of all frames.
pub struct Frames {
    start: Instant,
    frames: Vec<Frame>,
}

impl Frames {
    pub fn new() -> Self {
        Self { start: Instant::now(), frames: Vec::new() }
    }

    /// How many were noted.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// Notes a frame that was begun at `begun` and is done.
    pub fn note(&mut self, beside: Beside, begun: Instant) {
        let (at, took) = (begun.duration_since(self.start), begun.elapsed());
        self.frames.push(Frame { beside, at: at.as_secs_f64() * 1e3, took: took.as_secs_f64() * 1e3 });
    }

    /// Number, median, 95th percentile and worst, in words.
    pub fn summary(&self, beside: Beside) -> String {
        let mut times: Vec<f64> = self.frames.iter().filter(|frame| frame.beside == beside).map(|frame| frame.took).collect();
        times.sort_by(f64::total_cmp);
        let Some(worst) = times.last() else { return "no frame".into() };
        let part = |part: usize| times[(times.len() - 1) * part / 100];
        format!("{} frames, median {:.1} ms, 95 % below {:.1} ms, worst {worst:.1} ms", times.len(), part(50), part(95))
    }

    /// One line a frame: when it began, how long it took, and whether text was generated.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut text = String::from("at_ms,frame_ms,generating\n");
        for Frame { beside, at, took } in &self.frames {
            writeln!(text, "{at:.2},{took:.2},{}", u8::from(*beside == Beside::Generating))?;
        }
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}
