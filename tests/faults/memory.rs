//! Faults 16 to 23: no memory is left, at every allocation there is.

use std::sync::Arc;

use gemmaflow::{
    Error,
    conversation::Model,
    runtime::{
        Buffer, Device, GpuContext, GpuOptions,
        wgpu::{self, BufferUsages},
    },
};

use crate::{DEMO, asked, chunks_of_16, expected, model_on, open_context, rest, some};

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
    matches!(error, Error::OutOfMemory { .. })
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

/// A conversation is asked while little is left: whatever it lacks, it says so, the one beside it goes on, and so does it later.
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
    rest(&mut asked(&model, 2)).unwrap();
    let mut conversation = asked(&model, MOST);
    some(&mut conversation, 1);
    model.keep_prompts(64 << 20);
    let full = ballast(&context, 64 << 10);
    let outcome = rest(&mut conversation);
    drop(full);
    let told = outcome.or_else(|_| rest(&mut conversation)).unwrap();
    assert_eq!(told, expected(MOST));
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

/// A driver without memory: buffers that it cannot make, through its error scope.
#[test]
fn fault_23_a_driver_that_has_no_memory_left() {
    let context = open_context(&GpuOptions::default());
    let model = model_on(&context);
    let mut conversation = asked(&model, MOST);
    let told = some(&mut conversation, 8);
    // Software drivers promise buffers that they do not have; a texture of 8 TiB is more than any driver promises.
    let limits = context.device().limits();
    let side = limits.max_texture_dimension_2d;
    let descriptor = wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width: side, height: side, depth_or_array_layers: limits.max_texture_array_layers },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba32Uint,
        usage: wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    };
    let error = context.scoped("a huge texture", || context.device().create_texture(&descriptor)).unwrap_err();
    assert!(matches!(&error, Error::OutOfMemory { .. } | Error::Driver { .. }), "{error}");
    assert_eq!(told + &rest(&mut conversation).unwrap(), expected(MOST));
}
