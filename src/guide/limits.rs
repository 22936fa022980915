//! Limits of a grammar, whose author may mean harm.

use std::panic::AssertUnwindSafe;

use llguidance::{api::ParserLimits, panic_utils::catch_unwind};

use crate::{Error, Result, platform};

/// Most bytes of a grammar.
const MOST_BYTES: usize = 256 << 10;
/// Most brackets that are open at once, counted as though none of them stood in a text.
const MOST_OPEN: usize = 100;
/// Most rules of a grammar, or references of a schema: compiling takes the square of them, a second for so many.
const MOST_RULES: usize = 1000;
/// Stack for compiling: llguidance walks through a grammar by calls of calls.
const STACK: usize = 256 << 20;
/// Most characters of a message of llguidance.
const MOST_SAID: usize = 1000;

/// llguidance's own limits, without its verbose errors: wider ones let a grammar of somebody who means harm hold a step
/// for minutes.
pub(super) fn quiet(limits: &mut ParserLimits) {
    limits.verbose_errors = false;
}

/// Refuses a grammar by its size, its depth, and the count of a text that every rule contains.
pub(super) fn check(text: &str, rule: &str) -> Result<()> {
    if text.len() > MOST_BYTES {
        return Err(Error::Grammar(format!("it has {} bytes, at most {MOST_BYTES} are read", text.len())));
    }
    let mut open = 0usize;
    let mut most = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    let rules = text.matches(rule).count();
    match (most > MOST_OPEN, rules > MOST_RULES) {
        (true, _) => Err(Error::Grammar(format!("{most} brackets are open at once, at most {MOST_OPEN} are read"))),
        (_, true) => Err(Error::Grammar(format!("it has {rules} times '{rule}', at most {MOST_RULES} are read"))),
        _ => Ok(()),
    }
}

/// Runs llguidance; a panic in it is an error like any other, and silent.
pub(super) fn guarded<T>(f: impl FnOnce() -> anyhow::Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|error| Error::Grammar(plain(&format!("{error:#}"))))
}

/// As [`guarded`], on a thread with a large stack.
pub(super) fn with_room<T: Send>(f: impl FnOnce() -> anyhow::Result<T> + Send) -> Result<T> {
    let failed = |what: &str| Error::Grammar(format!("compiling it failed: {what}"));
    let ended = platform::with_stack(STACK, || guarded(f)).map_err(|error| failed(&error.to_string()))?;
    ended.unwrap_or_else(|_| Err(failed("its thread ended")))
}

/// A message without the backtrace that llguidance puts behind that of a panic.
fn plain(message: &str) -> String {
    let message = message.split("\n<backtrace>").next().unwrap_or_default();
    match message.char_indices().nth(MOST_SAID) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message.to_string(),
    }
}
