//! The text of a shader: a file with its includes, options and holes.
//!
//! A preprocessor rather than a WGSL dialect: overrides cannot choose element types, bindings and register tiles, and
//! the dialects at hand do not know every instruction that naga does. Directives stand at the start of a line:
//! `#include lib/x.wgsl` (each file once), `#if NAME == value` (or `!=`), `#elif NAME == value`, `#else`, `#endif`.
//! `${NAME}` anywhere, also in an `#include`, is the text of an option.

use std::collections::BTreeSet;

use super::{
    sizes::{self, Size, Sizes},
    sources::SOURCES,
};
use crate::{Error, Result, error::DeviceError, ir::kernel::Kernel};

/// The WGSL of a kernel, without the values of its sizes.
///
/// # Errors
/// [`DeviceError::Shader`] with file and line: an unknown file, an option that is asked for and not given or given and
/// mentioned nowhere, an `#if` left open.
pub fn compose(kernel: &Kernel, sizes: Sizes) -> Result<String> {
    Composed::new(kernel, sizes).map(|composed| composed.text)
}

/// As [`compose`] with constant sizes, for other compilers than naga, such as those of browsers: subgroup operations
/// are enabled, which naga neither needs nor knows. Their uniformity is for the tests to show: no compiler takes a
/// subgroup's result for uniform.
///
/// # Errors
/// As [`compose`].
pub fn standard(kernel: &Kernel) -> Result<String> {
    let text = compose(kernel, Sizes::Constants)?;
    let code = |line: &str| line.split("//").next().is_some_and(|code| code.contains("subgroup"));
    if !text.lines().any(code) {
        return Ok(text);
    }
    let (enables, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("enable "));
    let directives = ["enable subgroups;", "diagnostic(off, subgroup_uniformity);"];
    Ok([enables, directives.to_vec(), rest].concat().join("\n") + "\n")
}

/// The members of the uniform with the sizes of `kernel`, in order; see [`Sizes::Uniform`].
///
/// # Errors
/// As [`compose`].
pub fn uniform_sizes(kernel: &Kernel) -> Result<Vec<Size>> {
    Composed::new(kernel, Sizes::Uniform).map(|composed| composed.sizes)
}

/// Composed text that knows where its lines come from.
pub(super) struct Composed {
    pub text: String,
    /// Members of the uniform with the sizes, in order.
    pub sizes: Vec<Size>,
    origins: Vec<(String, usize)>,
}

impl Composed {
    pub fn new(kernel: &Kernel, sizes: Sizes) -> Result<Self> {
        let file = format!("{}.wgsl", kernel.shader);
        let mut composer =
            Composer { kernel, included: BTreeSet::new(), mentioned: BTreeSet::new(), enables: vec![], lines: vec![] };
        composer.file(&file, true, &At { file: &file, line: 0 })?;
        if let Some((name, _)) = kernel.options.iter().find(|(name, _)| !composer.mentioned.contains(*name)) {
            return Err(At { file: &file, line: 0 }.error(format!("option {name} is given, and nothing depends on it")));
        }
        let hole = kernel.hole.lines().enumerate().map(|(i, text)| (text.to_owned(), ("hole".to_owned(), i + 1)));
        let (mut lines, origins): (Vec<String>, _) = composer.enables.into_iter().chain(composer.lines).chain(hole).unzip();
        let (sizes, declared) = match sizes {
            Sizes::Constants => Default::default(),
            Sizes::Uniform => sizes::into_uniform(&mut lines),
        };
        lines.extend(declared);
        Ok(Self { text: lines.join("\n") + "\n", sizes, origins })
    }

    /// File and line that line `line` (from 1) of the text comes from.
    pub fn origin(&self, line: usize) -> String {
        let origin = self.origins.get(line.wrapping_sub(1));
        origin.map_or_else(|| "end".to_owned(), |(file, line)| format!("{file}:{line}"))
    }
}

struct At<'a> {
    file: &'a str,
    line: usize,
}

