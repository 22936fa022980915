//! Servers that are asked without the proxy: the list of `NO_PROXY`, as Hugging Face's own client reads it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts that are asked directly.
pub(super) struct Direct(Vec<Rule>);

/// Some hosts, of one scheme and port where these are named.
struct Rule {
    scheme: Option<String>,
    port: Option<u16>,
    hosts: Hosts,
}

#[derive(Debug, PartialEq)]
enum Hosts {
    All,
    One(String),
    /// A domain and all below it.
    Domain(String),
    /// All below a domain.
    Below(String),
    /// Addresses whose first bits are those of another.
    Network(IpAddr, u8),
}

impl Direct {
    /// From entries such as `example.com` (with all below it), `.example.com` (what is below it), `10.0.0.0/8`,
    /// `[::1]`, `host:8080`, `http://host` and `*`. An entry that is none of them is passed over, as curl does.
    pub(super) fn new(entries: &[String]) -> Self {
        Self(entries.iter().filter_map(|entry| Rule::parse(&entry.trim().to_ascii_lowercase())).collect())
    }

    /// Returns `true` if a server is asked directly.
    pub(super) fn has(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        self.0.iter().any(|rule| {
            rule.scheme.as_deref().is_none_or(|own| own == scheme)
                && rule.port.is_none_or(|own| own == port)
                && rule.hosts.has(&host)
        })
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        let any = |hosts| Some(Self { scheme: None, port: None, hosts });
        if entry == "*" {
            return any(Hosts::All);
        }
        if let Some(network) = network(entry) {
            return any(network);
        }
        let parts = entry.split_once("://");
        let scheme = parts.map(|(scheme, _)| scheme).filter(|scheme| *scheme != "all");
        let place = parts.map_or(entry, |(_, place)| place);
        let (host, port) = split_port(place)?;
        let hosts = match host {
            "" if scheme.is_none() => return None,
            "" | "*" => Hosts::All,
            _ if host.contains('/') => return None,
            _ if address(host).is_some() => Hosts::One(host.to_string()),
            _ => match (host.strip_prefix("*.").or_else(|| host.strip_prefix('.')), host.strip_prefix('*')) {
                (Some(domain), _) => Hosts::Below(domain.to_string()),
                (None, Some(domain)) => Hosts::Domain(domain.to_string()),
                // A scheme before it, or the machine's own name, stands for one host.
                _ if parts.is_some() || place == "localhost" => Hosts::One(host.to_string()),
                _ => Hosts::Domain(host.to_string()),
            },
        };
        Some(Self { scheme: scheme.map(str::to_string), port, hosts })
    }
}

impl Hosts {
    fn has(&self, host: &str) -> bool {
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.'));
        match self {
            Self::All => true,
            Self::One(own) => own == host || address(own).is_some_and(|own| address(host) == Some(own)),
            Self::Domain(domain) => host == domain || below(domain),
            Self::Below(domain) => below(domain),
            Self::Network(first, bits) => address(host).is_some_and(|host| begins_alike(host, *first, *bits)),
        }
    }
}

/// An address, in brackets or not.
fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// An address alone, or with the number of its bits that count.
fn network(entry: &str) -> Option<Hosts> {
    let Some((first, bits)) = entry.split_once('/') else {
        return address(entry).map(|own| Hosts::One(own.to_string()));
    };
    let first = address(first)?;
    let bits = bits.parse().ok()?;
    (bits <= if first.is_ipv4() { 32 } else { 128 }).then_some(Hosts::Network(first, bits))
}

fn begins_alike(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let v4 = |a: Ipv4Addr, b: Ipv4Addr| (a.to_bits() ^ b.to_bits()).leading_zeros();
    let v6 = |a: Ipv6Addr, b: Ipv6Addr| (a.to_bits() ^ b.to_bits()).leading_zeros();
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => v4(a, b) >= bits.into(),
        (IpAddr::V6(a), IpAddr::V6(b)) => v6(a, b) >= bits.into(),
        _ => false,
    }
}

/// A host and the port behind it; `None` where the port is no number.
fn split_port(place: &str) -> Option<(&str, Option<u16>)> {
    match place.rsplit_once(':') {
        // The colons within an address are none before a port.
        Some((host, port)) if !port.contains(']') => Some((host, Some(port.parse().ok()?))),
        _ => Some((place, None)),
    }
}

#[cfg(test)]
mod tests;
