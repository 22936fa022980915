//! Faults 1 to 15 and 43: the device is lost, or does not answer in time.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Waker},
    time::Duration,
};

use gemmaflow::{
    Error,
    conversation::{Conversation, Model},
    error::DeviceError,
    generate::GeneratorOptions,
    runtime::{Device, GpuContext, GpuOptions, UploadPhase, UploadProgress},
};

use crate::{DEMO, asked, busy::keep_busy, chunks_of_16, expected, model_on, open_context, rest, some, text};

const MOST: usize = 20;

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Device(DeviceError::Lost(_)))
}

/// A model, a conversation that is `events` events into its answer, and a device that is then lost.
fn lost_after(events: usize) -> (Arc<GpuContext>, Model, Conversation, String) {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, MOST);
    let told = some(&mut conversation, events);
    context.device().destroy();
    (context, model, conversation, told)
}

/// What is told until the loss is noticed: the device may have been ahead.
fn until_lost(conversation: &mut Conversation) -> String {
    let mut told = String::new();
    loop {
        match conversation.next_event() {
            Ok(Some(event)) => told.push_str(&event.to_string()),
            Ok(None) => panic!("the answer ended"),
            Err(error) => {
                assert!(is_lost(&error), "{error}");
                return told;
            }
        }
    }
}

/// Everything on the lost device says so; after a recovery the answer goes on where it was.
fn recovers((context, model, mut conversation, mut told): (Arc<GpuContext>, Model, Conversation, String)) {
    for _ in 0..2 {
        told += &until_lost(&mut conversation);
    }
    assert!(is_lost(&context.check().unwrap_err()));
    model.recover(Device::Gpu).unwrap();
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
    conversation.send("A friend.").unwrap();
    assert!(!rest(&mut conversation).unwrap().is_empty());
    assert_eq!(rest(&mut asked(&model, MOST)).unwrap(), expected(MOST), "a new conversation");
}

#[test]
fn fault_01_lost_before_loading() {
    let context = open_context(&GpuOptions::default());
    context.device().destroy();
    let error = Model::open(DEMO, Device::Context(context.clone()), GeneratorOptions::default()).unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert_eq!(context.counters().snapshot().bytes_live, 0);
}

/// Loses the device at the first report of a phase.
fn lost_while_loading(phase: UploadPhase) {
    let context = open_context(&GpuOptions::default());
    let lost = context.clone();
    let on_progress = move |progress: UploadProgress| {
        if progress.phase == phase {
            lost.device().destroy();
        }
        true
    };
    let options = GeneratorOptions { on_progress: Some(Box::new(on_progress)), ..GeneratorOptions::default() };
    let error = Model::open(DEMO, Device::Context(context.clone()), options).unwrap_err();
    assert!(is_lost(&error), "{phase:?}: {error}");
    assert_eq!(context.counters().snapshot().bytes_live, 0, "{phase:?}");
}

#[test]
fn fault_02_lost_before_memory_is_reserved() {
    lost_while_loading(UploadPhase::Reserving);
}

#[test]
fn fault_03_lost_while_weights_travel() {
    lost_while_loading(UploadPhase::Moving);
}

#[test]
fn fault_04_lost_when_all_have_moved() {
    lost_while_loading(UploadPhase::Finishing);
}

#[test]
fn fault_05_lost_before_the_first_prompt() {
    recovers(lost_after(0));
}

#[test]
fn fault_06_lost_between_two_parts_of_a_prompt() {
    recovers(lost_after(1));
}

#[test]
fn fault_07_lost_between_two_tokens() {
    recovers(lost_after(9));
}

#[test]
fn fault_08_lost_while_another_thread_waits() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, 400);
    let (speaks, spoken) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        let mut told = String::new();
        let error = loop {
            match conversation.next_event() {
                Ok(Some(event)) => told.push_str(&event.to_string()),
                Ok(None) => panic!("the answer ended"),
                Err(error) => break error,
            }
            // Whoever listened may have heard enough.
            speaks.send(()).ok();
        };
        (conversation, told, error)
    });
    spoken.iter().take(20).for_each(drop);
    context.device().destroy();
    let (mut conversation, told, error) = worker.join().unwrap();
    assert!(is_lost(&error), "{error}");
    assert!(!told.is_empty());
    model.recover(Device::Gpu).unwrap();
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(400));
}

#[test]
fn fault_09_lost_before_a_fork() {
    let (_, model, mut conversation, told) = lost_after(9);
    assert!(is_lost(&conversation.fork().unwrap_err()));
    model.recover(Device::Gpu).unwrap();
    let mut fork = conversation.fork().unwrap();
    assert_eq!(told.clone() + &rest(&mut fork).unwrap(), expected(MOST));
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
}

