//! The client's address. Owns the trust in `X-Forwarded-For`: each proxy appends the peer it received the request from,
//! so the list is read from its end, as long as the entries are trusted proxies. Anything before that may be forged by
//! the client.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of trusted proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Parses a comma-separated list of networks and addresses.
    ///
    /// # Errors
    /// The entry that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.parse::<IpNet>()
                    .or_else(|_| part.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| part.to_owned())
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// True if the address belongs to a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: `peer`, or if that is a trusted proxy, the last address in the lists `forwarded` that is
    /// not one.
    pub fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let mut client = peer;
        let mut before = forwarded
            .rev()
            .flat_map(|list| list.rsplit(','))
            .map(|part| read(part.trim()));
        while self.trusts(client) {
            match before.next() {
                Some(Some(address)) => client = address,
                // A trusted proxy wrote no address, or nothing: it is the farthest known address.
                Some(None) | None => break,
            }
        }
        client
    }
}

/// Parses an address, to which some proxies append the port.
fn read(text: &str) -> Option<IpAddr> {
    let plain = text.parse().ok();
    plain.or_else(|| {
        let with_port: std::net::SocketAddr = text.parse().ok()?;
        Some(with_port.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let proxies = Proxies::parse(proxies).unwrap();
        let peer = peer.parse().unwrap();
        proxies.client(peer, forwarded.iter().copied()).to_string()
    }

    #[test]
    fn a_peer_that_is_not_a_proxy_is_the_client_whatever_it_forwards() {
        assert_eq!(client("", "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(
            client("10.0.0.0/8", "192.0.2.1", &["198.51.100.7"]),
            "192.0.2.1"
        );
    }

    #[test]
    fn the_list_is_read_from_its_end() {
        let proxies = "10.0.0.0/8, 192.0.2.1";
        assert_eq!(
            client(proxies, "10.1.2.3", &["203.0.113.9, 198.51.100.7"]),
            "198.51.100.7",
            "entries before it may be forged"
        );
        assert_eq!(
            client(
                proxies,
                "10.1.2.3",
                &["203.0.113.9", "198.51.100.7, 192.0.2.1"]
            ),
            "198.51.100.7",
            "over two proxies, in two headers"
        );
        assert_eq!(client(proxies, "10.1.2.3", &[]), "10.1.2.3");
        assert_eq!(client(proxies, "10.1.2.3", &["nonsense"]), "10.1.2.3");
        assert_eq!(
            client(proxies, "::ffff:10.1.2.3", &["[2001:db8::1]:443"]),
            "2001:db8::1"
        );
    }

    #[test]
    fn an_invalid_network_is_named() {
        assert_eq!(Proxies::parse("10.0.0.0/8,x").unwrap_err(), "x");
        assert_eq!(Proxies::parse("10.0.0.0/99").unwrap_err(), "10.0.0.0/99");
    }
}
