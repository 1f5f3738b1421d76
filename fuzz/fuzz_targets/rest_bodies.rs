//! Every body of REST: no bytes make a parser panic, and a refusal is one short line.
#![no_main]

use apptlock::protocol::{
    AcquireBody, ForceReleaseBody, InvalidInput, PositionBody, ReleaseBody, VerifyBody, from_slice,
};
use libfuzzer_sys::fuzz_target;

fn judge<T>(outcome: Result<T, InvalidInput>) {
    if let Err(fault) = outcome {
        let message = fault.to_string();
        assert!(!message.is_empty() && message.len() <= 4096, "{message:?}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
}

fuzz_target!(|body: &[u8]| {
    judge(from_slice::<AcquireBody>(body));
    judge(from_slice::<ReleaseBody>(body));
    judge(from_slice::<ForceReleaseBody>(body));
    judge(from_slice::<PositionBody>(body));
    judge(from_slice::<VerifyBody>(body));
});
