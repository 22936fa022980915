//! What AMD's compiler makes of the kernels: reads what Mesa's RADV writes with `RADV_DEBUG=shaderstats,asm`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What became of one kernel.
#[derive(Debug, Default, Clone)]
pub struct Compiled {
    pub key: String,
    pub ms: f64,
    pub vgprs: u32,
    pub spilled_vgprs: u32,
    pub scratch: u32,
    /// Vector instructions.
    pub valu: u32,
    /// Bits of each load of weights, or of keys and values.
    pub loads: Vec<u32>,
    /// How many of the four statistics the compiler wrote.
    statistics: usize,
}

/// What became of all kernels on one family of GPUs.
#[derive(Default)]
pub struct Sweep {
    /// The driver's name and version.
    pub driver: String,
    pub kernels: Vec<Compiled>,
}

/// Compiles the kernels of `shapes` for one family of GPUs, in a process of its own.
pub fn sweep(family: &str, shapes: &[String]) -> Result<Sweep> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--shapes", &shapes.join(","), "compile", "--cooperative"])
        .env("RADV_FORCE_FAMILY", family)
        .env("RADV_DEBUG", "shaderstats,asm")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().context("a pipe")?;
    let (sweep, rest) = read(stderr)?;
    let status = child.wait()?;
    let last = sweep.kernels.last().map_or("none", |kernel| kernel.key.as_str());
    if !status.success() {
        bail!("{family}: {status}; the last kernel was {last}\n{}", rest.join("\n"));
    }
    match sweep.kernels.iter().find(|kernel| kernel.statistics != 4) {
        Some(kernel) => bail!("{family}: the driver {} says nothing about {}: is it RADV?", sweep.driver, kernel.key),
        None if sweep.kernels.is_empty() => bail!("{family}: no kernel was compiled"),
        None => Ok(sweep),
    }
}

/// The kernels, and the lines that tell of failures.
fn read(stderr: impl Read) -> Result<(Sweep, Vec<String>)> {
    let (mut sweep, mut rest) = (Sweep::default(), Vec::new());
    let mut descriptors = Descriptors::default();
    let mut lines = BufReader::new(stderr);
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        bytes.clear();
        if let Some(key) = text.strip_prefix("kernel: ") {
            sweep.kernels.push(Compiled { key: key.to_owned(), ..Compiled::default() });
            descriptors = Descriptors::default();
        } else if let Some(driver) = text.strip_prefix("driver: ") {
            sweep.driver = driver.to_owned();
        } else if text.starts_with("failed: ") || text.starts_with("error: ") {
            rest.push(text);
        } else if let Some(kernel) = sweep.kernels.last_mut() {
            kernel.take(&text, &mut descriptors)?;
        }
    }
    Ok((sweep, rest))
}

impl Compiled {
    fn take(&mut self, line: &str, descriptors: &mut Descriptors) -> Result<()> {
        let Some((name, value)) = line.split_once(": ") else {
            let binding = descriptors.follow(line);
            if let Some((binding, bits)) = binding.filter(|(binding, _)| self.reads().contains(binding)) {
                self.loads.push(bits.with_context(|| format!("binding {binding}: a load of unknown width: {line}"))?);
            }
            return Ok(());
        };
        let statistic = match name {
            "VGPRs" => &mut self.vgprs,
            "Spilled VGPRs" => &mut self.spilled_vgprs,
            "Scratch size" => &mut self.scratch,
            "VALU" => &mut self.valu,
            "compiled" => {
                self.ms = value.trim_end_matches(" ms").parse()?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        *statistic = value.parse().with_context(|| line.to_owned())?;
        self.statistics += 1;
        Ok(())
    }

    /// The bindings whose loads bound the kernel's speed.
    fn reads(&self) -> &'static [u32] {
        let (shader, options) = self.key.split_once(' ').unwrap_or((&self.key, ""));
        match shader {
            "attention_few" | "attention_tile" => &[1, 2],
            _ if !shader.starts_with("linear_") => &[],
            _ if options.contains("WEIGHTS=2") => &[2, 3],
            _ => &[2],
        }
    }
}

/// Which scalar registers hold the descriptor of which binding: descriptors of 16 bytes lie in the order of the
/// bindings.
#[derive(Default)]
struct Descriptors {
    /// Binding by the first of the four registers.
    registers: BTreeMap<u32, u32>,
}

impl Descriptors {
    /// Follows one line of assembly. A load from a buffer gives its binding and bits; `None` for bits that are not
    /// known.
    fn follow(&mut self, line: &str) -> Option<(u32, Option<u32>)> {
        let code = line.split(';').next()?.trim();
        let (instruction, operands) = code.split_once(char::is_whitespace)?;
        let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
        if let Some(width) = instruction.strip_prefix("s_load_") {
            let [target, _, offset] = operands[..] else { return None };
            self.load(bits(width)? / 128, register(target)?, number(offset)?);
            return None;
        }
        let width = instruction.strip_prefix("buffer_load_")?;
        let resource = operands.iter().find_map(|operand| register(operand))?;
        Some((*self.registers.get(&resource)?, bits(width)))
    }

    fn load(&mut self, descriptors: u32, register: u32, offset: u32) {
        for i in 0..descriptors {
            self.registers.insert(register + 4 * i, offset / 16 + i);
        }
    }
}

/// The first register of `s[8:11]`.
fn register(operand: &str) -> Option<u32> {
    operand.strip_prefix("s[")?.split(':').next()?.parse().ok()
}

/// An offset in bytes: `0x20`, `32`, `null`.
fn number(operand: &str) -> Option<u32> {
    match operand.split_whitespace().next()? {
        "null" => Some(0),
        text => text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok()),
    }
}

/// Bits of a load by the end of its name, as each generation of GPUs calls it.
fn bits(width: &str) -> Option<u32> {
    let width = width.trim_end_matches("_hi");
    Some(match width {
        "u8" | "i8" | "ubyte" | "sbyte" | "ubyte_d16" | "sbyte_d16" | "d16_u8" | "d16_i8" => 8,
        "u16" | "i16" | "ushort" | "sshort" | "short_d16" | "d16_b16" => 16,
        "b32" | "dword" => 32,
        "b64" | "dwordx2" => 64,
        "b96" | "dwordx3" => 96,
        "b128" | "dwordx4" => 128,
        "b256" | "dwordx8" => 256,
        "b512" | "dwordx16" => 512,
        _ => return None,
    })
}
