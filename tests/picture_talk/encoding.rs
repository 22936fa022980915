//! A tower's run: in bounded submits, cancelled, asked for by several threads, and the memory that it takes.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use gemmaflow::{
    Error,
    audio::{Audio, AudioLimits},
    checkpoint::load_towers_from_path,
    conversation::{Model, Towers},
    gemma::GemmaConfig,
    generate::{CancelToken, GeneratorOptions},
    hearing::AudioEncoder,
    image::Image,
    runtime::{Device, wgpu},
    text::Part,
    vision::{TowerOptions, VisionEncoder},
};
use tempfile::TempDir;

use super::{
    busy::keep_busy,
    shown,
    talk::{conversation, events},
    towers::live,
};

/// A model and its files.
struct Opened {
    _folder: TempDir,
    model: Model,
}

fn open(name: &str, device: Device, submit_time: Option<Duration>) -> Opened {
    let folder = shown::folder(name);
    let options = GeneratorOptions { submit_time, ..GeneratorOptions::default() };
    let model = Model::open(folder.path(), device, options).unwrap();
    Opened { _folder: folder, model }
}

fn submits(model: &Model) -> u64 {
    model.counters().unwrap().submits
}

#[test]
fn a_bounded_run_of_a_tower_is_many_submits_and_the_same_bits() {
    let image = shown::image("gemma3-vision", "two.0.png");
    for name in ["gemma3-vision", "gemma4-vision"] {
        let taken = [None, Some(Duration::from_nanos(1))].map(|submit_time| {
            let opened = open(name, Device::Gpu, submit_time);
            let encoder = opened.model.vision().unwrap();
            let before = submits(&opened.model);
            let soft = encoder.encode(&image).unwrap();
            (soft, submits(&opened.model) - before)
        });
        let [(whole, few), (parts, many)] = taken;
        assert_eq!(whole, parts, "{name}");
        assert!(few <= 3 && many > 20, "{name}: {few} and {many} submits");
    }
}

