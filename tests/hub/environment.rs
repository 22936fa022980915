//! The environment of the Hub, against what huggingface_hub 2.4 makes of it.

use std::{ffi::OsString, fs, path::Path};

use gemmaflow::hub::HubOptions;

use crate::environment::Environment;

/// Cache and endpoint without any variable.
const CACHE: &str = "HOME/.cache/huggingface/hub";
const SITE: &str = "https://huggingface.co";

/// Variables, and what huggingface_hub takes as cache, offline mode, endpoint and token. `HOME` is a folder with two
/// stored tokens.
type Row = (&'static [(&'static str, &'static str)], &'static str, bool, &'static str, Option<&'static str>);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (&[], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_HOME", "~/a")], "HOME/a/hub", false, SITE, Some("hf_of_a")),
    (&[("HF_HOME", "$HOME/b")], "HOME/b/hub", false, SITE, None),
    (&[("HF_HOME", "${HOME}/b/$UNSET/${UNSET}/$")], "HOME/b/$UNSET/${UNSET}/$/hub", false, SITE, None),
    (&[("HF_HOME", "~"), ("X", "1")], "HOME/hub", false, SITE, None),
    (&[("HF_HOME", "/x/$X$Y-${X}z/$X_"), ("X", "1"), ("Y", "2")], "/x/12-1z/$X_/hub", false, SITE, None),
    (&[("XDG_CACHE_HOME", "~/xdg")], "HOME/xdg/huggingface/hub", false, SITE, None),
    (&[("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "/h")], "/h/hub", false, SITE, None),
    (&[("HF_HUB_CACHE", "$HOME/c")], "HOME/c", false, SITE, Some("hf_stored")),
    (&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/d")], "/c", false, SITE, Some("hf_stored")),
    (&[("HUGGINGFACE_HUB_CACHE", "~/d")], "HOME/d", false, SITE, Some("hf_stored")),
    (&[("HUGGINGFACE_HUB_CACHE", "$D/d"), ("HF_HOME", "/h"), ("D", "/e")], "/e/d", false, SITE, None),
    (&[("HF_HOME", "/h/~/x")], "/h/~/x/hub", false, SITE, None),
    (&[("HF_HOME", "rel/$N"), ("N", "n")], "rel/n/hub", false, SITE, None),
    (&[("HF_HUB_OFFLINE", "1")], CACHE, true, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "true")], CACHE, true, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "On")], CACHE, true, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "y")], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "2")], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "yes")], CACHE, true, SITE, Some("hf_stored")),
    (&[("TRANSFORMERS_OFFLINE", "1")], CACHE, true, SITE, Some("hf_stored")),
    (&[("TRANSFORMERS_OFFLINE", "YES")], CACHE, true, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")], CACHE, true, SITE, Some("hf_stored")),
    (&[("HF_TOKEN", "hf_x")], CACHE, false, SITE, Some("hf_x")),
    (&[("HF_TOKEN", " hf_x\r\n")], CACHE, false, SITE, Some("hf_x")),
    (&[("HUGGING_FACE_HUB_TOKEN", "hf_old")], CACHE, false, SITE, Some("hf_old")),
    (&[("HF_TOKEN", "hf_x"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")], CACHE, false, SITE, Some("hf_x")),
    (&[("HF_TOKEN", ""), ("HUGGING_FACE_HUB_TOKEN", "hf_old")], CACHE, false, SITE, Some("hf_old")),
    (&[("HF_TOKEN", "  "), ("HUGGING_FACE_HUB_TOKEN", "hf_old")], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_TOKEN_PATH", "~/a/token")], CACHE, false, SITE, Some("hf_of_a")),
    (&[("HF_TOKEN_PATH", "$HOME/none")], CACHE, false, SITE, None),
    (&[("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], CACHE, false, SITE, None),
    (&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true")], CACHE, false, SITE, None),
    (&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")], CACHE, false, SITE, Some("hf_stored")),
    (&[("HF_ENDPOINT", "https://mirror.example/")], CACHE, false, "https://mirror.example", Some("hf_stored")),
    (&[("HF_ENDPOINT", "http://localhost:8080/sub//")], CACHE, false, "http://localhost:8080/sub", Some("hf_stored")),
];

fn read(home: &Path, variables: &[(&str, &str)]) -> anyhow::Result<HubOptions> {
    let lookup = |name: &str| {
        let set = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        set.or_else(|| (name == "HOME").then(|| home.as_os_str().to_owned()))
    };
    Environment(&lookup).hub_options()
}

#[cfg(unix)]
#[test]
fn variables_mean_what_hugging_faces_client_makes_of_them() {
    let home = tempfile::tempdir().unwrap();
    for (file, token) in [(".cache/huggingface/token", "hf_stored\n"), ("a/token", " hf_of_a ")] {
        let file = home.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, token).unwrap();
    }
    for (variables, cache, offline, endpoint, token) in TABLE {
        let options = read(home.path(), variables).unwrap();
        let cache = cache.replace("HOME", home.path().to_str().unwrap()).replace(&format!("${}", home.path().display()), "$HOME");
        assert_eq!(options.cache, Path::new(&cache), "{variables:?}");
        assert_eq!(options.offline, *offline, "{variables:?}");
        assert_eq!(options.endpoint.trim_end_matches('/'), *endpoint, "{variables:?}");
        assert_eq!(options.token.as_deref(), *token, "{variables:?}");
    }
}

#[cfg(unix)]
#[test]
fn the_home_of_a_named_user_is_the_systems() {
    let home = tempfile::tempdir().unwrap();
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let root = users.lines().find(|line| line.starts_with("root:")).expect("every system has this user");
    let folder = root.split(':').nth(5).expect("a home");
    let options = read(home.path(), &[("HF_HOME", "~root/x")]).unwrap();
    assert_eq!(options.cache, Path::new(folder).join("x/hub"));
}

#[test]
fn a_proxy_is_that_of_the_endpoints_scheme_and_lower_case_comes_first() {
    let home = tempfile::tempdir().unwrap();
    let proxy = |variables: &[(&str, &str)]| read(home.path(), variables).unwrap().proxy;
    let plain = ("HF_ENDPOINT", "http://mirror.example");
    assert_eq!(proxy(&[]), None);
    assert_eq!(proxy(&[("HTTPS_PROXY", "a"), ("HTTP_PROXY", "b"), ("ALL_PROXY", "c")]).unwrap(), "a");
    assert_eq!(proxy(&[("https_proxy", "a"), ("HTTPS_PROXY", "b")]).unwrap(), "a");
    assert_eq!(proxy(&[("https_proxy", ""), ("HTTPS_PROXY", "b")]), None);
    assert_eq!(proxy(&[("HTTP_PROXY", "b"), ("all_proxy", "c")]).unwrap(), "c");
    assert_eq!(proxy(&[plain, ("HTTPS_PROXY", "a"), ("http_proxy", "b")]).unwrap(), "b");
    assert_eq!(proxy(&[plain, ("HTTPS_PROXY", "a"), ("ALL_PROXY", "c")]).unwrap(), "c");
    let direct = |variables: &[(&str, &str)]| read(home.path(), variables).unwrap().no_proxy;
    assert_eq!(direct(&[("NO_PROXY", "a, .b")]), ["a", " .b"]);
    assert_eq!(direct(&[("no_proxy", "c"), ("NO_PROXY", "a,b")]), ["c"]);
}

#[test]
fn what_cannot_be_used_is_named() {
    let home = tempfile::tempdir().unwrap();
    let problem = |variables: &[(&str, &str)]| format!("{:#}", read(home.path(), variables).err().unwrap());
    assert!(problem(&[("HF_HOME", "~no-such-user/x")]).contains("HF_HOME begins with ~no-such-user"));
    let folder = home.path().to_str().unwrap();
    assert!(problem(&[("HF_TOKEN_PATH", folder)]).contains(folder));
}
