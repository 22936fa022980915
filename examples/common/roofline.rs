//! What a device reaches where nothing else holds it up, and the least time that a dispatch then takes.

use anyhow::Result;
use gemmaflow::{
    internals::runtime::{measure_arithmetic_rate, measure_copy_bandwidth, measure_matrix_rate},
    ir::DType,
    runtime::{DispatchTime, GpuContext},
};

/// What the device reaches where nothing else holds it up.
#[derive(Clone, Copy)]
pub struct Roofline {
    /// Bytes a second.
    pub bandwidth: f64,
    /// Operations a second in f32, without matrix units.
    pub arithmetic: f64,
    /// The same in f16, where the device has it.
    pub half: Option<f64>,
    /// Operations a second of matrix units, f16 summed in f32, where the kernels use them.
    pub matrices: Option<f64>,
}

impl Roofline {
    /// Measures it.
    pub fn measure(context: &GpuContext) -> Result<Self> {
        Ok(Self {
            bandwidth: measure_copy_bandwidth(context)?,
            arithmetic: measure_arithmetic_rate(context, DType::F32)?,
            half: context.capabilities().f16.then(|| measure_arithmetic_rate(context, DType::F16)).transpose()?,
            matrices: measure_matrix_rate(context)?,
        })
    }

    /// The least seconds that a dispatch takes.
    pub fn seconds(&self, dispatch: &DispatchTime) -> f64 {
        let rate = self.matrices.filter(|_| dispatch.uses_matrices).unwrap_or(self.arithmetic);
        (dispatch.cost.bytes as f64 / self.bandwidth).max(dispatch.cost.flops as f64 / rate)
    }
}
