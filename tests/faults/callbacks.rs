//! Faults 24 to 27: functions that the application gave panic.

use std::{ops::ControlFlow, sync::Arc};

use gemmaflow::{
    Error,
    conversation::{Event, Model},
    error::CallbackError,
    flow::{BlockStage, EmitContext, FlowStage},
    generate::GeneratorOptions,
    ir::NodeId,
    runtime::{Device, GpuOptions, UploadPhase, UploadProgress},
};

use crate::{DEMO, asked, chunks_of_16, expected, model_on, open_context, rest};

/// What panics says what it does; their traces would drown the tests' own output.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.to_string().contains("on purpose") {
                others(info);
            }
        }));
    });
    run()
}

fn is_panic(error: &Error) -> bool {
    matches!(error, Error::Callback(CallbackError::Panicked { message, .. }) if message.contains("on purpose"))
}

/// A panic on purpose ends the loading with an error, and leaves the device as good as new.
fn panics_while_loading(options: GeneratorOptions) {
    let context = open_context(&GpuOptions::default());
    let error = quietly(|| Model::open(DEMO, Device::Context(context.clone()), options)).unwrap_err();
    assert!(is_panic(&error), "{error}");
    context.wait_idle("a test").unwrap();
    assert_eq!(context.counters().snapshot().bytes_live, 0);
    assert_eq!(rest(&mut asked(&model_on(&context), 6)).unwrap(), expected(6));
}

#[test]
fn fault_24_load_progress_panics() {
    for phase in [UploadPhase::Reserving, UploadPhase::Moving, UploadPhase::Finishing] {
        let on_progress = move |progress: UploadProgress| {
            assert!(progress.phase != phase, "on purpose");
            true
        };
        panics_while_loading(GeneratorOptions { on_progress: Some(Box::new(on_progress)), ..GeneratorOptions::default() });
    }
}

#[test]
fn fault_25_the_callback_for_events_panics() {
    let model = Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap();
    let mut beside = asked(&model, 20);
    for at in [0, 3, 7] {
        let mut conversation = asked(&model, 20);
        let mut seen = 0;
        let error = quietly(|| {
            conversation.finish(|_| {
                seen += 1;
                assert!(seen <= at, "on purpose");
                ControlFlow::Continue(())
            })
        })
        .unwrap_err();
        assert!(is_panic(&error), "{error}");
        // The answer was stopped; the conversation goes on.
        conversation.send("Long live the king!").unwrap();
        assert!(!rest(&mut conversation).unwrap().is_empty());
    }
    assert_eq!(rest(&mut beside).unwrap(), expected(20));
}

/// A stage that panics when it is made.
#[derive(Debug)]
struct Panics;

impl BlockStage for Panics {
    fn emit(&self, _: &mut EmitContext, _: NodeId) -> gemmaflow::Result<NodeId> {
        panic!("on purpose")
    }
}

#[test]
fn fault_26_a_hook_of_the_flow_panics() {
    panics_while_loading(GeneratorOptions::default().with_flow(|_| panic!("on purpose")));
}

#[test]
fn fault_27_a_stage_panics() {
    let stage = || FlowStage::Block(Arc::new(Panics));
    panics_while_loading(GeneratorOptions::default().with_flow(move |flow| flow.after_layers([stage()])));
}

/// Whoever drops a conversation while it panics harms no other.
#[test]
fn fault_28_a_thread_panics_with_its_conversation() {
    let model = Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap();
    let mut beside = asked(&model, 20);
    let theirs = model.clone();
    let thread = std::thread::spawn(move || {
        quietly(|| {
            let mut conversation = asked(&theirs, 20);
            for event in conversation.events() {
                assert!(!matches!(event.unwrap(), Event::Text(_)), "on purpose");
            }
        });
    });
    assert!(thread.join().is_err());
    assert_eq!(rest(&mut beside).unwrap(), expected(20));
    assert_eq!(rest(&mut asked(&model, 20)).unwrap(), expected(20));
}
