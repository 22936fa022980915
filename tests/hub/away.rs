//! A hub that cannot be reached, a proxy on the way, and several who fetch at once.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
    time::Duration,
};

use gemmaflow::{
    Error,
    hub::{HubOptions, download},
};

use crate::{COMMIT, Case, REPOSITORY, WEIGHTS, server::Fault, transfer_error};

/// A port that nobody listens at.
fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}")
}

#[test]
fn a_full_cache_serves_where_the_hub_is_away() {
    let case = Case::small();
    let folder = case.get().unwrap();
    let from = |endpoint: String| download(&REPOSITORY.parse().unwrap(), HubOptions { endpoint, ..case.options() });
    assert_eq!(from(nobody()).unwrap(), folder);
    assert_eq!(from("http://no-such-host.invalid".into()).unwrap(), folder);
    // Nor does a server answer that speaks no TLS.
    assert_eq!(from(case.hub.endpoint().replace("http:", "https:")).unwrap(), folder);
    for status in [408, 429, 500, 502, 503, 504] {
        case.hub.state().refuse = Some((status, None));
        assert_eq!(case.get().unwrap(), folder, "{status}");
    }
    // What the hub says of the model or of the account is the answer.
    for (status, code) in [(401, None), (403, Some("GatedRepo")), (404, None), (404, Some("RepoNotFound")), (400, None)] {
        case.hub.state().refuse = Some((status, code));
        assert!(case.get().is_err(), "{status}");
    }
    case.hub.state().refuse = Some((503, None));
    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    transfer_error(case.get(), "503");
}

#[test]
fn a_hub_that_hangs_is_given_up_where_the_cache_is_full() {
    let case = Case::small();
    let folder = case.get().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let start = std::time::Instant::now();
    assert_eq!(download(&REPOSITORY.parse().unwrap(), HubOptions { endpoint, ..case.options() }).unwrap(), folder);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_proxy_is_asked_but_for_the_servers_that_need_none() {
    let case = Case::small();
    // A proxy that refuses all: what it was asked for is kept.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        // All of the request: bytes left unread would reset the connection, and the proxy would seem to be away.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut part = [0; 512];
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0, "{request:?}");
            request.extend(&part[..count]);
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    let through = |no_proxy: &[&str]| {
        let no_proxy = no_proxy.iter().map(|entry| entry.to_string()).collect();
        download(&REPOSITORY.parse().unwrap(), HubOptions { proxy: Some(address.clone()), no_proxy, ..case.options() })
    };
    let folder = through(&["example.com", "127.0.0.0/8"]).unwrap();
    case.is_whole(&folder);
    // The proxy has answered, so that a full cache is no way out: its settings are wrong.
    transfer_error(through(&["example.com"]), "the list of files");
    let asked = asked.join().unwrap();
    assert!(asked.contains(&case.hub.endpoint()["http://".len()..]), "{asked}");
}

#[test]
fn many_who_fetch_one_model_at_once_all_have_it_whole() {
    let case = Case::small();
    for round in 0..5 {
        let folders: Vec<_> = thread::scope(|scope| {
            let fetch = || download(&REPOSITORY.parse().unwrap(), HubOptions { on_progress: None, ..case.options() });
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for folder in folders {
            let folder = folder.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(folder.ends_with(COMMIT));
            case.is_whole(&folder);
        }
        // Each byte has come once.
        assert_eq!(case.starts().len(), 1, "round {round}");
        case.hub.forget();
        fs::remove_dir_all(case.cache().join("models--some-one--tiny.model")).unwrap();
    }
}

/// The lock is the file that Hugging Face's own client holds (`.locks/models--…/ETAG.lock`, by flock).
#[test]
fn whoever_finds_the_lock_held_waits() {
    let case = Case::small();
    case.hub.state().faults.extend([Fault::Cut(10), Fault::Drop]);
    transfer_error(case.get(), WEIGHTS);
    let held = hold(&case);
    let options = HubOptions { on_progress: Some(Box::new(|_| false)), ..case.options() };
    assert!(matches!(download(&REPOSITORY.parse().unwrap(), options), Err(Error::Cancelled(_))), "a wait can be cancelled");
    let released = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        held.unlock().unwrap();
    });
    let start = std::time::Instant::now();
    case.is_whole(&case.get().unwrap());
    assert!(start.elapsed() > Duration::from_millis(300));
    released.join().unwrap();
}

fn hold(case: &Case) -> fs::File {
    let name = case.blob(WEIGHTS).file_name().unwrap().to_str().unwrap().to_string();
    let path = case.cache().join(".locks/models--some-one--tiny.model").join(format!("{name}.lock"));
    assert!(Path::new(&path).is_file(), "{}", path.display());
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.lock().unwrap();
    file
}
