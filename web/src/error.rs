//! Errors as JavaScript sees them.

use gemmaflow::{Error, error::DeviceError};
use wasm_bindgen::prelude::*;

/// An error on its way to JavaScript.
pub struct Fault {
    kind: &'static str,
    message: String,
}

impl Fault {
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// For what a caller may not ask of this object.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new("Input", message)
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "Io",
        Error::Format { .. } | Error::FileChanged { .. } => "Format",
        Error::Config(_) | Error::Profile { .. } => "Config",
        Error::Weight(_) => "Weight",
        Error::Graph(_) | Error::Builder(_) => "Graph",
        Error::Option { .. } => "Option",
        Error::Input { .. } => "Input",
        Error::Prompt(_) => "Prompt",
        Error::ContextFull { .. } => "ContextFull",
        Error::Embedding(_) => "Embedding",
        Error::Sampling(_) => "Sampling",
        Error::Callback(_) => "Callback",
        Error::Grammar(_) => "Grammar",
        Error::Device(DeviceError::Lost(_)) => "DeviceLost",
        Error::Device(DeviceError::NoAdapter(_)) => "NoAdapter",
        Error::Device(DeviceError::OutOfMemory { .. }) => "OutOfMemory",
        Error::Device(_) => "Device",
        Error::DoesNotFit(_) => "DoesNotFit",
        Error::Cancelled(_) => "Cancelled",
        Error::Unsupported(_) => "Unsupported",
        Error::Tokenizer(_) => "Tokenizer",
        Error::Chat(_) => "Chat",
        _ => "Other",
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::new(kind(&error), error.to_string())
    }
}

impl From<gemmaflow::error::ImageError> for Fault {
    fn from(error: gemmaflow::error::ImageError) -> Self {
        Self::new("Image", error.to_string())
    }
}

impl From<gemmaflow::error::AudioError> for Fault {
    fn from(error: gemmaflow::error::AudioError) -> Self {
        Self::new("Audio", error.to_string())
    }
}

impl From<JsValue> for Fault {
    fn from(error: JsValue) -> Self {
        Self::input(text(&error))
    }
}

impl From<Fault> for JsValue {
    fn from(fault: Fault) -> Self {
        let error = js_sys::Error::new(&fault.message);
        error.set_name("GemmaflowError");
        // An error object takes any property.
        let _ = js_sys::Reflect::set(&error, &"kind".into(), &fault.kind.into());
        error.into()
    }
}

/// What a JavaScript error says.
pub fn text(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.message()),
        None => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}
