//! A hub on this machine: it answers as Hugging Face's does, with small files itself and large ones by redirect to
//! another server, and can be told to fail.
#![allow(dead_code)] // Each test binary uses a part.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use sha2::{Digest, Sha256};

pub const REPOSITORY: &str = "some-one/tiny.model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, with its headers' names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn range_start(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How one answer with a large file's bytes goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// It ends without an answer.
    Drop,
    /// The whole file, whatever was asked for.
    IgnoreRange,
    /// The right range of other bytes.
    OtherBytes,
    /// A header instead of the right one.
    Header(&'static str, String),
    Status(u16),
}

#[derive(Default)]
pub struct State {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Without this token files are refused with this status.
    pub gate: Option<(&'static str, u16)>,
    /// The answer to every request for this repository: a status and the hub's code for it.
    pub refuse: Option<(u16, Option<&'static str>)>,
    /// Instead of the right `ETag` of small files.
    pub etag: Option<String>,
    /// What becomes of the next answers with a large file's bytes.
    pub faults: VecDeque<Fault>,
    /// Where files are redirected to instead.
    pub redirect: Option<String>,
    /// Requests to the hub, and to the server of large files.
    pub asked: Vec<Request>,
    pub fetched: Vec<Request>,
}

pub struct Hub {
    state: Arc<Mutex<State>>,
    hub: Server,
    large: Server,
}

impl Hub {
    /// With these files; those that end in `.safetensors` or `.gguf` are large.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let state = State { commit: COMMIT.into(), files: files.into_iter().collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let of_large = state.clone();
        let large = Server::start(move |request| {
            let mut state = of_large.lock().unwrap();
            state.fetched.push(request.clone());
            send_large(&mut state, request)
        });
        let (of_hub, at) = (state.clone(), large.address);
        let hub = Server::start(move |request| {
            let mut state = of_hub.lock().unwrap();
            state.asked.push(request.clone());
            answer(&state, request, at)
        });
        Self { state, hub, large }
    }

    /// The files of a folder.
    pub fn of_folder(folder: &Path, names: &[&str]) -> Self {
        Self::new(names.iter().map(|name| (name.to_string(), std::fs::read(folder.join(name)).unwrap())))
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        let mut state = self.state();
        state.asked.clear();
        state.fetched.clear();
    }
}

/// The name that the hub gives a content: SHA-256 of large files, 40 digits of small ones.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if is_large(name) { digest } else { digest[..40].to_string() }
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf"].iter().any(|end| name.ends_with(end))
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are sent; none: the connection ends without an answer.
    sent: Option<usize>,
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, sent: Some(body.len()), body, headers: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

fn answer(state: &State, request: &Request, large: SocketAddr) -> Answer {
    if let Some((status, code)) = state.refuse {
        let answer = Answer::new(status, b"refused".to_vec());
        return code.into_iter().fold(answer, |answer, code| answer.with("x-error-code", code));
    }
    if request.path == format!("/api/models/{REPOSITORY}/revision/main") {
        let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let listing = serde_json::json!({"sha": state.commit, "siblings": siblings, "private": false});
        return Answer::new(200, listing.to_string().into_bytes());
    }
    if let Some((token, status)) = state.gate
        && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return Answer::new(status, Vec::new()).with("x-error-code", "GatedRepo");
    }
    if let Some(target) = &state.redirect {
        return Answer::new(302, Vec::new()).with("location", target);
    }
    // Small files are one redirect away, on the same server.
    let path = request.path.replace("%20", " ");
    let cached = path.strip_prefix("/cache");
    let prefix = format!("/{REPOSITORY}/resolve/{}/", state.commit);
    let Some((name, bytes)) = cached.unwrap_or(&path).strip_prefix(&prefix).and_then(|name| state.files.get_key_value(name))
    else {
        return Answer::new(404, Vec::new()).with("x-error-code", "EntryNotFound");
    };
    let etag = etag(name, bytes);
    if is_large(name) {
        let answer = Answer::new(302, b"Found".to_vec()).with("location", format!("http://{large}/{etag}?signature=secret"));
        return answer.with("x-linked-etag", format!("\"{etag}\"")).with("x-linked-size", bytes.len());
    }
    match cached {
        None => Answer::new(307, Vec::new()).with("location", format!("/cache{}", request.path)),
        Some(_) => {
            let etag = state.etag.clone().unwrap_or(format!("W/\"{etag}\""));
            Answer::new(200, bytes.clone()).with("etag", etag).with("x-repo-commit", &state.commit)
        }
    }
}

fn send_large(state: &mut State, request: &Request) -> Answer {
    let name = request.path.trim_start_matches('/').split('?').next().unwrap();
    let Some(bytes) = state.files.iter().find(|(file, bytes)| etag(file, bytes) == name).map(|(_, bytes)| bytes.clone()) else {
        return Answer::new(404, Vec::new());
    };
    let fault = state.faults.pop_front();
    let start = request.range_start().filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let mut answer = match start {
        None => Answer::new(200, bytes),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206, bytes[start..].to_vec()).with("content-range", range)
        }
    };
    match fault {
        None | Some(Fault::IgnoreRange) => {}
        Some(Fault::Cut(count)) => answer.sent = Some(count),
        Some(Fault::Drop) => answer.sent = None,
        Some(Fault::OtherBytes) => answer.body.iter_mut().for_each(|byte| *byte = !*byte),
        Some(Fault::Header(name, value)) => answer = answer.with(name, value),
        Some(Fault::Status(status)) => answer = Answer::new(status, Vec::new()),
    }
    answer
}

/// One request a connection, one connection at a time.
struct Server {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(respond: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            for stream in listener.incoming() {
                // A client may leave when it likes.
                match stream.and_then(|stream| serve(stream, &respond)) {
                    Ok(true) | Err(_) => {}
                    Ok(false) => return,
                }
            }
        };
        Self { address, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let quit = TcpStream::connect(self.address).and_then(|mut stream| stream.write_all(b"QUIT\r\n\r\n"));
        if let (Ok(()), Some(thread)) = (quit, self.thread.take()) {
            thread.join().ok();
        }
    }
}

/// Answers one request; whether to go on.
fn serve(mut stream: TcpStream, respond: &impl Fn(&Request) -> Answer) -> std::io::Result<bool> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    if first == "QUIT" {
        return Ok(false);
    }
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let mut words = first.split(' ').map(str::to_string);
    let request = Request { method: words.next().unwrap_or_default(), path: words.next().unwrap_or_default(), headers };
    let answer = respond(&request);
    let Some(sent) = answer.sent else { return Ok(true) };
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "content-length") {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..sent])?;
    }
    stream.flush()?;
    Ok(true)
}
