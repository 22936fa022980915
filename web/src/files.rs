//! Files that the worker serves.

use std::io;

use gemmaflow::files::{Files, ModelPath, ReadAt};
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;

use crate::error::{Fault, text};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
export interface FileEntry {
  path: string;
  size: number;
  /** Fills `into` with the bytes from `offset` on, at once. Throws where it cannot. */
  read(offset: number, into: Uint8Array): void;
}
"#;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(typescript_type = "FileEntry")]
    pub type FileEntry;
    #[wasm_bindgen(method, getter)]
    fn path(this: &FileEntry) -> String;
    #[wasm_bindgen(method, getter)]
    fn size(this: &FileEntry) -> f64;
    #[wasm_bindgen(method, catch)]
    fn read(this: &FileEntry, offset: f64, into: &mut [u8]) -> Result<(), JsValue>;
}

/// Bytes up to which numbers of JavaScript count each.
const MOST: f64 = 9_007_199_254_740_991.0;

struct Served {
    entry: SendWrapper<FileEntry>,
    len: u64,
}

impl ReadAt for Served {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.entry.read(offset as f64, out).map_err(|error| io::Error::other(text(&error)))
    }
}

/// The place `path` among the worker's files.
pub fn at(entries: Vec<FileEntry>, path: String) -> Result<ModelPath, Fault> {
    let mut files = Files::new();
    for entry in entries {
        let (name, size) = (entry.path(), entry.size());
        if !(0.0..=MOST).contains(&size) || size.fract() != 0.0 {
            return Err(Fault::input(format!("the file '{name}' has size {size}, expected a number of bytes")));
        }
        files = files.with(name, Served { entry: SendWrapper::new(entry), len: size as u64 });
    }
    Ok(files.at(path))
}
