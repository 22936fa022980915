//! Faults 37 to 42: applications that change their mind at any moment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gemmaflow::{
    Error,
    conversation::{Conversation, Event, FinishReason},
    error::{PromptError, SamplingError},
    generate::CancelToken,
    runtime::{Device, GpuContext, GpuOptions},
};

use crate::{ASKED, asked, expected, greedy, model_on, open_context, rest, some, text};

fn live(context: &Arc<GpuContext>) -> u64 {
    context.wait_idle("a test").unwrap();
    context.release_staging();
    context.counters().snapshot().bytes_live
}

#[test]
fn fault_37_a_storm_of_cancels() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversations: Vec<Conversation> = (0..3).map(|_| model.conversation().unwrap().with_options(greedy(40))).collect();
    let whole = expected(40);
    let tokens: Vec<_> = conversations.iter().map(Conversation::cancel_token).collect();
    let mut beside = asked(&model, 40);
    let until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for conversation in &mut conversations {
            let whole = &whole;
            scope.spawn(move || {
                let empty = conversation.bookmark();
                let mut cancelled = 0;
                while Instant::now() < until || cancelled == 0 {
                    assert!(Instant::now() < until + Duration::from_secs(60), "nothing is cancelled");
                    conversation.send(ASKED).unwrap();
                    let told: Vec<Event> = conversation.events().collect::<Result<_, _>>().unwrap();
                    let Some(Event::End { finish_reason, .. }) = told.last() else { panic!("no end: {told:?}") };
                    cancelled += usize::from(*finish_reason == FinishReason::Cancelled);
                    let told = text(told);
                    assert!(whole.starts_with(&told), "{told:?} of {whole:?}");
                    conversation.rewind(&empty);
                }
            });
        }
        scope.spawn(|| {
            for pause in [0, 1, 2, 5, 11, 23, 47, 95].into_iter().cycle() {
                tokens.iter().for_each(CancelToken::cancel);
                std::thread::sleep(Duration::from_millis(pause));
                if Instant::now() > until {
                    break;
                }
            }
        });
        assert_eq!(rest(&mut beside).unwrap(), whole, "nobody cancelled this one");
    });
    for mut conversation in conversations {
        conversation.send(ASKED).unwrap();
        assert_eq!(rest(&mut conversation).unwrap(), whole, "the storm is over");
    }
}

#[test]
fn fault_38_conversations_that_are_dropped_at_work() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    rest(&mut asked(&model, 3)).unwrap();
    let baseline = live(&context);
    let mut beside = asked(&model, 20);
    for events in 0..12 {
        let mut dropped = asked(&model, 20);
        some(&mut dropped, events);
        let mut future = Box::pin(async { dropped.next_event_async().await.map(|_| ()) });
        let _ = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        drop(future);
        drop(dropped);
    }
    assert_eq!(rest(&mut beside).unwrap(), expected(20));
    drop(beside);
    assert_eq!(live(&context), baseline);
}

#[test]
fn fault_39_a_model_that_is_dropped_before_its_conversations() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, 20);
    let told = some(&mut conversation, 5);
    drop(model);
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(20));
    conversation.model().recover(Device::Cpu).unwrap();
    conversation.send("A friend.").unwrap();
    some(&mut conversation, 3);
    drop(conversation);
    assert_eq!(live(&context), 0, "nothing holds the device's memory");
}

#[test]
fn fault_40_a_thousand_conversations() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut memory = Vec::new();
    for number in 0..1000 {
        let mut conversation = model.conversation().unwrap().with_options(greedy(2));
        conversation.write(["ROMEO:\n", "JULIET:\n"][number % 2]).unwrap();
        conversation.answer().unwrap();
        let mut fork = if number % 10 == 0 { Some(conversation.fork().unwrap()) } else { None };
        some(&mut conversation, 1 + number % 4);
        fork.iter_mut().for_each(|fork| drop(some(fork, 2)));
        drop((conversation, fork));
        if number % 100 == 99 {
            memory.push(live(&context));
        }
    }
    assert!(memory.iter().all(|bytes| *bytes == memory[0]), "{memory:?}");
    drop(model);
    assert_eq!(live(&context), 0);
}

#[test]
fn fault_41_requests_that_make_no_sense() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = model.conversation().unwrap();
    assert!(matches!(conversation.answer(), Err(Error::Prompt(PromptError::Empty))));
    assert!(conversation.next_event().unwrap().is_none());
    assert!(matches!(conversation.send("so much ".repeat(3000)), Err(Error::ContextFull { .. })));
    assert!(conversation.messages().is_empty());
    let mut options = greedy(5);
    options.sampling = gemmaflow::generate::SampleOpts::temperature(f32::NAN, 0);
    conversation.set_options(options);
    conversation.send("Who goes there?").unwrap();
    assert!(matches!(rest(&mut conversation), Err(Error::Sampling(SamplingError::Options(_)))));
    conversation.set_options(greedy(20));
    assert!(!rest(&mut conversation).unwrap().is_empty(), "it goes on with options that have a meaning");
    let mut fresh = asked(&model, 20);
    assert_eq!(rest(&mut fresh).unwrap(), expected(20));
}

#[test]
fn fault_42_two_recoveries_at_once() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, 20);
    let mut told = some(&mut conversation, 6);
    context.device().destroy();
    std::thread::scope(|scope| {
        for device in [Device::Gpu, Device::Cpu] {
            let model = model.clone();
            scope.spawn(move || model.recover(device).unwrap());
        }
    });
    told += &text(conversation.events().collect::<Result<Vec<_>, _>>().unwrap());
    assert_eq!(told, expected(20));
}
