//! The WebAssembly module of the npm package: what its worker calls.
//!
//! Objects that go in and out are plain: options and events are JSON. Errors are JavaScript's, with the library's text
//! as the message and a `kind` to tell them apart.

mod conversation;
mod doctor;
mod embedder;
mod error;
mod files;
mod generator;
mod model;
mod options;

use std::cell::RefCell;

use gemmaflow::generate::CancelToken;
use wasm_bindgen::prelude::*;

use crate::error::Fault;

/// Called once when the module is there.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// Ends the work that it was given to.
#[wasm_bindgen]
#[derive(Default)]
pub struct Cancel {
    token: CancelToken,
    /// That of the conversation that it was given to.
    answer: RefCell<Option<CancelToken>>,
}

#[wasm_bindgen]
impl Cancel {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn cancel(&self) {
        self.token.cancel();
        self.answer.borrow().iter().for_each(CancelToken::cancel);
    }
}

impl Cancel {
    fn token(&self) -> CancelToken {
        self.token.clone()
    }

    /// Cancels `token` too, at once if it was cancelled before.
    fn ends(&self, token: CancelToken) {
        if self.token.is_cancelled() {
            token.cancel();
        }
        *self.answer.borrow_mut() = Some(token);
    }
}

/// A checksum of bytes that come in pieces.
#[wasm_bindgen]
#[derive(Default)]
pub struct Sha256(sha2::Sha256);

#[wasm_bindgen]
impl Sha256 {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// Of the bytes so far.
    pub fn hex(&self) -> String {
        sha2::Digest::finalize(self.0.clone()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A JavaScript value of JSON.
fn to_js(value: &serde_json::Value) -> Result<JsValue, Fault> {
    Ok(js_sys::JSON::parse(&value.to_string())?)
}
