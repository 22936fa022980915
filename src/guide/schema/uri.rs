//! As much of URIs (RFC 3986) and of JSON pointers in their fragments (RFC 6901, section 6) as references within a
//! document need.

/// The part before the fragment, and the fragment.
pub(super) fn split(reference: &str) -> (&str, &str) {
    reference.split_once('#').unwrap_or((reference, ""))
}

/// A reference without fragment, relative to a base.
pub(super) fn join(base: &str, reference: &str) -> String {
    let scheme_end = |uri: &str| {
        let end = uri.find(':')?;
        let is_scheme = uri[..end].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        (end > 0 && is_scheme).then_some(end + 1)
    };
    if reference.is_empty() {
        return base.to_string();
    }
    if scheme_end(reference).is_some() {
        return reference.to_string();
    }
    let scheme = scheme_end(base).unwrap_or(0);
    let path = match base[scheme..].strip_prefix("//") {
        Some(rest) => scheme + 2 + rest.find('/').unwrap_or(rest.len()),
        None => scheme,
    };
    match reference {
        _ if reference.starts_with("//") => format!("{}{reference}", &base[..scheme]),
        _ if reference.starts_with('/') => format!("{}{reference}", &base[..path]),
        _ => match base[path..].rfind('/') {
            Some(end) => format!("{}{reference}", &base[..=path + end]),
            None if path > 0 => format!("{}/{reference}", &base[..path]),
            None => reference.to_string(),
        },
    }
}

/// A fragment without percent escapes; a `%` that begins none stands for itself.
///
/// # Errors
/// The result is no UTF-8.
pub(super) fn unescaped(fragment: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte =
            escape.filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit())).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = &after[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).map_err(|_| format!("the percent escapes of '#{fragment}' are no UTF-8"))
}

/// The steps of a JSON pointer.
///
/// # Errors
/// A `~` that is followed by neither 0 nor 1.
pub(super) fn steps(pointer: &str) -> Result<Vec<String>, String> {
    let step = |escaped: &str| {
        let mut parts = escaped.split('~');
        let mut step = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let plain = part.strip_prefix('0').map(|rest| ("~", rest)).or(part.strip_prefix('1').map(|rest| ("/", rest)));
            let (character, rest) = plain.ok_or_else(|| format!("'~' in '{pointer}' is followed by neither 0 nor 1"))?;
            step.push_str(character);
            step.push_str(rest);
        }
        Ok(step)
    };
    pointer.split('/').skip(1).map(step).collect()
}

#[cfg(test)]
mod tests;
