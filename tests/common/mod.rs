//! What the suites share: oracle checkpoints and comparisons.
#![allow(dead_code)]

pub mod oracle;
