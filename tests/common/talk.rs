//! Conversations with the demo model.
#![allow(dead_code)] // Each test binary uses a part.

use std::sync::OnceLock;

use gemmaflow::{
    conversation::{AnswerOptions, Conversation, Event, FinishReason, Model, Usage},
    generate::{GeneratorOptions, SampleOpts},
    runtime::Device,
};

pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

pub fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Gpu]
}

pub fn open(device: &Device, options: GeneratorOptions) -> Model {
    Model::open(DEMO, device.clone(), options).unwrap()
}

/// One model on the GPU for the tests that do not change it.
pub fn model() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| open(&Device::Gpu, GeneratorOptions::default())).clone()
}

/// Greedy answers of at most `most` tokens.
pub fn greedy(most: usize) -> AnswerOptions {
    AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(most), ..AnswerOptions::default() }
}

pub fn conversation(model: &Model, most: usize) -> Conversation {
    model.conversation().unwrap().with_options(greedy(most))
}

pub fn events(conversation: &mut Conversation) -> Vec<Event> {
    conversation.events().collect::<Result<_, _>>().unwrap()
}

pub fn text(events: &[Event]) -> String {
    events.iter().map(Event::to_string).collect()
}

pub fn end(events: &[Event]) -> (FinishReason, Usage) {
    match events.last() {
        Some(Event::End { finish_reason, usage }) => (*finish_reason, *usage),
        other => panic!("the last event is {other:?}"),
    }
}

/// The first events, and no more.
pub fn events_of(conversation: &mut Conversation, count: usize) -> Vec<Event> {
    conversation.events().take(count).collect::<Result<_, _>>().unwrap()
}
