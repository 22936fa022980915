use super::*;

/// The table of RFC 6901, sections 5 and 6.
#[test]
fn pointers_of_the_specification() {
    let expected: [(&str, &[&str]); 12] = [
        ("", &[]),
        ("/foo", &["foo"]),
        ("/foo/0", &["foo", "0"]),
        ("/", &[""]),
        ("/a~1b", &["a/b"]),
        ("/c%25d", &["c%d"]),
        ("/e%5Ef", &["e^f"]),
        ("/g%7Ch", &["g|h"]),
        ("/i%5Cj", &["i\\j"]),
        ("/k%22l", &["k\"l"]),
        ("/%20", &[" "]),
        ("/m~0n", &["m~n"]),
    ];
    for (fragment, found) in expected {
        assert_eq!(steps(&unescaped(fragment).unwrap()).unwrap(), found, "{fragment}");
    }
    assert_eq!(steps(&unescaped("/~01").unwrap()).unwrap(), ["~1"], "section 4: not a slash");
    assert!(steps("/a~2b").is_err() && steps("/a~").is_err() && unescaped("/%ff").is_err());
}

/// Examples of RFC 3986, section 5.4.1.
#[test]
fn references_of_the_specification() {
    let base = "http://a/b/c/d";
    for (reference, joined) in [("g", "http://a/b/c/g"), ("/g", "http://a/g"), ("//g", "http://g"), ("g:h", "g:h"), ("", base)] {
        assert_eq!(join(base, reference), joined, "{reference}");
    }
    assert_eq!(join("", "g.json"), "g.json");
}
