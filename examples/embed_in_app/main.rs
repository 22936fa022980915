//! A program that draws with wgpu and lets a Gemma model write into its picture, both on one device.

#[path = "../common/mod.rs"]
mod common;
mod frames;
mod page;
mod picture;
#[cfg(feature = "window")]
mod window;
mod writer;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use frames::{Beside, Frames};
use gemmaflow::runtime::wgpu;
use page::{Page, Style};
use picture::Picture;
use writer::{Job, News, Writer};

/// The picture in pixels.
const SIZE: [u32; 2] = [640, 360];
/// How often a frame is begun where no window sets the pace.
const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// Draws an animation on a device of its own, lets a Gemma model generate on the same device, and shows the text in the
/// picture.
///
/// Without --window the frames go to a texture, sixty a second, and the last one to a file.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json, tokenizer.json and safetensors weights, a .gguf file, or OWNER/NAME[/FILE.gguf] on the
    /// Hugging Face Hub
    #[arg(long, value_name = "DIR", default_value = common::DEMO, hide_default_value = true)]
    model: PathBuf,
    /// Random weights of a released model's shape instead, such as gemma-3-1b; the text means nothing
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    shape: Option<String>,
    /// Of a shape only the first N layers
    #[arg(long, value_name = "N", requires = "shape")]
    layers: Option<usize>,
    /// Ask the model this of the picture that was just drawn; for models that see
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt", "shape"])]
    ask: Option<String>,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "ROMEO:\n", hide_default_value = true)]
    prompt: String,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 120)]
    tokens: usize,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// About how many milliseconds a submit of the model may take [default: a whole run is one submit]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    submit_ms: Option<f64>,
    /// Weights of more mebibytes are cut into several dispatches, as the least that a submit can hold is one
    #[arg(long, value_name = "MIB")]
    max_binding: Option<u64>,
    /// Most frames [default: until the text is done]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Frames before the text begins, to compare with
    #[arg(long, value_name = "N", default_value_t = 60)]
    idle: usize,
    /// Write the last frame to this PNG file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the times of all frames to this file
    #[arg(long, value_name = "FILE")]
    frames_csv: Option<PathBuf>,
    /// Draw in a window; needs the cargo feature `window`
    #[arg(long, conflicts_with_all = ["out", "frames"])]
    window: bool,
}

impl Arguments {
    fn job(&self) -> Result<Job> {
        let submit_time = match self.submit_ms {
            Some(ms) => Some(Duration::try_from_secs_f64(ms / 1e3).with_context(|| format!("--submit-ms {ms}"))?),
            None => None,
        };
        let shape = self.shape.clone();
        let prompt = self.ask.clone().unwrap_or(self.prompt.clone());
        let layers = self.layers;
        let tokens = self.tokens;
        let seed = self.seed;
        let max_binding = self.max_binding.map(|mebibytes| mebibytes << 20);
        Ok(Job { model: self.model.clone(), shape, layers, prompt, tokens, seed, submit_time, max_binding })
    }
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if !arguments.window {
        return headless(&arguments);
    }
    #[cfg(feature = "window")]
    return window::run(&arguments);
    #[cfg(not(feature = "window"))]
    bail!("--window: build with --features window");
}

/// The picture, what is written into it, and how long its frames took.
struct App {
    picture: Picture,
    page: Page,
    frames: Frames,
    start: Instant,
    writer: Writer,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Loading,
    /// The model is ready; so many frames were drawn since.
    Idle(usize),
    Writing,
    Done(usize, Duration),
}

impl App {
    fn new(picture: Picture, writer: Writer) -> Self {
        let (start, page) = (Instant::now(), Page::new(SIZE));
        Self { picture, page, frames: Frames::new(), start, writer, state: State::Loading }
    }

