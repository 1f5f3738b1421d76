//! Address of the client behind a request. Owns that `X-Forwarded-For` counts only as far as trusted proxies wrote it,
//! which [`Proxies`](crate::limits::Proxies) decides. Without a peer address it is the unspecified one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};

use crate::limits::Limits;

/// Address of the client, behind any trusted proxies.
pub fn client_address(headers: &HeaderMap, extensions: &Extensions, limits: &Limits) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    // A value that is not text counts as an unreadable part. Skipping it would let the part before it count.
    let lists: Vec<_> = headers
        .get_all("x-forwarded-for")
        .iter()
        .map(|list| String::from_utf8_lossy(list.as_bytes()))
        .collect();
    let lists = lists.iter().map(AsRef::as_ref);
    limits.config().proxies.client(peer, lists)
}
