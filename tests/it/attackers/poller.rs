//! A session of Engine.IO by polling, packet by packet.

use serde_json::Value;

use crate::support::Replica;

/// A polling session.
pub(super) struct Poller<'a> {
    replica: &'a Replica,
    pub(super) url: String,
}

impl<'a> Poller<'a> {
    pub(super) async fn open(replica: &'a Replica) -> Self {
        let url = format!("{}/socket.io/?EIO=4&transport=polling", replica.url);
        let hello = replica.client.get(&url).send().await.unwrap();
        let hello = hello.text().await.unwrap();
        let hello: Value = serde_json::from_str(hello.strip_prefix('0').unwrap()).unwrap();
        let url = format!("{url}&sid={}", hello["sid"].as_str().unwrap());
        Self { replica, url }
    }

    pub(super) async fn joined(replica: &'a Replica, auth: &Value) -> Self {
        let poller = Self::open(replica).await;
        assert_eq!(poller.say(&format!("40{auth}")).await, 200);
        loop {
            let (status, heard) = poller.poll().await;
            assert_eq!(status, 200, "{heard}");
            if heard.split('\u{1e}').any(|packet| packet.starts_with("40")) {
                return poller;
            }
        }
    }

    pub(super) async fn say(&self, packets: &str) -> u16 {
        let post = self.replica.client.post(&self.url).body(packets.to_owned());
        post.send().await.unwrap().status().as_u16()
    }

    pub(super) async fn poll(&self) -> (u16, String) {
        let answer = self.replica.client.get(&self.url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}
