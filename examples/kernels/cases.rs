//! The kernels of the cases on which every op is tested.

use anyhow::Result;
use gemmaflow::{
    internals::{
        ir::{LowerOptions, kernel::Target},
        lower::{Unplaced, lower},
    },
    ir::{DimBinding, Op},
};

use crate::models::Kernels;

impl Kernels {
    /// All that the cases of all ops need on a device.
    pub fn add_cases(&mut self, target: &Target) -> Result<()> {
        for case in Op::examples().iter().flat_map(|op| op.cases()) {
            let plan = lower(&case.graph()?, &DimBinding::new(), target, &LowerOptions::default(), &Unplaced)?;
            self.add(plan, &format!("{} '{}'", case.op.name(), case.name));
        }
        Ok(())
    }
}
