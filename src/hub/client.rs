//! Requests to the hub: a repository's list of files, a file's facts, and its bytes.

use std::{fmt::Display, time::Duration};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response, Uri},
};

use super::{HubOptions, name::is_commit, proxy::Direct};
use crate::{Error, Result, error::HubError};

/// No wait for a server is longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nor for a listing, where the cache can serve instead.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// The list of a repository's files; the longest known have some megabytes.
const MAX_LISTING: u64 = 32 << 20;
const MAX_REDIRECTS: usize = 10;
/// The name of a listing where messages have a file's.
const LISTING: &str = "the list of files";

/// The hub, and the repository that is asked for.
pub(super) struct Client {
    /// Through the proxy, if there is one.
    agent: Agent,
    /// To servers that are asked without it.
    direct: Agent,
    no_proxy: Direct,
    repository: String,
    /// Without a slash at its end.
    endpoint: String,
    token: Option<String>,
}

/// The files of a repository at its newest commit.
#[derive(serde::Deserialize)]
#[serde(from = "Answer")]
pub(super) struct Listing {
    /// The newest commit.
    pub(super) commit: String,
    /// Paths within the repository, as the server says them.
    pub(super) files: Vec<String>,
}

/// A listing as the hub writes it.
#[derive(serde::Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(serde::Deserialize)]
struct Sibling {
    rfilename: String,
}

impl From<Answer> for Listing {
    fn from(answer: Answer) -> Self {
        Self { commit: answer.sha, files: answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect() }
    }
}

impl Listing {
    pub(super) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }
}

/// A request that failed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// Why the hub cannot be reached at all, or answers nobody; none where it has answered.
    pub(super) unreachable: Option<String>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, unreachable: None }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// A request.
struct Ask<'a> {
    url: String,
    /// The file that it is for, as errors name it: addresses behind redirects may hold secrets.
    file: &'a str,
    head: bool,
    /// First byte to send.
    start: u64,
    /// How long to wait for the server, and then for its answer.
    patience: Duration,
}

/// An answer.
struct Told {
    response: Response<Body>,
    /// By the hub itself, not by a server that it redirects to.
    by_hub: bool,
}

/// A file of the repository before it is fetched.
pub(super) struct Remote {
    pub(super) name: String,
    /// The content's name, checked to be a plain file name.
    pub(super) etag: String,
    pub(super) bytes: u64,
    /// SHA-256 of the content in hexadecimal, which the hub tells of large files.
    pub(super) sha256: Option<String>,
}

