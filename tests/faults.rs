//! What goes wrong beneath and beside an application: each fault is made, survived with a typed error, and gone on
//! from. The list is numbered; the parts below hold one test a fault.

#[path = "common/busy.rs"]
mod busy;
#[path = "faults/callbacks.rs"]
mod callbacks;
#[path = "faults/conversations.rs"]
mod conversations;
#[path = "faults/device.rs"]
mod device;
#[path = "common/own.rs"]
mod devices;
#[path = "faults/files.rs"]
mod files;
#[path = "faults/memory.rs"]
mod memory;
#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use gemmaflow::{
    Result,
    conversation::{AnswerOptions, Conversation, Event, Model},
    generate::{GeneratorOptions, SampleOpts},
    runtime::{Device, GpuContext, GpuOptions, Opened},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

/// What is asked everywhere, and long enough for several runs of 16 tokens.
const ASKED: &str = "Who goes there? Speak, or I shall call the watch and have thee in the stocks before the morning.";

fn open_context(options: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn chunks_of_16() -> GeneratorOptions {
    GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() }
}

/// The demo model on a device of its own, which the test may lose or fill. No prompt is kept.
fn model_on(context: &Arc<GpuContext>) -> Model {
    let model = Model::open(DEMO, Device::Context(context.clone()), chunks_of_16()).unwrap();
    model.keep_prompts(0);
    model
}

fn greedy(most: usize) -> AnswerOptions {
    AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(most), ..AnswerOptions::default() }
}

/// A conversation that was asked, and has not answered yet.
fn asked(model: &Model, most: usize) -> Conversation {
    let mut conversation = model.conversation().unwrap().with_options(greedy(most));
    conversation.send(ASKED).unwrap();
    conversation
}

fn text(events: impl IntoIterator<Item = Event>) -> String {
    events.into_iter().map(|event| event.to_string()).collect()
}

/// All that is left of an answer.
fn rest(conversation: &mut Conversation) -> Result<String> {
    conversation.events().collect::<Result<Vec<_>>>().map(text)
}

/// The next `count` events.
fn some(conversation: &mut Conversation, count: usize) -> String {
    text(conversation.events().take(count).collect::<Result<Vec<_>>>().unwrap())
}

/// What an undisturbed model answers.
fn expected(most: usize) -> String {
    static KNOWN: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let ask = || rest(&mut asked(&Model::open(DEMO, Device::Gpu, chunks_of_16()).unwrap(), most)).unwrap();
    known.entry(most).or_insert_with(ask).clone()
}
