//! Errors of devices and drivers.

/// A GPU, or its driver, that cannot do what was asked.
///
/// After [`Lost`](Self::Lost) the handles are dead: load the model again, or call `Model::recover`.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No adapter fits what was asked for.
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    /// The device's limits or features are too small for the model.
    #[error("device '{adapter}' offers {name} = {available}, this needs {needed}; {advice}")]
    Limit {
        /// The adapter's name.
        adapter: String,
        /// The limit or feature, as wgpu names it.
        name: String,
        /// The device's value.
        available: u64,
        /// The value needed.
        needed: u64,
        /// The remedy.
        advice: String,
    },
    /// The device (or the host) has no memory left for this.
    #[error("out of memory: {bytes} bytes for {what} on '{adapter}'; close other models or choose a smaller context")]
    OutOfMemory {
        /// The purpose of the memory.
        what: String,
        /// The bytes asked for.
        bytes: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// The driver dropped the device. The handles are dead; load the model again.
    #[error("the GPU device was lost ({0}); load the model again, on another device if it happens twice")]
    Lost(String),
    /// The device did not answer in time.
    #[error(
        "the GPU did not finish within {seconds} s ({what}); the driver may hang: try a smaller prefill chunk or another device"
    )]
    Timeout {
        /// The work that was waited for.
        what: String,
        /// The time limit.
        seconds: u64,
    },
    /// A call would wait for the device on a thread that may not block, as a browser's.
    #[error(
        "{what} would block this thread, which must not wait; await its asynchronous form, the function of the same name \
         that ends in _async (open_async, step_async, decode_batch_async, save_async, …)"
    )]
    WouldBlock {
        /// The work that would be waited for.
        what: String,
    },
    /// The driver refused something that passed our own checks.
    #[error("the GPU driver refused {what}: {message}")]
    Driver {
        /// The work under way.
        what: String,
        /// wgpu's message.
        message: String,
    },
    /// A kernel computes something else than the reference on this device, and no safer one is right there.
    #[error(
        "wrong kernel {kernel} on {device}: {problem}; update the driver, choose another adapter, or compute on the CPU reference \
         (Device::Cpu)"
    )]
    WrongKernel {
        /// The kernel's shader, several where it takes more than one dispatch, and its position in the model.
        kernel: String,
        /// The adapter, and its driver's name and version.
        device: String,
        /// The fault.
        problem: String,
    },
    /// A shader could not be composed or compiled.
    #[error("shader '{shader}': {problem}")]
    Shader {
        /// The shader file, with line where known.
        shader: String,
        /// The fault.
        problem: String,
    },
}