impl At<'_> {
    fn error(&self, problem: String) -> Error {
        Error::Device(DeviceError::Shader { shader: format!("{}:{}", self.file, self.line), problem })
    }
}

/// One `#if`. `outer` is set if its surroundings are kept, `taken` if a branch was taken, `kept` if the present one is
/// kept.
struct Branch {
    outer: bool,
    taken: bool,
    kept: bool,
    line: usize,
}

struct Composer<'a> {
    kernel: &'a Kernel,
    included: BTreeSet<String>,
    mentioned: BTreeSet<String>,
    enables: Vec<(String, (String, usize))>,
    lines: Vec<(String, (String, usize))>,
}

impl Composer<'_> {
    /// Appends a file. With `keep` off it is only searched for options, as are the branches that are not taken.
    fn file(&mut self, name: &str, keep: bool, from: &At) -> Result<()> {
        let Some((_, text)) = SOURCES.iter().find(|(file, _)| *file == name) else {
            return Err(from.error(format!("there is no shader file '{name}'")));
        };
        if keep && !self.included.insert(name.to_owned()) {
            return Ok(());
        }
        let mut branches: Vec<Branch> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let at = At { file: name, line };
            let kept = branches.last().map_or(keep, |branch| branch.kept);
            match text.strip_prefix('#') {
                Some(directive) => self.directive(directive, kept, &mut branches, &at)?,
                None => {
                    let text = self.substitute(text, kept, &at)?;
                    let to = if text.starts_with("enable ") { &mut self.enables } else { &mut self.lines };
                    to.extend(kept.then(|| (text, (name.to_owned(), line))));
                }
            }
        }
        match branches.last() {
            None => Ok(()),
            Some(open) => Err(At { file: name, line: open.line }.error("this #if has no #endif".into())),
        }
    }

    fn directive(&mut self, text: &str, kept: bool, branches: &mut Vec<Branch>, at: &At) -> Result<()> {
        let stray = || at.error(format!("#{text} without #if"));
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["include", file] => {
                let file = self.substitute(file, kept, at)?;
                // A file that an option names can be looked at only where the option counts.
                return if kept || !text.contains("${") { self.file(&file, kept, at) } else { Ok(()) };
            }
            ["if", name, relation @ ("==" | "!="), value] => {
                let holds = self.option(name, kept, at)?.is_some_and(|found| (found == value) == (relation == "=="));
                branches.push(Branch { outer: kept, taken: holds, kept: kept && holds, line: at.line });
            }
            ["elif", name, "==", value] => {
                let branch = branches.last().ok_or_else(stray)?;
                let open = branch.outer && !branch.taken;
                let holds = self.option(name, open, at)?.is_some_and(|found| found == value);
                let branch = branches.last_mut().ok_or_else(stray)?;
                branch.kept = open && holds;
                branch.taken |= holds;
            }
            ["else"] => {
                let branch = branches.last_mut().ok_or_else(stray)?;
                branch.kept = branch.outer && !branch.taken;
                branch.taken = true;
            }
            ["endif"] => branches.truncate(branches.len().checked_sub(1).ok_or_else(stray)?),
            _ => return Err(at.error(format!("#{text} is no directive"))),
        }
        Ok(())
    }

    /// The text of an option; only where it decides something must it be given.
    fn option(&mut self, name: &str, needed: bool, at: &At) -> Result<Option<&str>> {
        self.mentioned.insert(name.to_owned());
        let found = self.kernel.options.iter().find(|(option, _)| *option == name);
        if needed && found.is_none() {
            return Err(at.error(format!("option {name} is not given")));
        }
        Ok(found.map(|(_, value)| value.as_str()))
    }

    fn substitute(&mut self, text: &str, kept: bool, at: &At) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, tail) = after.split_once('}').ok_or_else(|| at.error("${ without }".into()))?;
            out = out + before + self.option(name, kept, at)?.unwrap_or_default();
            rest = tail;
        }
        Ok(out + rest)
    }
}