#[test]
fn fault_10_lost_before_a_conversation_is_saved() {
    let (_, model, mut conversation, told) = lost_after(9);
    assert!(is_lost(&conversation.save(std::io::sink()).unwrap_err()));
    model.recover(Device::Gpu).unwrap();
    let mut bytes = Vec::new();
    conversation.save(&mut bytes).unwrap();
    assert_eq!(told + &rest(&mut model.restore(&bytes[..]).unwrap()).unwrap(), expected(MOST));
}

#[test]
fn fault_11_lost_before_a_conversation_is_restored() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut original = asked(&model, MOST);
    let told = some(&mut original, 9);
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    context.device().destroy();
    let error = model.restore(&bytes[..]).unwrap_err();
    assert!(is_lost(&error), "{error}");
    model.recover(Device::Cpu).unwrap();
    assert_eq!(told + &rest(&mut model.restore(&bytes[..]).unwrap()).unwrap(), expected(MOST));
}

#[test]
fn fault_12_lost_among_many_conversations() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut all: Vec<Conversation> = (0..5).map(|_| asked(&model, MOST)).collect();
    let mut told = vec![String::new(); all.len()];
    let step = |all: &mut Vec<Conversation>, told: &mut Vec<String>| {
        let outcome = model.step(&mut all.iter_mut().collect::<Vec<_>>());
        outcome.into_iter().zip(told).map(|(events, told)| events.map(|events| told.push_str(&text(events)))).collect::<Vec<_>>()
    };
    for _ in 0..12 {
        assert!(step(&mut all, &mut told).iter().all(Result::is_ok));
    }
    context.device().destroy();
    assert!(step(&mut all, &mut told).iter().all(|outcome| matches!(outcome, Err(error) if is_lost(error))));
    model.recover(Device::Gpu).unwrap();
    for _ in 0..60 {
        assert!(step(&mut all, &mut told).iter().all(Result::is_ok));
    }
    assert!(told.iter().all(|told| *told == expected(MOST)), "{told:?}");
}

#[test]
fn fault_13_lost_while_a_task_waits() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, MOST);
    let mut told = some(&mut conversation, 9);
    let error = pollster::block_on(async {
        loop {
            let mut next = pin!(conversation.next_event_async());
            let now = poll_fn(|task| Poll::Ready(next.as_mut().poll(task))).await;
            let event = match now {
                Poll::Ready(event) => event,
                Poll::Pending => {
                    context.device().destroy();
                    next.await
                }
            };
            match event {
                Ok(Some(event)) => told.push_str(&event.to_string()),
                Ok(None) => panic!("the answer ended before anything was waited for"),
                Err(error) => return error,
            }
        }
    });
    assert!(is_lost(&error), "{error}");
    model.recover(Device::Gpu).unwrap();
    pollster::block_on(async {
        while let Some(event) = conversation.next_event_async().await.unwrap() {
            told.push_str(&event.to_string());
        }
    });
    assert_eq!(told, expected(MOST));
}

#[test]
fn fault_14_no_device_to_recover_on() {
    let (_, model, mut conversation, mut told) = lost_after(3);
    let error = model.recover(Device::Named("Voodoo 2".into())).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::NoAdapter(_))), "{error}");
    told += &until_lost(&mut conversation);
    model.recover(Device::Cpu).unwrap();
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
}

/// A wait of a nanosecond never ends, unless all was done before it began: that may be so once, not in each step of an
/// answer.
#[test]
fn fault_15_a_wait_that_takes_too_long() {
    let gpu = GpuOptions { timeout: Some(Duration::from_nanos(1)), ..GpuOptions::default() };
    let opened = Model::open(DEMO, Device::Gpu, GeneratorOptions { gpu, ..chunks_of_16() });
    let error = opened.and_then(|model| rest(&mut asked(&model, MOST))).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Timeout { .. })), "{error}");
    let model = Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap();
    assert_eq!(rest(&mut asked(&model, MOST)).unwrap(), expected(MOST));
}

#[test]
fn fault_43_lost_while_a_step_runs_that_nobody_waits_for() {
    let context = open_context(&GpuOptions::default());
    let model = Model::open(DEMO, Device::Context(context.clone()), GeneratorOptions::default()).unwrap();
    let mut conversation = asked(&model, MOST);
    keep_busy(&context);
    let now = {
        let mut next = pin!(conversation.next_event_async());
        next.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    assert!(now.is_pending());
    context.device().destroy();
    let error = conversation.next_event().unwrap_err();
    assert!(is_lost(&error), "{error}");
    model.recover(Device::Gpu).unwrap();
    assert_eq!(rest(&mut conversation).unwrap(), expected(MOST));
}
