//! The bindings of a composed shader.

use naga::{AddressSpace, StorageAccess, valid};

use super::{
    compose::Composed,
    sizes::{Size, Sizes},
};
use crate::{Error, Result, error::DeviceError, ir::kernel::Kernel};

/// How a shader uses a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
    /// `var<uniform>`
    Uniform,
}

/// One buffer of group 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub number: u32,
    /// Its name in the shader.
    pub name: String,
    /// How it is used.
    pub access: Access,
}

/// A parsed and validated shader.
pub struct Reflected {
    /// The module.
    pub module: naga::Module,
    /// The findings of validation.
    pub info: valid::ModuleInfo,
    /// The buffers of group 0, by number.
    pub bindings: Vec<Binding>,
    /// Members of the uniform with the sizes, in order; none where they are constants.
    pub sizes: Vec<Size>,
}

/// Composes, parses and validates a kernel's shader.
///
/// # Errors
/// [`DeviceError::Shader`] with the file and line that the composed line comes from; also for a binding outside of
/// group 0, for one that is no buffer, and for anything but one entry point.
pub fn reflect(kernel: &Kernel, sizes: Sizes) -> Result<Reflected> {
    let composed = Composed::new(kernel, sizes)?;
    let error = |line: Option<u32>, problem: String| {
        let place = line.map_or_else(|| format!("{}.wgsl", kernel.shader), |line| composed.origin(line as usize));
        Error::Device(DeviceError::Shader { shader: format!("{place} (in {kernel})"), problem })
    };
    let module = naga::front::wgsl::parse_str(&composed.text)
        .map_err(|e| error(e.location(&composed.text).map(|l| l.line_number), e.emit_to_string(&composed.text)))?;
    // Which of these a device has is for wgpu to say.
    let mut validator = valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::all());
    let info = validator
        .validate(&module)
        .map_err(|e| error(e.location(&composed.text).map(|l| l.line_number), e.emit_to_string(&composed.text)))?;
    if module.entry_points.len() != 1 {
        return Err(error(None, format!("has {} entry points, expected 1", module.entry_points.len())));
    }
    let mut bindings = Vec::new();
    for (_, global) in module.global_variables.iter() {
        let Some(binding) = &global.binding else { continue };
        let name = global.name.clone().unwrap_or_default();
        let access = match global.space {
            AddressSpace::Uniform => Access::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
            AddressSpace::Storage { .. } => Access::Read,
            _ => return Err(error(None, format!("'{name}' is bound and no buffer"))),
        };
        if binding.group != 0 {
            return Err(error(None, format!("'{name}' is in group {}, expected 0", binding.group)));
        }
        bindings.push(Binding { number: binding.binding, name, access });
    }
    bindings.sort_by_key(|binding| binding.number);
    Ok(Reflected { module, info, bindings, sizes: composed.sizes })
}
