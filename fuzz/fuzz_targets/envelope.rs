//! The bus: what is read of any bytes can be sent on and read again, and shown to clients without a panic.
#![no_main]

use apptlock::protocol::{Envelope, Lock, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Envelope::decode(bytes) else {
        return;
    };
    if let Message::Change(change) = &read.message {
        // A time that cannot be written is a fault; a panic would be the replica's end.
        let _ = Lock::of(&change.state).map(|lock| serde_json::to_string(&lock));
    }
    if matches!(read.message, Message::Unknown { .. }) {
        return;
    }
    let again = Envelope::decode(&read.clone().encode()).expect("what was read can be read again");
    assert_eq!(read.from, again.from);
});
