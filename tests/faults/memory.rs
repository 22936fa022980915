//! Faults 16 to 23: no memory is left, at every allocation there is.

use std::sync::Arc;

use gemmaflow::{
    Error,
    conversation::Model,
    error::DeviceError,
    runtime::{Buffer, Device, GpuContext, GpuOptions, wanted_features, wgpu::BufferUsages},
};

use crate::{
    DEMO, asked, chunks_of_16,
    devices::{adopt, any_adapter, huge_texture, own},
    expected, model_on, open_context, rest, some,
};

const MOST: usize = 20;

/// More than all that these tests do takes.
const LIMIT: u64 = 256 << 20;

fn limited(bytes: u64) -> Arc<GpuContext> {
    open_context(&GpuOptions { memory_limit: Some(bytes), ..GpuOptions::default() })
}

fn live(context: &GpuContext) -> u64 {
    context.counters().snapshot().bytes_live
}

/// Takes all memory but `free` bytes.
fn ballast(context: &GpuContext, free: u64) -> Buffer {
    context.create_buffer("ballast", (LIMIT - live(context) - free) & !3, BufferUsages::COPY_DST).unwrap()
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Device(DeviceError::OutOfMemory { .. }))
}

#[test]
fn fault_16_no_memory_for_weights_at_any_point_of_loading() {
    let whole = limited(LIMIT);
    let model = model_on(&whole);
    let needed = live(&whole);
    drop(model);
    let (mut refused, mut loaded) = (0, 0);
    // Buffers that weights pass through come on top.
    let most = needed + (32 << 20);
    for share in 0..=16 {
        let context = limited(most * share / 16);
        match Model::open(DEMO, Device::Context(context.clone()), chunks_of_16()) {
            Ok(_) => loaded += 1,
            Err(error) => {
                assert!(is_full(&error), "{error}");
                refused += 1;
            }
        }
        context.wait_idle("a test").unwrap();
        context.release_staging();
        assert_eq!(live(&context), 0, "{share} sixteenths: the memory is back");
    }
    assert!(refused >= 8 && loaded >= 1, "{refused} refused, {loaded} loaded");
}

/// A conversation is asked while little is left: whatever it lacks, it says so, the one beside it goes on, and so does
/// it later.
#[test]
fn fault_17_no_memory_for_a_newcomer() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    let (mut refused, mut answered) = (0, 0);
    for step in 0..24 {
        let mut witness = asked(&model, MOST);
        let told = some(&mut witness, 8);
        let before = live(&context);
        let full = ballast(&context, (step * 32) << 10);
        let mut newcomer = asked(&model, MOST);
        let outcome = rest(&mut newcomer);
        assert_eq!(told + &rest(&mut witness).unwrap(), expected(MOST), "{step}: the witness");
        drop(full);
        match outcome {
            Ok(answer) => {
                answered += 1;
                assert_eq!(answer, expected(MOST), "{step}");
            }
            Err(error) => {
                refused += 1;
                assert!(is_full(&error), "{step}: {error}");
                assert_eq!(rest(&mut newcomer).unwrap(), expected(MOST), "{step}: with memory it goes on");
            }
        }
        drop(newcomer);
        context.wait_idle("a test").unwrap();
        context.release_staging();
        assert!(live(&context) <= before, "{step}: its memory is back");
    }
    assert!(refused > 3 && answered > 3, "{refused} refused, {answered} answered");
}

/// Caches grow at 256 rows; what they would grow to does not fit.
#[test]
fn fault_18_no_memory_for_a_cache_that_grows() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    let long = "It is the east, and Juliet is the sun. ".repeat(14);
    let open = || {
        let mut conversation = model.conversation().unwrap().with_options(crate::greedy(60));
        conversation.write(&long).unwrap();
        conversation.answer().unwrap();
        conversation
    };
    let whole = rest(&mut open()).unwrap();
    let mut conversation = open();
    assert!(conversation.used() < 256 && conversation.used() + 60 > 256, "{} tokens", conversation.used());
    let mut told = some(&mut conversation, 12);
    let full = ballast(&context, 4 << 10);
    let error = loop {
        match conversation.next_event() {
            Ok(Some(event)) => told.push_str(&event.to_string()),
            Ok(None) => panic!("the cache grew"),
            Err(error) => break error,
        }
    };
    assert!(is_full(&error), "{error}");
    assert!(is_full(&conversation.next_event().unwrap_err()), "it tries again");
    drop(full);
    assert_eq!(told + &rest(&mut conversation).unwrap(), whole);
}

#[test]
fn fault_19_no_memory_for_a_fork() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    let mut conversation = asked(&model, MOST);
    let told = some(&mut conversation, 8);
    let full = ballast(&context, 1 << 10);
    assert!(is_full(&conversation.fork().unwrap_err()));
    drop(full);
    assert_eq!(told.clone() + &rest(&mut conversation.fork().unwrap()).unwrap(), expected(MOST));
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
}

/// A kept prompt and a mark save time, nothing else: without memory for them the text is the same.
#[test]
fn fault_20_no_memory_to_keep_a_prompt() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    for free in [LIMIT / 2, 64 << 10] {
        let mut conversation = asked(&model, MOST);
        some(&mut conversation, 1);
        model.keep_prompts(64 << 20);
        let full = ballast(&context, free);
        assert_eq!(rest(&mut conversation).unwrap(), expected(MOST), "{free}");
        drop(full);
        assert_eq!(model.kept_prompt_bytes() > 0, free > 64 << 10, "{free}: {} bytes are kept", model.kept_prompt_bytes());
        model.keep_prompts(0);
    }
}

#[test]
fn fault_21_no_memory_to_mark_a_place() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    let mut conversation = asked(&model, 200);
    let mut told = some(&mut conversation, 30);
    // The rings move on now; their copy does not fit.
    let full = ballast(&context, 2 << 10);
    while let Ok(Some(event)) = conversation.next_event() {
        told.push_str(&event.to_string());
    }
    drop(full);
    told += &rest(&mut conversation).unwrap();
    assert_eq!(told, expected(200));
}

#[test]
fn fault_22_no_memory_to_restore_a_conversation() {
    let context = limited(LIMIT);
    let model = model_on(&context);
    let mut original = asked(&model, MOST);
    let told = some(&mut original, 8);
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    drop(original);
    let full = ballast(&context, 16 << 10);
    let error = model.restore(&bytes[..]).unwrap_err();
    assert!(is_full(&error), "{error}");
    drop(full);
    assert_eq!(told + &rest(&mut model.restore(&bytes[..]).unwrap()).unwrap(), expected(MOST));
}

/// A driver without memory says so through its error scope.
#[test]
fn fault_23_a_driver_that_has_no_memory_left() {
    let adapter = any_adapter();
    let (features, limits) = (wanted_features(&adapter), adapter.limits());
    let context = adopt(own(adapter, features, limits)).unwrap();
    let model = model_on(&context);
    let mut conversation = asked(&model, MOST);
    let told = some(&mut conversation, 8);
    let error = huge_texture(&context).unwrap_err();
    assert!(matches!(&error, Error::Device(DeviceError::OutOfMemory { what, .. }) if what == "a huge texture"), "{error}");
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
}
