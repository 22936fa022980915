//! Sizes of a kernel as constants of its pipeline, or as data.

use crate::{Error, Result, error::DeviceError, ir::kernel::Kernel};

/// Where a kernel finds its sizes, which its text declares as overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sizes {
    /// In constants of its pipeline: drivers compute with them, and each set of sizes is a pipeline of its own.
    Constants,
    /// In a uniform at [`SIZES_BINDING`]: kernels that differ in sizes alone share a pipeline.
    Uniform,
}

/// The binding of the uniform with a kernel's sizes.
pub const SIZES_BINDING: u32 = 15;

/// A size in the uniform, four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    name: String,
    ty: String,
}

impl Sizes {
    /// Equal exactly for kernels that share a pipeline.
    pub fn key(self, kernel: &Kernel) -> String {
        match self {
            Sizes::Constants => kernel.key(),
            Sizes::Uniform => Kernel { overrides: Vec::new(), ..kernel.clone() }.key(),
        }
    }
}

/// Turns the overrides of `lines` into members of a uniform, which the lines returned declare; each line stays where it
/// is. `override A: u32 = B;` makes A another name of B.
pub(super) fn into_uniform(lines: &mut [String]) -> (Vec<Size>, Vec<String>) {
    let mut sizes = Vec::new();
    let mut names = Vec::new();
    for line in lines.iter_mut() {
        let Some((name, rest)) = line.strip_prefix("override ").and_then(|rest| rest.trim_end_matches(';').split_once(": "))
        else {
            continue;
        };
        let (ty, member) = rest.split_once(" = ").unwrap_or((rest, name));
        names.push((name.to_owned(), format!("sizes.{member}")));
        if member == name {
            sizes.push(Size { name: name.to_owned(), ty: ty.to_owned() });
        }
        line.clear();
    }
    if sizes.is_empty() {
        return (sizes, Vec::new());
    }
    lines.iter_mut().for_each(|line| *line = renamed(line, &names));
    let members: String = sizes.iter().map(|size| format!(" {}: {},", size.name, size.ty)).collect();
    let declared =
        [format!("struct Sizes {{{members} }}"), format!("@group(0) @binding({SIZES_BINDING}) var<uniform> sizes: Sizes;")];
    (sizes, declared.to_vec())
}

/// `line` with each identifier that is in `names` replaced.
fn renamed(line: &str, names: &[(String, String)]) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(word.max(first.len_utf8()));
        let member = out.ends_with('.');
        out.push_str(names.iter().find(|(name, _)| name == piece && !member).map_or(piece, |(_, new)| new));
        rest = tail;
    }
    out
}

/// The words of the uniform for `kernel`, whose shader declares `sizes`.
///
/// # Errors
/// [`DeviceError::Shader`] for a size without a value.
pub fn size_words(kernel: &Kernel, sizes: &[Size]) -> Result<Vec<u32>> {
    let word = |Size { name, ty }: &Size| {
        let given = kernel.overrides.iter().find(|(given, _)| given == name);
        let Some((_, value)) = given else {
            let problem = format!("its size {name} is not given");
            return Err(Error::Device(DeviceError::Shader { shader: kernel.to_string(), problem }));
        };
        Ok(match ty.as_str() {
            "f32" => (*value as f32).to_bits(),
            "i32" => *value as i32 as u32,
            _ => *value as u32,
        })
    };
    sizes.iter().map(word).collect()
}

#[cfg(test)]
mod tests;
