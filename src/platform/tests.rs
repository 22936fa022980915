//! Both roads, on a system that has threads.

use std::{cell::Cell, future::pending, time::Duration};

use super::{native, wait, web};
use crate::{Error, error::DeviceError};

#[test]
fn a_browser_takes_what_is_ready_and_waits_for_nothing() {
    assert_eq!(web::at_once(async { 3 }), Some(3));
    assert_eq!(web::at_once(pending::<u32>()), None);
    assert_eq!(native::at_once(async { 3 }), Some(3));
    assert_eq!(wait("a sum", async { Ok(3) }).unwrap(), 3);
    let said = super::would_block("a step").to_string();
    assert!(said.starts_with("a step would block this thread") && said.contains("step_async"), "{said}");
    assert!(matches!(super::would_block("a step"), Error::Device(DeviceError::WouldBlock { .. })));
}

#[test]
fn work_is_done_with_threads_and_without() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let work = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (_, others) = native::on_threads(2, work);
    assert_eq!((others.len(), count.load(std::sync::atomic::Ordering::Relaxed)), (2, 3));
    let (own, others) = web::on_threads(2, work);
    assert_eq!((own, others.len()), (3, 0));
    assert!(native::cores() >= web::cores());

    let before = native::Instant::now();
    web::pause(Duration::from_secs(60));
    native::pause(Duration::from_millis(2));
    assert!((Duration::from_millis(2)..Duration::from_secs(60)).contains(&before.elapsed()));

    let left = Cell::new(0);
    let other = std::sync::Mutex::new(0);
    let add = || *other.lock().unwrap() += 1;
    assert_eq!(native::beside(add, || left.replace(1)), 0);
    assert_eq!(web::beside(add, || left.replace(2)), 1);
    assert_eq!(*other.lock().unwrap(), 1, "a browser leaves it out");
    assert!(web::spawn("none", || ()).is_err());
    let (sender, receiver) = std::sync::mpsc::channel();
    native::spawn("one", move || sender.send(1).unwrap()).unwrap();
    assert_eq!(receiver.recv(), Ok(1));
}

#[cfg(feature = "tokenizer")]
#[test]
fn a_large_stack_is_a_threads() {
    fn deep(left: usize) -> usize {
        let room = std::hint::black_box([left; 64]);
        if left == 0 { 0 } else { deep(left - 1) + room[0] - left + 1 }
    }
    assert_eq!(native::with_stack(256 << 20, || deep(100_000)).unwrap().unwrap(), 100_000);
    assert!(native::with_stack(1 << 20, || panic!("on purpose")).unwrap().is_err());
    assert_eq!(web::with_stack(256 << 20, || deep(100)).unwrap().unwrap(), 100);
}

#[test]
fn files_are_read_where_there_are_any() {
    assert!(native::check_files().is_ok());
    let said = web::check_files().unwrap_err().to_string();
    assert!(said.contains("gemmaflow::files::Files"), "{said}");
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, b"abcdef").unwrap();
    let mut out = [0; 3];
    native::read_exact_at(&file, &mut out, 2).unwrap();
    assert_eq!(&out, b"cde");
    assert_eq!(native::read_exact_at(&file, &mut out, 4).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(web::read_exact_at(&file, &mut out, 0).is_err());
}

#[test]
fn the_two_have_the_same_face() {
    assert_eq!([native::BLOCKS, web::BLOCKS], [true, false]);
}
