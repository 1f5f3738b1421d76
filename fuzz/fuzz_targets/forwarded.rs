//! Trusted proxies: the first line is the setting, the others are `X-Forwarded-For` as they came.
#![no_main]

use std::net::IpAddr;

use apptlock::limits::Proxies;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let Ok(proxies) = Proxies::parse(lines.next().unwrap_or_default()) else {
        return;
    };
    let lists: Vec<&str> = lines.collect();
    for peer in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 1])] {
        let client = proxies.client(peer, lists.iter().copied());
        // What is forged in front of all that is read changes nothing.
        let forged = std::iter::once("nonsense").chain(lists.iter().copied());
        assert_eq!(proxies.client(peer, forged), client);
    }
});