#[test]
fn encoding_is_cancelled_between_two_submits_and_nothing_is_lost() {
    let [image, other] = ["two.0.png", "two.1.png"].map(|file| shown::image("gemma3-vision", file));
    let expected = open("gemma3-vision", Device::Gpu, None).model.picture(&image).unwrap();
    let opened = open("gemma3-vision", Device::Gpu, Some(Duration::from_nanos(1)));
    let model = &opened.model;
    let cancel = CancelToken::new();
    let encoder = model.vision().unwrap().with_cancel(cancel.clone());
    let before = submits(model);
    keep_busy(&model.gpu().unwrap());
    let mut encoding = Box::pin(encoder.encode_async(&image));
    assert!(encoding.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    cancel.cancel();
    let ended = pollster::block_on(encoding);
    assert!(matches!(ended, Err(Error::Cancelled(_))), "{ended:?}");
    assert!(submits(model) - before < 20, "{} submits", submits(model) - before);
    // Another handle of the same tower goes on.
    assert_eq!(Part::Soft(model.vision().unwrap().encode(&image).unwrap()), expected);
    assert_eq!(Part::Soft(encoder.encode(&image).unwrap()), expected, "what is kept needs no run");
    assert!(matches!(encoder.encode(&other), Err(Error::Cancelled(_))));
    let reference = open("gemma3-vision", Device::Cpu, None);
    let encoder = reference.model.vision().unwrap().with_cancel(cancel);
    assert!(matches!(encoder.encode(&image), Err(Error::Cancelled(_))));
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_wait_for_another_s_picture_ends_when_it_is_cancelled() {
    let [image, other] = ["two.0.png", "two.1.png"].map(|file| shown::image("gemma3-vision", file));
    let opened = open("gemma3-vision", Device::Gpu, Some(Duration::from_nanos(1)));
    let model = &opened.model;
    let encoder = model.vision().unwrap();
    keep_busy(&model.gpu().unwrap());
    let mut encoding = Box::pin(encoder.encode_async(&image));
    assert!(encoding.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let cancel = CancelToken::new();
    let waiter = model.vision_with_cancel(&cancel).unwrap();
    let mut waiting = Box::pin(waiter.encode_async(&other));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut task = Context::from_waker(&waker);
    assert!(waiting.as_mut().poll(&mut task).is_pending());
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    cancel.cancel();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "the task is woken");
    let ended = waiting.as_mut().poll(&mut task);
    assert!(matches!(ended, Poll::Ready(Err(Error::Cancelled(_)))), "{ended:?}");
    // Nobody queues for the tower any more, and the first goes on.
    pollster::block_on(encoding).unwrap();
    encoder.encode(&other).unwrap();
    // A tower that the application has given keeps its own.
    model.set_vision(model.vision_with_cancel(&cancel).unwrap());
    let third = shown::image("gemma3-vision", "one.0.png");
    assert!(matches!(model.picture(&third), Err(Error::Cancelled(_))));
}

#[test]
fn loading_a_tower_is_cancelled_and_begins_anew() {
    let image = shown::image("gemma3-vision", "two.0.png");
    let cancelled = CancelToken::new();
    cancelled.cancel();
    for device in [Device::Gpu, Device::Cpu] {
        let opened = open("gemma3-vision", device.clone(), None);
        let before = opened.model.counters().map(|_| live(&opened.model));
        let ended = opened.model.vision_with_cancel(&cancelled);
        assert!(matches!(ended, Err(Error::Cancelled(_))), "{device}: {ended:?}");
        assert_eq!(opened.model.counters().map(|_| live(&opened.model)), before, "{device}");
        opened.model.picture(&image).unwrap();
    }
    let opened = open("gemma4-audio", Device::Gpu, None);
    assert!(matches!(opened.model.hearing_with_cancel(&cancelled), Err(Error::Cancelled(_))));
    opened.model.hearing().unwrap();
}

#[test]
fn a_future_that_is_dropped_leaves_the_tower_to_others() {
    let image = shown::image("gemma3-vision", "two.0.png");
    let opened = open("gemma3-vision", Device::Gpu, Some(Duration::from_nanos(1)));
    let encoder = opened.model.vision().unwrap();
    keep_busy(&opened.model.gpu().unwrap());
    // It may be polled on any thread.
    let mut encoding: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(encoder.encode_async(&image));
    assert!(encoding.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(encoding);
    let expected = open("gemma3-vision", Device::Gpu, None).model.picture(&image).unwrap();
    assert_eq!(Part::Soft(encoder.encode(&image).unwrap()), expected);
}

#[test]
fn threads_that_ask_for_a_picture_at_once_run_the_tower_once() {
    let [first, second] = ["two.0.png", "two.1.png"].map(|file| shown::image("gemma3-vision", file));
    let [one, four] = [1, 4].map(|threads| {
        let opened = open("gemma3-vision", Device::Gpu, None);
        opened.model.picture(&first).unwrap();
        let encoder = opened.model.vision().unwrap();
        let before = submits(&opened.model);
        std::thread::scope(|scope| {
            let ask = || encoder.encode(&second).unwrap();
            (0..threads).for_each(|_| _ = scope.spawn(ask));
        });
        submits(&opened.model) - before
    });
    assert_eq!(one, four);
}

#[test]
fn a_tower_takes_what_was_planned() {
    let image = shown::image("gemma3-vision", "two.0.png");
    for name in ["gemma3-vision", "gemma4-vision", "gemma3n-vision", "gemma4-unified"] {
        let folder = shown::checkpoint(name);
        let config = GemmaConfig::from_file(&folder).unwrap();
        let opened = open(name, Device::Gpu, None);
        let gpu = opened.model.gpu().unwrap();
        let mut loader = load_towers_from_path(&folder).unwrap();
        let options = TowerOptions::default();
        let plan = VisionEncoder::memory_plan(&config, loader.as_mut(), gpu.capabilities(), None, &options).unwrap();
        let before = live(&opened.model);
        opened.model.picture(&image).unwrap();
        assert_eq!(live(&opened.model) - before, plan.weights + plan.runs, "{name}: {plan:?}");
        assert!(plan.peak() >= plan.weights + plan.runs);
    }
}

#[test]
fn a_budget_of_memory_leaves_room_for_the_towers() {
    let folder = shown::folder("gemma4-vision");
    let image = shown::image("gemma3-vision", "two.0.png");
    let plan = |memory_budget, towers| {
        let options = GeneratorOptions { context: Some(512), memory_budget, ..GeneratorOptions::default() };
        Model::memory_plan(folder.path(), &Device::Gpu, options, towers).unwrap()
    };
    let without = plan(None, Towers::Never);
    let with = plan(None, Towers::Lazy);
    assert_eq!(without.towers, 0);
    assert!(with.towers > 0 && with.peak() > without.peak() && with.to_string().contains("towers"), "{with}");
    let open = |budget, towers| {
        let options = GeneratorOptions { context: Some(512), memory_budget: Some(budget), ..GeneratorOptions::default() };
        Model::open_with_towers(folder.path(), Device::Gpu, options, towers)
    };
    let exact = plan(Some(with.peak()), Towers::Lazy);
    assert!(exact.fits(), "{exact}");
    let model = open(with.peak(), Towers::Lazy).unwrap();
    let mut talk = conversation(&model, 4);
    talk.send([model.picture(&image).unwrap(), "What is this?".into()]).unwrap();
    assert!(!events(&mut talk).is_empty());
    assert!(live(&model) <= with.peak(), "{} of {}", live(&model), with.peak());
    let Err(Error::DoesNotFit(refused)) = open(with.peak() - 1, Towers::Lazy) else { panic!("a byte too little") };
    assert_eq!((refused.towers, refused.budget), (with.towers, Some(with.peak() - 1)));
    open(with.peak() - with.towers, Towers::Never).unwrap();
}

#[test]
fn a_tower_for_sounds_takes_what_was_planned() {
    // This Gemma 3n has nine soft tokens for a clip.
    for (name, samples) in [("gemma4-audio", 480_000), ("gemma3n-audio", 22_400)] {
        let silence = Audio::from_samples(&vec![0.0; samples], 16_000, 1, &AudioLimits::default()).unwrap();
        let folder = shown::checkpoint(name);
        let config = GemmaConfig::from_file(&folder).unwrap();
        let opened = open(name, Device::Gpu, None);
        let mut loader = load_towers_from_path(&folder).unwrap();
        let gpu = opened.model.gpu().unwrap();
        let plan = AudioEncoder::memory_plan(&config, loader.as_mut(), gpu.capabilities(), &TowerOptions::default()).unwrap();
        let before = live(&opened.model);
        opened.model.sound(&silence).unwrap();
        assert_eq!(live(&opened.model) - before, plan.weights + plan.runs, "{name}: {plan:?}");
    }
}

#[test]
fn a_picture_is_read_from_a_texture_of_the_device() {
    let image = shown::image("gemma3-vision", "two.0.png");
    let (width, height) = (image.width() as u32, image.height() as u32);
    let opened = open("gemma3-vision", Device::Gpu, None);
    let gpu = opened.model.gpu().unwrap();
    let drawn = |format, usage| {
        let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
        let descriptor = wgpu::TextureDescriptor {
            label: None,
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format,
            usage: usage | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        };
        let texture = gpu.device().create_texture(&descriptor);
        let order = match format {
            wgpu::TextureFormat::Bgra8Unorm | wgpu::TextureFormat::Bgra8UnormSrgb => [2, 1, 0],
            _ => [0, 1, 2],
        };
        let (pixels, _) = image.rgb().as_chunks::<3>();
        let bytes: Vec<u8> = pixels.iter().flat_map(|p| [p[order[0]], p[order[1]], p[order[2]], 255]).collect();
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width * 4), rows_per_image: None };
        gpu.queue().write_texture(texture.as_image_copy(), &bytes, layout, size);
        texture
    };
    let read = wgpu::TextureUsages::COPY_SRC;
    for format in [
        wgpu::TextureFormat::Rgba8Unorm,
        wgpu::TextureFormat::Rgba8UnormSrgb,
        wgpu::TextureFormat::Bgra8Unorm,
        wgpu::TextureFormat::Bgra8UnormSrgb,
    ] {
        let found = Image::try_from(gpu.read_texture(&drawn(format, read)).unwrap()).unwrap();
        assert_eq!(found, image, "{format:?}");
    }
    let refused = |format, usage, problem: &str| {
        let error = gpu.read_texture(&drawn(format, usage)).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    };
    refused(wgpu::TextureFormat::Rgba8Unorm, wgpu::TextureUsages::TEXTURE_BINDING, "COPY_SRC");
    refused(wgpu::TextureFormat::Rgba8Snorm, read, "Rgba8Snorm");
}
