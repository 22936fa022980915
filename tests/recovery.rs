//! A model that is loaded again while others work with it.
#![recursion_limit = "256"] // Whether a closure may go to a thread follows from the types of wgpu within it.

#[path = "common/talk.rs"]
mod talk;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use gemmaflow::{
    Error,
    conversation::Model,
    generate::{CancelToken, GeneratorOptions, OnProgress},
    runtime::{Device, UploadPhase, UploadProgress},
};
use talk::{conversation, events, events_of, open, text};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Does `work` at the first report of a load.
fn at_first(work: impl FnOnce() + Send + 'static) -> OnProgress {
    let mut work = Some(work);
    Box::new(move |_: UploadProgress| {
        if let Some(work) = work.take() {
            work();
        }
        true
    })
}

/// What an application's other threads ask for.
fn ask_everything(model: &Model) -> usize {
    model.stats();
    model.gpu();
    model.counters();
    model.fingerprint().unwrap();
    let mut asked = conversation(model, 4);
    asked.send("Who goes there?").unwrap();
    events(&mut asked);
    model.max_context() + asked.messages().len()
}

#[test]
fn nothing_waits_for_a_recovery() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let (answer, answered) = mpsc::channel();
    let beside = model.clone();
    let on_progress = at_first(move || {
        let (told, tells) = mpsc::channel();
        std::thread::spawn(move || told.send(ask_everything(&beside)));
        answer.send(tells.recv_timeout(LONG)).unwrap();
    });
    model.recover_with(Device::Gpu, Some(on_progress), None).unwrap();
    assert_eq!(answered.recv().unwrap(), Ok(2048 + 2), "another thread goes on while the model loads");
}

#[test]
fn threads_that_come_during_a_recovery_do_not_load_again() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut before = conversation(&model, 12);
    before.send("Who goes there?").unwrap();
    let mut told = text(&events_of(&mut before, 5));
    let loads = Arc::new(AtomicUsize::new(0));
    let counting = {
        let loads = loads.clone();
        move || -> OnProgress {
            let loads = loads.clone();
            Box::new(move |progress| {
                loads.fetch_add(usize::from(progress.phase == UploadPhase::Reserving), SeqCst);
                true
            })
        }
    };
    let threads = Arc::new(Mutex::new(Vec::new()));
    let (others, mut count) = (threads.clone(), counting());
    let (model_of_others, counting) = (model.clone(), counting.clone());
    let first = at_first(move || {
        let (enter, entered) = mpsc::channel();
        for device in [Device::Gpu, Device::Cpu, Device::Gpu] {
            let model = model_of_others.clone();
            let on_progress = counting();
            let enter = enter.clone();
            let recover = move || {
                enter.send(()).unwrap();
                model.recover_with(device, Some(on_progress), None)
            };
            others.lock().unwrap().push(std::thread::spawn(recover));
        }
        (0..3).for_each(|_| entered.recv_timeout(LONG).unwrap());
        // The next thing that they do is to wait.
        std::thread::sleep(Duration::from_millis(500));
    });
    let mut first = Some(first);
    let on_progress: OnProgress = Box::new(move |progress| count(progress) && first.as_mut().is_none_or(|first| first(progress)));
    model.recover_with(Device::Gpu, Some(on_progress), None).unwrap();
    threads.lock().unwrap().drain(..).for_each(|thread| thread.join().unwrap().unwrap());
    assert_eq!(loads.load(SeqCst), 1);
    assert!(model.gpu().is_some(), "the load that was waited for counts, not the device that was named");
    told += &text(&events(&mut before));
    let mut undisturbed = conversation(&model, 12);
    undisturbed.send("Who goes there?").unwrap();
    assert_eq!(told, text(&events(&mut undisturbed)));
    // A later call is one of its own.
    model.recover(Device::Cpu).unwrap();
    assert!(model.gpu().is_none());
}

#[test]
fn a_recovery_that_fails_is_tried_by_the_next() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let (thread, started) = mpsc::channel();
    let other = model.clone();
    let mut spawn = Some(move || {
        let (enter, entered) = mpsc::channel();
        let recover = move || {
            enter.send(()).unwrap();
            other.recover(Device::Cpu)
        };
        thread.send(std::thread::spawn(recover)).unwrap();
        entered.recv_timeout(LONG).unwrap();
    });
    let on_progress: OnProgress = Box::new(move |_| {
        if let Some(spawn) = spawn.take() {
            spawn();
        }
        false
    });
    let error = model.recover_with(Device::Gpu, Some(on_progress), None).unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    started.recv().unwrap().join().unwrap().unwrap();
    assert!(model.gpu().is_none(), "it is on the device that the second call named");
}

#[test]
fn a_recovery_is_cancelled_and_the_model_is_as_it_was() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let before = model.gpu().unwrap();
    let cancel = CancelToken::new();
    let stop = cancel.clone();
    let error = model.recover_with(Device::Gpu, Some(at_first(move || stop.cancel())), Some(cancel)).unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    assert!(Arc::ptr_eq(&before, &model.gpu().unwrap()));
    assert_eq!(ask_everything(&model), 2048 + 2);
}
