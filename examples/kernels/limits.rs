//! How good the compiled code of hot kernels must be: a table in a file, a line for a group of kernels and a family of
//! GPUs.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result, anyhow};

use crate::radv::{Compiled, Sweep};

/// Vector instructions above the limit that are let pass: compilers order alike code in unlike ways.
const SLACK: f64 = 1.02;

/// The worst of all kernels that have all of `words` in their keys, on one family.
#[derive(Clone)]
struct Line {
    family: String,
    code: Code,
    words: String,
}

#[derive(Clone, Copy, PartialEq)]
struct Code {
    vgprs: u32,
    valu: u32,
    /// Bits of the narrowest load of weights, or of keys and values; 0 where there are none.
    narrowest: u32,
    /// Bits of all loads, divided by their number.
    mean: u32,
}

pub struct Limits {
    /// The comment at the start.
    head: Vec<String>,
    /// The compiler that the figures are of.
    pub driver: String,
    lines: Vec<Line>,
}

/// How the line of the compiler begins.
const DRIVER: &str = "# driver: ";

impl Limits {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut head = Vec::new();
        let mut driver = String::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(DRIVER) {
                driver = name.to_owned();
            } else if line.starts_with('#') {
                head.push(line.to_owned());
            } else {
                lines.push(Line::parse(line).ok_or_else(|| anyhow!("{}: no limit: {line}", path.display()))?);
            }
        }
        Ok(Self { head, driver, lines })
    }

    /// The table as text, with the figures of today.
    fn text(&self) -> String {
        let mut text = format!("{}\n{DRIVER}{}\n", self.head.join("\n"), self.driver);
        for Line { family, code: Code { vgprs, valu, narrowest, mean }, words } in &self.lines {
            writeln!(text, "{family:10} {vgprs:5} {valu:5} {narrowest:9} {mean:5}  {words}").expect("text takes text");
        }
        text
    }

    /// Takes the figures of a family; lines of other families stay.
    pub fn accept(&mut self, family: &str, Sweep { driver, kernels }: &Sweep) -> Result<()> {
        self.driver.clone_from(driver);
        for line in self.lines.iter_mut().filter(|line| line.family == family) {
            line.code = Code::worst(kernels, &line.words).with_context(|| format!("{family}: no kernel has {}", line.words))?;
        }
        Ok(())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, self.text())?)
    }

    /// What is worse than a limit, and how many limits could be stricter.
    pub fn faults(&self, family: &str, kernels: &[Compiled]) -> (Vec<String>, usize) {
        let (mut faults, mut better) = (Vec::new(), 0);
        for line in self.lines.iter().filter(|line| line.family == family) {
            match Code::worst(kernels, &line.words) {
                None => faults.push(format!("{family}: no kernel has {}: mend the line in the table", line.words)),
                Some(code) if code.exceeds(line.code) => {
                    faults.push(format!("{family}: {}: {code}, the limit is {}", line.words, line.code))
                }
                Some(code) => better += usize::from(code != line.code),
            }
        }
        (faults, better)
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let family = fields.next()?.to_owned();
        let mut number = || fields.next()?.parse().ok();
        let code = Code { vgprs: number()?, valu: number()?, narrowest: number()?, mean: number()? };
        let words = fields.collect::<Vec<_>>().join(" ");
        Some(Self { family, code, words }).filter(|line| !line.words.is_empty())
    }
}

impl Code {
    fn worst(kernels: &[Compiled], words: &str) -> Option<Self> {
        let has = |key: &str| words.split(' ').all(|word| key.split(' ').any(|part| part == word));
        let codes = kernels.iter().filter(|kernel| has(&kernel.key)).map(Self::of);
        codes.reduce(|a, b| Self {
            vgprs: a.vgprs.max(b.vgprs),
            valu: a.valu.max(b.valu),
            narrowest: a.narrowest.min(b.narrowest),
            mean: a.mean.min(b.mean),
        })
    }

    fn of(kernel: &Compiled) -> Self {
        let loads = &kernel.loads;
        let narrowest = loads.iter().min().copied().unwrap_or_default();
        let mean = loads.iter().sum::<u32>() / (loads.len() as u32).max(1);
        Self { vgprs: kernel.vgprs, valu: kernel.valu, narrowest, mean }
    }

    fn exceeds(self, limit: Self) -> bool {
        let valu = f64::from(self.valu) > f64::from(limit.valu) * SLACK;
        self.vgprs > limit.vgprs || valu || self.narrowest < limit.narrowest || self.mean < limit.mean
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vgprs, valu, narrowest, mean } = self;
        write!(f, "{vgprs} VGPRs, {valu} VALU, loads of {narrowest} bits at least and {mean} on average")
    }
}
