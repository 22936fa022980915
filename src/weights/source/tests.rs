//! Files in memory, and how much of a file memory holds.

use super::{FileSource, addressed};
use crate::{Error, files::Files, weights::TensorSource};

fn in_memory(bytes: Vec<u8>) -> FileSource {
    FileSource::open(&Files::new().with("shard 1", bytes).at("shard 1")).unwrap()
}

#[test]
fn a_file_in_memory_is_read_as_one_on_disk() {
    let source = in_memory((0..100).collect());
    assert_eq!((source.len(), source.path().file_name()), (100, Some("shard 1")));
    let mut out = [0; 3];
    source.read(97, &mut out).unwrap();
    assert_eq!(out, [97, 98, 99]);
    assert_eq!(source.lend(10, 2).unwrap(), Some(&[10, 11][..]));
    let said = source.read(98, &mut out).unwrap_err();
    assert!(matches!(&said, Error::Format { problem, .. } if problem.contains("3 bytes at 98")), "{said}");
    assert!(source.read(u64::MAX, &mut out).is_err());
    assert!(source.map().is_ok(), "there is nothing to map");
}

#[test]
fn memory_holds_what_is_addressed() {
    let narrow = i32::MAX as u64;
    assert_eq!(addressed(narrow, narrow), Some(i32::MAX as usize));
    assert_eq!(addressed(narrow + 1, narrow), None);
    assert_eq!(addressed(1 << 32, narrow), None);
    let source = in_memory(Vec::new());
    assert_eq!(source.room(3).unwrap(), [0; 3]);
    assert!(matches!(source.room(u64::MAX), Err(Error::Format { .. })));
}
