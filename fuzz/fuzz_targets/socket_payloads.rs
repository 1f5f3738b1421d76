//! Every payload of a socket, and the handshake: no JSON makes a parser panic, and a refusal is one short line.
#![no_main]

use apptlock::protocol::{
    CursorPosition, Handshake, InvalidInput, Object, RefreshToken, SubscribePayload, from_value,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn judge<T>(outcome: Result<T, InvalidInput>) {
    if let Err(fault) = outcome {
        let message = fault.to_string();
        assert!(!message.is_empty() && message.len() <= 4096, "{message:?}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
}

fuzz_target!(|packet: &[u8]| {
    let Ok(payload) = serde_json::from_slice::<Value>(packet) else {
        return;
    };
    judge(from_value::<SubscribePayload>(payload.clone()));
    judge(from_value::<Object<CursorPosition>>(payload.clone()));
    judge(from_value::<Object<RefreshToken>>(payload.clone()));
    judge(from_value::<Object<Handshake>>(payload));
});
