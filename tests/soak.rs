//! Mixed load for a while: threads, batches, cancels, forks, saved and restored conversations, lost devices. Every text
//! is that of an undisturbed run, and memory stays flat. The suite runs it for seconds; for an hour: `SOAK_MINUTES=60
//! cargo test --release --test soak -- --nocapture`.

#[path = "common/draws.rs"]
mod draws;

use std::{
    env::VarError,
    ops::ControlFlow,
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use draws::Draws;
use gemmaflow::{
    Error, Result,
    conversation::{AnswerOptions, Conversation, Event, Model},
    error::DeviceError,
    generate::{GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, Opened},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

const ASKED: [&str; 6] = [
    "Who goes there?",
    "What light through yonder window breaks? It is the east, and Juliet is the sun.",
    "Speak, or I shall call the watch.",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows of outrageous fortune.",
    "Now is the winter of our discontent.",
    "A horse!",
];

/// Tokens of an answer.
const MOST: usize = 28;

/// How much memory may grow where nothing should: buffers for reading back, which are kept.
const SLACK: u64 = 4 << 20;

/// How case `index` is asked; drawn text only where the model is deterministic.
fn options(index: usize, deterministic: bool) -> AnswerOptions {
    let sampling = if deterministic && index % 2 == 1 {
        SampleOpts::temperature(1.1, index as u64).with_top_k(50)
    } else {
        SampleOpts::greedy()
    };
    AnswerOptions { sampling, max_tokens: Some(MOST), ..AnswerOptions::default() }
}

struct Scene {
    model: Model,
    deterministic: bool,
    /// The text of each case, undisturbed.
    expected: Vec<String>,
}

impl Scene {
    fn new(device: Device, deterministic: bool) -> Self {
        let options = GeneratorOptions { deterministic, prefill_chunk: Some(16), ..GeneratorOptions::default() };
        let model = Model::open(DEMO, device, options).unwrap();
        model.keep_prompts(2 << 20);
        let mut scene = Self { model, deterministic, expected: Vec::new() };
        scene.expected = (0..ASKED.len()).map(|index| finish(&mut scene.asked(index)).unwrap()).collect();
        scene
    }

    fn asked(&self, index: usize) -> Conversation {
        let mut conversation = self.patiently(|| self.model.conversation());
        conversation.set_options(options(index, self.deterministic));
        self.patiently(|| conversation.send(ASKED[index]));
        conversation
    }

    /// Waits out a lost device, which somebody recovers; no other error may come.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> T {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(done) => return done,
                Err(Error::Device(DeviceError::Lost(_))) if start.elapsed() < Duration::from_secs(120) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next events of an answer, at most so many, as text.
    fn some(&self, conversation: &mut Conversation, count: usize) -> String {
        let mut told = String::new();
        for _ in 0..count {
            match self.patiently(|| conversation.next_event()) {
                Some(event) => told += &event.to_string(),
                None => break,
            }
        }
        told
    }

    /// One thing that an application does, with one conversation or several.
    fn act(&self, draws: &mut Draws) {
        let index = draws.below(ASKED.len());
        let expected = &self.expected[index];
        let mut conversation = self.asked(index);
        match draws.below(7) {
            0 => assert_eq!(self.some(&mut conversation, 1000), *expected),
            1 => {
                let before = conversation.bookmark();
                let told = self.some(&mut conversation, draws.below(20));
                conversation.cancel_token().cancel();
                let told = told + &self.some(&mut conversation, 1000);
                assert!(expected.starts_with(&told), "{told:?} of {expected:?}");
                conversation.rewind(&before);
                self.patiently(|| conversation.answer());
                assert_eq!(self.some(&mut conversation, 1000), *expected);
            }
            2 => {
                let told = self.some(&mut conversation, draws.below(20));
                let mut fork = self.patiently(|| conversation.fork());
                assert_eq!(told.clone() + &self.some(&mut fork, 1000), *expected);
                assert_eq!(told + &self.some(&mut conversation, 1000), *expected);
            }
            3 => {
                let told = self.some(&mut conversation, draws.below(20));
                let bytes = self.patiently(|| {
                    let mut bytes = Vec::new();
                    conversation.save(&mut bytes).map(|()| bytes)
                });
                let mut restored = self.patiently(|| self.model.restore(&bytes[..]));
                assert_eq!(told + &self.some(&mut restored, 1000), *expected);
            }
            4 => self.together(draws),
            5 => drop(self.some(&mut conversation, draws.below(12))),
            _ => {
                let mut events = 0;
                let most = draws.below(12);
                let told = conversation.finish(|_| {
                    events += 1;
                    if events > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                match told {
                    Ok(told) => assert!(expected.starts_with(&told), "{told:?} of {expected:?}"),
                    Err(Error::Device(DeviceError::Lost(_))) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Several conversations in steps, some of which come later or go before the end.
    fn together(&self, draws: &mut Draws) {
        let mut all: Vec<(usize, Conversation, String)> = Vec::new();
        let mut waiting = 2 + draws.below(4);
        while waiting > 0 || !all.is_empty() {
            if waiting > 0 && (all.is_empty() || draws.below(3) == 0) {
                let index = draws.below(ASKED.len());
                all.push((index, self.asked(index), String::new()));
                waiting -= 1;
            }
            let mut conversations: Vec<&mut Conversation> = all.iter_mut().map(|(_, conversation, _)| conversation).collect();
            let outcomes = self.model.step(&mut conversations);
            let mut ended = Vec::new();
            for ((index, _, told), outcome) in all.iter_mut().zip(outcomes) {
                let events = match outcome {
                    Ok(events) => events,
                    Err(Error::Device(DeviceError::Lost(_))) => {
                        std::thread::sleep(Duration::from_millis(5));
                        Vec::new()
                    }
                    Err(error) => panic!("{error}"),
                };
                let over = events.iter().any(|event| matches!(event, Event::End { .. }));
                events.iter().for_each(|event| *told += &event.to_string());
                if over {
                    assert_eq!(*told, self.expected[*index]);
                }
                ended.push(over || draws.below(60) == 0);
            }
            let mut ended = ended.into_iter();
            all.retain(|_| !ended.next().unwrap_or(false));
        }
    }
}

fn finish(conversation: &mut Conversation) -> Result<String> {
    conversation.finish(|_| ControlFlow::Continue(()))
}

/// Bytes of this process in memory, where the system tells.
fn resident() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// What was measured while nobody worked.
#[derive(Debug, Clone, Copy)]
struct Rest {
    device: u64,
    host: u64,
}

fn soak(time: Duration, between_rests: Duration) {
    let context = match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    };
    let scenes = [Scene::new(Device::Context(context.clone()), false), Scene::new(Device::Context(context), true)];
    let (over, acts, losses) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // Workers hold it to read while they act; to write is to find nobody at work.
    let work = RwLock::new(());
    let start = Instant::now();
    let mut rests: Vec<Rest> = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (scene, work, over, acts) = (&scenes[thread as usize % 2], &work, &over, &acts);
            scope.spawn(move || {
                let mut draws = Draws(thread);
                while !over.load(Relaxed) {
                    let working = work.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                    scene.act(&mut draws);
                    acts.fetch_add(1, Relaxed);
                    drop(working);
                    std::thread::yield_now();
                }
            });
        }
        let mut draws = Draws(99);
        let mut next_rest = start + between_rests;
        while start.elapsed() < time {
            std::thread::sleep(between_rests / 8 + Duration::from_millis(draws.below(200) as u64));
            if draws.below(3) == 0 {
                // The device goes while everybody works, and comes back.
                let scene = &scenes[draws.below(2)];
                lose(&scene.model);
                losses.fetch_add(1, Relaxed);
                for scene in &scenes {
                    scene.model.recover(Device::Gpu).unwrap();
                }
            }
            if Instant::now() > next_rest {
                let _nobody_works = work.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                scenes.iter().for_each(|scene| scene.model.keep_prompts(2 << 20));
                let device = scenes.iter().map(|scene| scene.model.counters().map_or(0, |counters| counters.bytes_live)).sum();
                rests.push(Rest { device, host: resident().unwrap_or(0) });
                next_rest = Instant::now() + between_rests;
            }
        }
        over.store(true, Relaxed);
    });
    let (acts, losses) = (acts.load(Relaxed), losses.load(Relaxed));
    let host = |rests: &[Rest]| rests.iter().map(|rest| rest.host).max().unwrap_or(0);
    let (early, late) = (host(&rests[..rests.len() / 2]), host(&rests[rests.len() / 2..]));
    println!("{acts} acts, {losses} losses in {:.0} s; at rest: {rests:?}", start.elapsed().as_secs_f64());
    assert!(acts > 10 && losses > 0 && rests.len() >= 2, "{acts} acts, {losses} losses, {} rests", rests.len());
    // Since the first loss each model has a device of its own.
    let settled = &rests[rests.len() / 4..];
    let (least, most) = settled.iter().fold((u64::MAX, 0), |(least, most), rest| (least.min(rest.device), most.max(rest.device)));
    assert!(most - least <= SLACK, "device memory at rest goes from {least} to {most}");
    // The host's grows while drivers and allocators warm up, and then no more; a driver on the CPU has its device's
    // memory there.
    assert!(late <= early + early / 4 + (64 << 20), "host memory at rest goes from {early} to {late}");
}

/// Loses the device that the model is on.
fn lose(model: &Model) {
    if let Some(context) = model.gpu() {
        context.device().destroy();
    }
}

#[test]
fn a_while_of_mixed_load() {
    let given = match std::env::var("SOAK_MINUTES") {
        Err(VarError::NotPresent) => return soak(Duration::from_secs(20), Duration::from_secs(4)),
        given => given,
    };
    // Memory is looked at once a minute, and two looks are compared.
    match given.as_deref().map(str::parse::<u32>) {
        Ok(Ok(minutes @ 3..)) => soak(Duration::from_secs(60 * u64::from(minutes)), Duration::from_secs(60)),
        _ => panic!("SOAK_MINUTES takes a whole number of minutes, at least 3; it is {given:?}"),
    }
}
