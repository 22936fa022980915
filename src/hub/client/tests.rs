use super::*;

#[test]
fn redirects_lead_to_servers_and_never_out_of_encryption() {
    let from = "https://hub.example:8443/a/b?c";
    let leads = |location| target(from, location);
    assert_eq!(leads("/x?y=1").unwrap(), "https://hub.example:8443/x?y=1");
    assert_eq!(leads("//cdn.example/x").unwrap(), "https://cdn.example/x");
    assert_eq!(leads("https://cdn.example/x").unwrap(), "https://cdn.example/x");
    for location in ["http://hub.example/x", "file:///etc/passwd", "x", "", "ftp://x/y", "https:///x"] {
        assert_eq!(leads(location), None, "{location}");
    }
    assert_eq!(target("http://localhost:1/", "http://localhost:2/").unwrap(), "http://localhost:2/");
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    assert_eq!(origin("https://Hub.Example/x"), origin("https://hub.example:443"));
    for other in ["http://hub.example/x", "https://hub.example:444/x", "https://hub.example.evil/x", "https://hub.example@evil/x"]
    {
        assert_ne!(origin("https://hub.example/x"), origin(other), "{other}");
    }
}