impl Client {
    pub(super) fn new(repository: &str, options: &HubOptions) -> Result<Self> {
        let wrong = |option, problem: String| Error::Hub(HubError::Option { option, problem });
        let endpoint = options.endpoint.trim_end_matches('/');
        if origin(endpoint).is_none() || endpoint.contains(['?', '#']) {
            let problem = format!("{endpoint:?} is no address of a server; expected one such as https://huggingface.co");
            return Err(wrong("endpoint", problem));
        }
        let token = options.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        if token.is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(wrong("token", "it holds characters that no token has; was another file read?".to_string()));
        }
        let proxy = options.proxy.as_deref().map(Proxy::new).transpose();
        let proxy = proxy.map_err(|error| wrong("proxy", format!("{error}; expected one such as http://proxy:3128")))?;
        let agent = |proxy| {
            let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(proxy);
            let config = config.user_agent("gemmaflow").accept_encoding("identity");
            config.timeout_per_read(Some(PATIENCE)).timeout_per_write(Some(PATIENCE)).build().into()
        };
        Ok(Self {
            agent: agent(proxy),
            direct: agent(None),
            no_proxy: Direct::new(&options.no_proxy),
            repository: repository.to_string(),
            endpoint: endpoint.to_string(),
            token: token.map(str::to_string),
        })
    }

    /// The repository's newest commit and its files. `hurried`: there is something else to take where the hub does not
    /// answer soon.
    pub(super) fn listing(&self, hurried: bool) -> Result<Listing, Failed> {
        let url = format!("{}/api/models/{}/revision/main", self.endpoint, self.repository);
        let patience = if hurried { SHORT_PATIENCE } else { PATIENCE };
        let told = self.send(&Ask { url, file: LISTING, head: false, start: 0, patience }, |_| false)?;
        let status = told.response.status();
        if !status.is_success() {
            // Out of order, or too busy: as good as away.
            let away = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let unreachable = away.then(|| format!("the server answers {status}"));
            return Err(Failed { error: self.refusal(&told, None), unreachable });
        }
        let body = told.response.into_body().into_with_config().limit(MAX_LISTING).read_to_vec();
        let body = body.map_err(|error| self.unreached(LISTING, &error))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| self.failure(LISTING, error))?;
        if !is_commit(&listing.commit) {
            let problem = format!("it names the commit {:?}, expected 40 hexadecimal digits", listing.commit);
            return Err(self.failure(LISTING, problem).into());
        }
        Ok(listing)
    }

    /// Length and name of a file's content.
    pub(super) fn describe(&self, commit: &str, file: &str) -> Result<Remote> {
        let linked = |headers: &HeaderMap| ["x-linked-etag", "x-linked-size"].iter().all(|name| header(headers, name).is_some());
        let ask = Ask { url: self.address(commit, file), file, head: true, start: 0, patience: PATIENCE };
        let told = self.send(&ask, linked)?;
        let status = told.response.status();
        let headers = told.response.headers();
        let linked = linked(headers);
        if !(status.is_success() || linked && status.is_redirection()) {
            return Err(self.refusal(&told, Some(file)));
        }
        let (etag, size) = if linked { ("x-linked-etag", "x-linked-size") } else { ("etag", "content-length") };
        let etag = header(headers, etag).map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
        let plain = |etag: &str| {
            let letters = etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            letters && (1..=128).contains(&etag.len())
        };
        let Some(etag) = etag.filter(|etag| plain(etag)) else {
            return Err(self.failure(file, "the server gives no ETag that can name its content; is the endpoint a hub?"));
        };
        let Some(bytes) = header(headers, size).and_then(|size| size.parse().ok()) else {
            return Err(self.failure(file, "the server does not say how long it is; is the endpoint a hub?"));
        };
        let sha256 =
            (linked && etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())).then(|| etag.to_ascii_lowercase());
        Ok(Remote { name: file.to_string(), etag, bytes, sha256 })
    }

    /// The bytes of a file from `start` on, and whether they begin there: a server may send the whole file instead.
    pub(super) fn bytes(&self, commit: &str, remote: &Remote, start: u64) -> Result<(Body, bool)> {
        let file = &remote.name;
        let ask = Ask { url: self.address(commit, file), file, head: false, start, patience: PATIENCE };
        let told = self.send(&ask, |_| false)?;
        if !told.response.status().is_success() {
            return Err(self.refusal(&told, Some(file)));
        }
        let response = told.response;
        let partial = response.status() == 206;
        let expected = if partial {
            format!("bytes {start}-{}/{}", remote.bytes.saturating_sub(1), remote.bytes)
        } else {
            remote.bytes.to_string()
        };
        match header(response.headers(), if partial { "content-range" } else { "content-length" }) {
            Some(told) if told == expected => {}
            // Without a length the body ends where it does, and is counted.
            None if !partial => {}
            told => return Err(self.failure(file, format!("the server sends {told:?}, expected {expected:?}"))),
        }
        Ok((response.into_body(), partial))
    }

    /// A request with its redirects. The token goes to the endpoint's own origin alone. `enough` says of an answer's
    /// headers that no redirect need be followed.
    fn send(&self, ask: &Ask<'_>, enough: impl Fn(&HeaderMap) -> bool) -> Result<Told, Failed> {
        let mut url = ask.url.clone();
        let home = origin(&self.endpoint);
        for _ in 0..=MAX_REDIRECTS {
            let agent = self.agent_for(&url);
            let request = if ask.head { agent.head(&url) } else { agent.get(&url) };
            let patience = Some(ask.patience);
            let request = request.config().timeout_resolve(patience).timeout_connect(patience);
            let mut request = request.timeout_recv_response(patience).build();
            if ask.start > 0 {
                request = request.header("range", format!("bytes={}-", ask.start));
            }
            let by_hub = origin(&url) == home;
            if let Some(token) = self.token.as_ref().filter(|_| by_hub) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.unreached(ask.file, &error))?;
            let location = header(response.headers(), "location").filter(|_| response.status().is_redirection());
            let Some(location) = location.filter(|_| !enough(response.headers())) else {
                return Ok(Told { response, by_hub });
            };
            let Some(next) = target(&url, location) else {
                let shown = location.split('?').next().unwrap_or_default();
                let problem = format!("the server points to {shown:?}, which cannot be followed");
                return Err(self.failure(ask.file, problem).into());
            };
            url = next;
        }
        Err(self.failure(ask.file, format!("the server redirects more than {MAX_REDIRECTS} times")).into())
    }

    fn agent_for(&self, url: &str) -> &Agent {
        match origin(url) {
            Some((scheme, host, port)) if self.no_proxy.has(&scheme, &host, port) => &self.direct,
            _ => &self.agent,
        }
    }

    /// No answer. A proxy that refuses to connect has answered: its settings are wrong.
    fn unreached(&self, file: &str, error: &ureq::Error) -> Failed {
        let unreachable = !matches!(error, ureq::Error::ConnectProxyFailed(_));
        Failed { error: self.failure(file, error), unreachable: unreachable.then(|| error.to_string()) }
    }

    /// The error that an answer without success means.
    fn refusal(&self, told: &Told, file: Option<&str>) -> Error {
        let response = &told.response;
        let model = self.repository.clone();
        if !told.by_hub {
            let problem = format!("the server that the hub redirects to answers {}", response.status().as_u16());
            return self.failure(file.unwrap_or(LISTING), problem);
        }
        let unknown = header(response.headers(), "x-error-code") == Some("RepoNotFound");
        let page = format!("{}/{}", self.endpoint, self.repository);
        match (response.status().as_u16(), file) {
            (404, Some(file)) if !unknown => self.no_file(file),
            (404, _) | (401, _) if unknown || response.status() == 404 => {
                let token = if self.token.is_some() { "the token given may not read" } else { "needs a token" };
                Error::Hub(HubError::Missing {
                    model,
                    problem: format!("there is no {page}, or it is private and {token}; check the name"),
                })
            }
            (status @ (401 | 403), _) => Error::Hub(HubError::Access { model, status, page, token: self.token.is_some() }),
            (429, _) => self.failure(file.unwrap_or(LISTING), "the server has had too many requests from here; wait a while"),
            (status, _) => self.failure(file.unwrap_or(LISTING), format!("the server answers {status}")),
        }
    }

    /// A file that is not in the repository.
    pub(super) fn no_file(&self, file: &str) -> Error {
        Error::Hub(HubError::Missing {
            model: self.repository.clone(),
            problem: format!("there is no file {file:?} in the repository"),
        })
    }

    /// Something between here and the server.
    pub(super) fn failure(&self, file: &str, problem: impl Display) -> Error {
        Error::Hub(HubError::Transfer { model: self.repository.clone(), file: file.to_string(), problem: problem.to_string() })
    }

    fn address(&self, commit: &str, file: &str) -> String {
        let mut url = format!("{}/{}/resolve/{commit}/", self.endpoint, self.repository);
        for byte in file.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(byte.into()),
                _ => url.push_str(&format!("%{byte:02X}")),
            }
        }
        url
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port of an address that can be asked.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let default = match uri.scheme_str()? {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((uri.scheme_str()?.to_string(), uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

/// Where a redirect of `url` leads: an address, or a path on the same server. Never from encrypted to plain.
fn target(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let next = match location {
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{}{location}", rest.split('/').next()?),
        _ => location.to_string(),
    };
    let (next_scheme, ..) = origin(&next)?;
    (next_scheme == "https" || scheme == next_scheme).then_some(next)
}

#[cfg(test)]
mod tests;
