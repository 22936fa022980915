use std::{
    future::{pending, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::Slot;
use crate::Error;

#[test]
fn one_loads_and_those_that_come_meanwhile_wait_for_it() {
    let slot = Slot::default();
    let mut task = Context::from_waker(Waker::noop());
    let (sender, sent) = std::sync::mpsc::channel::<u32>();
    let arrived = std::future::poll_fn(|_| sent.try_recv().map_or(Poll::Pending, |value| Poll::Ready(Ok(value))));
    let mut first = pin!(slot.get_or_load(|| ((), 0), |()| arrived));
    let mut second = pin!(slot.get_or_load(|| ((), 0), |()| pending()));
    assert!(first.as_mut().poll(&mut task).is_pending());
    assert!(second.as_mut().poll(&mut task).is_pending());
    sender.send(7).unwrap();
    assert!(matches!(first.poll(&mut task), Poll::Ready(Ok(7))));
    assert!(matches!(second.poll(&mut task), Poll::Ready(Ok(7))), "it loads nothing");
}

#[test]
fn another_device_has_its_own_and_a_failure_leaves_the_place_empty() {
    let slot = Slot::default();
    let get = |number, found: Result<u32, Error>| pollster::block_on(slot.get_or_load(|| ((), number), |()| ready(found)));
    assert_eq!(get(0, Ok(1)).unwrap(), 1);
    assert_eq!(get(0, Ok(2)).unwrap(), 1);
    assert!(matches!(get(1, Err(Error::Cancelled("a test"))), Err(Error::Cancelled(_))));
    assert_eq!(get(0, Ok(3)).unwrap(), 3, "the one of the other device was let go");
    slot.put(4, 1);
    assert_eq!(get(1, Ok(5)).unwrap(), 4);
    slot.clear();
    assert_eq!(get(1, Ok(6)).unwrap(), 6);
}

#[test]
fn one_that_is_given_while_another_loads_stays() {
    let slot = Slot::default();
    let load = |number| {
        slot.put(2, number);
        ready(Ok(1))
    };
    assert_eq!(pollster::block_on(slot.get_or_load(|| (7, 7), load)).unwrap(), 2);
    assert_eq!(pollster::block_on(slot.get_or_load(|| ((), 7), |()| pending())).unwrap(), 2);
    // Of another device it is of no use.
    assert_eq!(pollster::block_on(slot.get_or_load(|| (8, 8), |_| load(7))).unwrap(), 1);
}
