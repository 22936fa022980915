//! Files and texts as people have them: each is computed as its maker meant or refused by name, never taken for
//! something else.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod calls;
mod cancel;
mod changed_files;
mod chat_formats;
mod control_tokens;
mod file_kinds;
mod keys;
mod partial_rotation;
mod programs;
mod recommended;
mod saved_again;
mod schemas;
mod tensor_types;
mod tying;
mod vocabularies;
