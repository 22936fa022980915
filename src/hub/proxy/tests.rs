//! Lists in `NO_PROXY`, read as httpx2 2.16 does, the client of huggingface_hub.

use ureq::http::Uri;

use super::*;

const SERVERS: [&str; 18] = [
    "https://example.com/",
    "http://example.com/x",
    "https://www.example.com/",
    "https://wwwexample.com/",
    "https://huggingface.co/",
    "http://localhost/",
    "http://localhost:8080/",
    "http://sub.localhost/",
    "http://127.0.0.1:8080/",
    "http://127.9.9.9/",
    "https://10.1.2.3/",
    "https://192.168.7.7:8443/",
    "http://[::1]/",
    "http://[::1]:8080/",
    "http://[fd12::3]/",
    "http://example.com:8080/",
    "https://other.org/",
    "https://EXAMPLE.com/",
];

/// Lists, and for each server whether it is asked directly (`d`) or through the proxy (`p`).
const LISTS: [(&str, &str); 29] = [
    ("", "pppppppppppppppppp"),
    ("*", "dddddddddddddddddd"),
    ("example.com", "dddppppppppppppdpd"),
    (".example.com", "ppdppppppppppppppp"),
    ("*.example.com", "ppdppppppppppppppp"),
    ("EXAMPLE.com", "dddppppppppppppdpd"),
    ("a.b,example.com", "dddppppppppppppdpd"),
    (" example.com , other.org ", "dddppppppppppppddd"),
    ("localhost", "pppppddppppppppppp"),
    ("localhost:8080", "ppppppdppppppppppp"),
    ("127.0.0.1", "ppppppppdppppppppp"),
    ("127.0.0.0/8", "ppppppppddpppppppp"),
    ("10.0.0.0/8,192.168.0.0/16", "ppppppppppddpppppp"),
    ("::1", "ppppppppppppddpppp"),
    ("[::1]", "ppppppppppppddpppp"),
    ("fd00::/8", "ppppppppppppppdppp"),
    ("http://example.com", "pdpppppppppppppdpp"),
    ("https://example.com", "dppppppppppppppppd"),
    ("example.com:8080", "pppppppppppppppdpp"),
    ("x,*,y", "dddddddddddddddddd"),
    ("192.168.1.1/33", "pppppppppppppppppp"),
    ("all://example.com", "ddpppppppppppppdpd"),
    ("all://*example.com", "dddppppppppppppdpd"),
    ("https://", "dpdddpppppddppppdd"),
    ("not a host/at all", "pppppppppppppppppp"),
    ("[::1]:8080", "pppppppppppppdpppp"),
    ("127.0.0.1:8080", "ppppppppdppppppppp"),
    ("co", "ppppdppppppppppppp"),
    ("example.com.", "pppppppppppppppppp"),
];

#[test]
fn servers_are_asked_directly_where_hugging_faces_client_does() {
    for (list, expected) in LISTS {
        let direct = Direct::new(&list.split(',').map(str::to_string).collect::<Vec<_>>());
        let asked = SERVERS.map(|server| {
            let uri: Uri = server.parse().unwrap();
            let scheme = uri.scheme_str().unwrap();
            let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
            direct.has(scheme, uri.host().unwrap(), port)
        });
        let found: String = asked.iter().map(|direct| if *direct { 'd' } else { 'p' }).collect();
        assert_eq!(found, expected, "{list:?}");
    }
}
