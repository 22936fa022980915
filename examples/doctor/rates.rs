//! What the device reaches where nothing else holds it up.

use anyhow::Result;
use gemmaflow::{internals::runtime::measure_dispatch_cost, runtime::GpuContext};

use crate::{parts::Scope, report::Rates, roofline::Roofline};

/// The section of the report.
///
/// # Errors
/// What a measurement says.
pub fn measure(scope: &Scope, context: &GpuContext) -> Result<()> {
    scope.at("bandwidth and arithmetic");
    let roofline = Roofline::measure(context)?;
    let giga = |rate: f64| rate / 1e9;
    let mut rates = Rates {
        read_gb_s: giga(roofline.bandwidth),
        f32_gflop_s: giga(roofline.arithmetic),
        f16_gflop_s: roofline.half.map(giga),
        matrices_gflop_s: roofline.matrices.map(giga),
        dependent_dispatch_us: None,
    };
    scope.update(|report| report.rates = Some(rates));
    scope.at("dependent dispatches");
    rates.dependent_dispatch_us = Some(measure_dispatch_cost(context)? * 1e6);
    scope.update(|report| report.rates = Some(rates));
    Ok(())
}

impl Rates {
    /// What shares are shares of.
    pub fn roofline(&self) -> Roofline {
        Roofline {
            bandwidth: self.read_gb_s * 1e9,
            arithmetic: self.f32_gflop_s * 1e9,
            half: self.f16_gflop_s.map(|rate| rate * 1e9),
            matrices: self.matrices_gflop_s.map(|rate| rate * 1e9),
        }
    }
}
