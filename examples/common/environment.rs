//! What the environment says of the Hugging Face Hub, by the names and rules of `huggingface_hub` (its `constants.py`).

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use gemmaflow::hub::HubOptions;

/// The environment, or what a test puts in its place.
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// Where models come from, where they are kept, and with which token and proxy they are asked for.
    pub fn hub_options(&self) -> Result<HubOptions> {
        let home = self.hub_home()?;
        let cache = self.path("HF_HUB_CACHE")?.or(self.path("HUGGINGFACE_HUB_CACHE")?);
        let mut options = HubOptions::new(cache.unwrap_or_else(|| home.join("hub")));
        if let Some(endpoint) = self.text("HF_ENDPOINT")? {
            options.endpoint = endpoint;
        }
        if !self.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")? {
            options.token = self.token(&home)?;
        }
        // The first that is set counts, whatever it says.
        options.offline = match self.text("HF_HUB_OFFLINE")? {
            Some(value) => is_true(&value),
            None => self.is_true("TRANSFORMERS_OFFLINE")?,
        };
        let own = if options.endpoint.starts_with("https:") { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        options.proxy = self.proxy_variable(own)?.or(self.proxy_variable("ALL_PROXY")?);
        let direct = self.proxy_variable("NO_PROXY")?.unwrap_or_default();
        options.no_proxy = direct.split(',').map(str::to_string).collect();
        Ok(options)
    }

    fn hub_home(&self) -> Result<PathBuf> {
        if let Some(home) = self.path("HF_HOME")? {
            return Ok(home);
        }
        let cache = match self.path("XDG_CACHE_HOME")? {
            Some(cache) => cache,
            None => self.home().context("there is no home folder to keep models in; set HF_HOME")?.join(".cache"),
        };
        Ok(cache.join("huggingface"))
    }

    /// From the environment, else from the file that `hf auth login` writes.
    fn token(&self, home: &Path) -> Result<Option<String>> {
        let clean = |token: String| {
            let token = token.trim_start_matches('\u{feff}').replace(['\r', '\n'], "").trim().to_string();
            Some(token).filter(|token| !token.is_empty())
        };
        let given = self.text("HF_TOKEN")?.or(self.text("HUGGING_FACE_HUB_TOKEN")?);
        if let Some(token) = given.and_then(clean) {
            return Ok(Some(token));
        }
        let file = self.path("HF_TOKEN_PATH")?.unwrap_or_else(|| home.join("token"));
        match fs::read_to_string(&file) {
            Ok(token) => Ok(clean(token)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("the access token in {}", file.display())),
        }
    }

    /// A variable that is set to something.
    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let value = value.into_string().map_err(|_| anyhow!("the variable {name} is no UTF-8 text"))?;
        Ok(Some(value))
    }

    fn is_true(&self, name: &str) -> Result<bool> {
        Ok(self.text(name)?.is_some_and(|value| is_true(&value)))
    }

    /// A variable of proxies: in lower case, which may be empty to say that there is none, else in upper case.
    fn proxy_variable(&self, name: &str) -> Result<Option<String>> {
        let lower = name.to_lowercase();
        if (self.0)(&lower).is_some() {
            return self.text(&lower);
        }
        self.text(name)
    }

    /// A path, with `~` and the names of variables replaced.
    fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        match value.into_string() {
            Ok(text) => Ok(Some(PathBuf::from(self.with_variables(&self.with_home(&text, name)?)))),
            // What is no text names no variable.
            Err(path) => Ok(Some(PathBuf::from(path))),
        }
    }

    fn home(&self) -> Option<PathBuf> {
        let home = if cfg!(windows) { None } else { (self.0)("HOME").filter(|home| !home.is_empty()) };
        home.map(PathBuf::from).or_else(std::env::home_dir)
    }

    /// `~` and `~user` at the beginning replaced by their folders.
    fn with_home(&self, path: &str, name: &str) -> Result<String> {
        let Some(rest) = path.strip_prefix('~') else { return Ok(path.to_string()) };
        let end = rest.find(std::path::is_separator).unwrap_or(rest.len());
        let (user, rest) = rest.split_at(end);
        let home = if user.is_empty() { self.home().map(|home| home.display().to_string()) } else { home_of(user) };
        match home {
            Some(home) => Ok(format!("{}{rest}", home.trim_end_matches('/'))),
            None => bail!("{name} begins with ~{user}, whose folder is not known; write the path out"),
        }
    }

    /// `$NAME` and `${NAME}` replaced; on Windows also `%NAME%`. A name that is not set stays as it is.
    fn with_variables(&self, path: &str) -> String {
        let (mut out, mut rest) = (String::new(), path);
        while let Some(at) = rest.find(|c| c == '$' || (cfg!(windows) && c == '%')) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let (name, length) = named(from);
            match (self.0)(name).filter(|_| !name.is_empty()) {
                Some(value) => out.push_str(&value.to_string_lossy()),
                None => out.push_str(&from[..length]),
            }
            rest = &from[length..];
        }
        out + rest
    }
}

/// The variable that a text beginning with `$` or `%` names, empty where it names none, and how long that part of the
/// text is.
fn named(text: &str) -> (&str, usize) {
    let inside = |open: usize, close: char| match text[open..].find(close) {
        Some(length) => (&text[open..open + length], open + length + 1),
        None => ("", 1),
    };
    if text.starts_with('%') {
        return inside(1, '%');
    }
    if text.starts_with("${") {
        return inside(2, '}');
    }
    let name = &text[1..];
    let length = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    (&name[..length], 1 + length)
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

/// The home folder of another user.
fn home_of(user: &str) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&user));
    fields?.get(5).map(|home| home.to_string())
}
