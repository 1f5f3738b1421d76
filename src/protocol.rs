//! Every shape that crosses a wire, and nothing else: bodies and answers of REST, payloads and events of sockets,
//! messages between replicas, and the error codes of all three.
//!
//! Layer 1: knows the domain, no transport. A field here is public; it changes only with a changelog entry,
//! and the snapshot tests show it.

mod audit;
mod caller;
mod demo;
mod input;
mod lock;
mod refusal;
mod replicas;
mod rest;
mod socket;

pub use audit::{HistoryAnswer, HistoryEntry, LocksAnswer};
pub use caller::{NamesCaller, NoBody, named_caller};
pub use demo::{DemoInfoAnswer, DemoRecordAnswer, DemoSaveBody};
pub use input::{InvalidInput, Object, from_slice, from_value};
pub(crate) use lock::held_by;
pub use lock::{Lock, rfc3339_millis};
pub use refusal::{Code, Refusal};
pub use replicas::{CursorFrame, Envelope, Message};
pub use rest::{
    AcquireBody, Answer, ForceReleaseBody, LockAnswer, PositionBody, ReleaseBody, StatusAnswer,
    TakeOverBody, UserInfoBody, VerifyBody,
};
pub use socket::{
    AdminTakeover, CursorChoice, CursorLeft, CursorPosition, CursorUpdate, Handshake, LockAcquired,
    LockReleased, LockUpdate, RefreshToken, Restarting, SubscribePayload, Subscribed, TokenExpired,
    ack,
};