    /// Takes what the writer has said since the last frame.
    fn listen(&mut self, arguments: &Arguments) -> Result<()> {
        loop {
            match self.writer.events.try_recv() {
                Ok(News::Ready) => self.state = State::Idle(0),
                Ok(News::Text(text)) => self.page.push(&text, Style::Body),
                Ok(News::Done(tokens, time)) => self.state = State::Done(tokens, time),
                Err(TryRecvError::Empty) => break,
                // It has ended, with an error unless it was done; `finish` tells.
                Err(TryRecvError::Disconnected) if matches!(self.state, State::Done(..)) => break,
                Err(TryRecvError::Disconnected) => bail!("the text ended early"),
            }
        }
        if self.state == State::Idle(arguments.idle) {
            self.state = State::Writing;
            let shown = arguments.ask.as_ref().map(|_| self.picture_of_now());
            if arguments.tokens > 0 {
                self.page.push(arguments.ask.as_ref().unwrap_or(&arguments.prompt), Style::Prompt);
            }
            self.writer.begin(shown);
        }
        Ok(())
    }

    /// Draws one frame to `target` and waits until the device has done so.
    fn frame(&mut self, target: &wgpu::TextureView) -> Result<()> {
        let begun = Instant::now();
        self.page.set_note(format!("frame {} on the device that writes", self.frames.count()));
        let cells = self.page.cells();
        let submission = self.picture.draw(target, self.start.elapsed().as_secs_f32(), &cells);
        self.picture.wait(submission)?;
        match &mut self.state {
            State::Idle(drawn) => {
                *drawn += 1;
                self.frames.note(Beside::Nothing, begun);
            }
            State::Writing => self.frames.note(Beside::Generating, begun),
            State::Loading | State::Done(..) => {}
        }
        Ok(())
    }

    /// A texture with the animation as it is now.
    fn picture_of_now(&self) -> wgpu::Texture {
        let canvas = self.picture.canvas();
        let view = canvas.create_view(&wgpu::TextureViewDescriptor::default());
        self.picture.draw(&view, self.start.elapsed().as_secs_f32(), &[]);
        canvas
    }

    /// Ends the text and says how it went; `outcome` is that of the drawing.
    fn finish(mut self, outcome: Result<()>, arguments: &Arguments) -> Result<()> {
        // What went wrong in the thread says more.
        self.writer.finish()?;
        outcome?;
        if let Some(path) = &arguments.frames_csv {
            self.frames.write_csv(path)?;
        }
        eprintln!("idle:        {}", self.frames.summary(Beside::Nothing));
        eprintln!("generating:  {}", self.frames.summary(Beside::Generating));
        if let State::Done(tokens, time) = self.state {
            let rate = common::rate(tokens, time).map_or("-".into(), |rate| format!("{rate:.1} tokens/s"));
            eprintln!("text:        {tokens} tokens, {rate}");
        }
        Ok(())
    }
}

fn headless(arguments: &Arguments) -> Result<()> {
    let job = arguments.job()?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let own = picture::open(&instance, None)?;
    let picture = Picture::new(&own, picture::FORMAT, SIZE);
    let canvas = picture.canvas();
    let view = canvas.create_view(&wgpu::TextureViewDescriptor::default());
    let mut app = App::new(picture, Writer::start(own, job));
    let mut drawn = 0;
    let outcome = loop {
        let begun = Instant::now();
        let step = app.listen(arguments).and_then(|()| app.frame(&view));
        drawn += usize::from(app.state != State::Loading);
        if step.is_err() || matches!(app.state, State::Done(..)) || Some(drawn) == arguments.frames {
            break step;
        }
        std::thread::sleep(FRAME.saturating_sub(begun.elapsed()));
    };
    let outcome = outcome.and_then(|()| match &arguments.out {
        Some(path) => write_png(path, &app.picture.read(&canvas)?),
        None => Ok(()),
    });
    app.finish(outcome, arguments)
}

fn write_png(path: &Path, pixels: &[u8]) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), SIZE[0], SIZE[1]);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}
