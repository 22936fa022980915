//! Files and texts as people have them: each is computed as its maker meant or refused by name, never taken for something else.

#[allow(dead_code)] // The suites use a part.
#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod cancel;
mod changed_files;
mod chat_formats;
mod control_tokens;
mod file_kinds;
mod keys;
mod partial_rotation;
mod programs;
mod recommended;
mod tensor_types;
mod tying;
mod vocabularies;
