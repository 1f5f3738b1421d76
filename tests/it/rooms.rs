//! A room whose outbound queue the test itself drains: events between two steps, and events that do not fit.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apptlock::bus::memory::Hub;
use apptlock::bus::{Bus, BusEvent, Subscribing};
use apptlock::config::{Database, Pooler, Secret};
use apptlock::domain::ids::{AppointmentId, Member, RoomId, TenantId, UserId};
use apptlock::domain::lease::{Change, LockState, Person};
use apptlock::protocol::{AcquireBody, Message, from_value};
use apptlock::replication::Replication;
use apptlock::rooms::{OutboundItem, Outcome, RoomUpdate, Rooms};
use apptlock::store::Store;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::rooms::{announcer, subscribe, subscribe_as};
use crate::support::{PATIENCE, Proxy, Stack, fresh, person, servers};

fn a_room() -> RoomId {
    RoomId {
        tenant: TenantId::default(),
        appointment: AppointmentId::new(fresh("room")).unwrap(),
    }
}

async fn acquire(store: &Store, room: &RoomId) -> LockState {
    let ann: AcquireBody = from_value(person("ann")).unwrap();
    let ann = Person {
        user_id: ann.user_id.unwrap(),
        user_info: ann.user_info.unwrap().into(),
    };
    let ttl = Duration::from_secs(60);
    let taken = store.acquire(room, &ann, None, ttl, false).await.unwrap();
    taken.unwrap().state
}

/// The next version from the queue, as a snapshot or as a change.
fn version(item: Option<OutboundItem>) -> (&'static str, i64) {
    match item {
        Some(OutboundItem::Admit(_, state)) => ("snapshot", state.version),
        Some(OutboundItem::Change(RoomUpdate { events, .. })) => {
            let payload: serde_json::Value = serde_json::from_str(events[0].payload.get()).unwrap();
            ("change", payload["version"].as_i64().unwrap())
        }
        _ => panic!("neither a snapshot nor a change"),
    }
}

/// Within two seconds; without a gap the next pass is half a minute later.
async fn comes_at_once(outbound: &mut mpsc::Receiver<OutboundItem>, newest: i64) {
    let since = Instant::now();
    let next = timeout(PATIENCE, outbound.recv()).await.expect("forgotten");
    assert_eq!(version(next), ("change", newest));
    let took = since.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Receives those events, and reconciles, until it is dropped.
fn repair(
    rooms: &Arc<Rooms>,
    store: &Store,
    bus: Arc<dyn Bus>,
    heard: mpsc::Receiver<BusEvent>,
) -> DropGuard {
    let replication = Arc::new(Replication::new(
        rooms.clone(),
        store.clone(),
        announcer(&bus, "replica"),
    ));
    let stop = CancellationToken::new();
    let (receiver, end) = (replication.clone(), stop.clone());
    tokio::spawn(async move { receiver.receive(heard, end).await });
    let end = stop.clone();
    tokio::spawn(async move { replication.reconcile(end).await });
    stop.drop_guard()
}

#[tokio::test]
async fn a_snapshot_is_never_older_than_what_the_room_was_shown() {
    let store = Stack::empty(&[]).await.store(4);
    let (bus, _heard) = Hub::default().join();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (rooms, mut outbound) = Rooms::new(announcer(&bus, "here"));
    let room = a_room();
    let join = subscribe(&rooms, &room, "first", |_| ()).await;
    rooms.admit(store.status(&room).await.unwrap(), join).await;
    assert_eq!(version(outbound.recv().await), ("snapshot", 0));

    let join = subscribe(&rooms, &room, "second", |_| ()).await;
    let read = store.status(&room).await.unwrap();
    // This comes in between: a socket admitted after it does not get it, and nothing would show it later.
    let acquired = Change::from(acquire(&store, &room).await);
    assert_eq!(rooms.apply_local(&acquired), Outcome::Shown);
    rooms.admit(read, join).await;
    assert_eq!(version(outbound.recv().await), ("change", 1));
    assert_eq!(version(outbound.recv().await), ("snapshot", 1));
}

#[tokio::test]
async fn what_did_not_fit_the_outbound_queue_is_shown_as_soon_as_it_does() {
    let store = Stack::empty(&[]).await.store(4);
    let (bus, _heard) = Hub::default().join();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (rooms, mut outbound) = Rooms::with_queue(announcer(&bus, "here"), 1);
    let rooms = Arc::new(rooms);
    let (_events, heard) = mpsc::channel(1);
    let _stopped = repair(&rooms, &store, bus, heard);

    let room = a_room();
    let join = subscribe(&rooms, &room, "first", |_| ()).await;
    rooms.admit(store.status(&room).await.unwrap(), join).await;
    assert_eq!(version(outbound.recv().await), ("snapshot", 0));
    let acquired = Change::from(acquire(&store, &room).await);
    assert_eq!(rooms.apply_local(&acquired), Outcome::Shown);
    assert_eq!(rooms.apply_local(&acquired), Outcome::Stale);
    let renewed = Change::from(acquire(&store, &room).await);
    assert_eq!(rooms.apply_local(&renewed), Outcome::Full);
    let elsewhere = Change::from(acquire(&store, &a_room()).await);
    assert_eq!(rooms.apply_local(&elsewhere), Outcome::NoRoom);
    assert_eq!(version(outbound.recv().await), ("change", 1));
    comes_at_once(&mut outbound, 2).await;
}

#[tokio::test]
async fn what_a_gap_swallowed_is_shown_at_once() {
    let store = Stack::empty(&[]).await.store(4);
    let (bus, _heard) = Hub::default().join();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (rooms, mut outbound) = Rooms::new(announcer(&bus, "here"));
    let rooms = Arc::new(rooms);
    let (events, heard) = mpsc::channel(1);
    let _stopped = repair(&rooms, &store, bus, heard);

    let room = a_room();
    let join = subscribe(&rooms, &room, "first", |_| ()).await;
    rooms.admit(store.status(&room).await.unwrap(), join).await;
    assert_eq!(version(outbound.recv().await), ("snapshot", 0));
    // The bus seems healthy all the time: only the gap reports it.
    acquire(&store, &room).await;
    events.send(BusEvent::Gap).await.unwrap();
    comes_at_once(&mut outbound, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gap_swallowed_while_postgresql_was_away_is_shown_when_it_is_back() {
    let stack = Stack::empty(&[]).await;
    let store = stack.store(4);
    let port = servers().postgres.port;
    let proxy = Proxy::start((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (direct, proxied) = (format!(":{port}/"), format!(":{}/", proxy.port()));
    let cut_off = Store::new(&Database {
        url: Secret::new(stack.database.replace(&direct, &proxied)),
        max_connections: 4,
        pooler: Pooler::None,
    })
    .unwrap();
    let (bus, _heard) = Hub::default().join();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (rooms, mut outbound) = Rooms::new(announcer(&bus, "here"));
    let rooms = Arc::new(rooms);
    let (events, heard) = mpsc::channel(1);
    let _stopped = repair(&rooms, &cut_off, bus, heard);

    let room = a_room();
    let join = subscribe(&rooms, &room, "first", |_| ()).await;
    rooms.admit(store.status(&room).await.unwrap(), join).await;
    assert_eq!(version(outbound.recv().await), ("snapshot", 0));
    proxy.cut();
    acquire(&store, &room).await;
    events.send(BusEvent::Gap).await.unwrap();
    // Long enough for a pass to fail.
    sqlx::query("select pg_sleep(1)")
        .execute(&stack.pool)
        .await
        .unwrap();
    proxy.pass();
    comes_at_once(&mut outbound, 1).await;
}

/// A newer release sends an unknown message: its room is compared with PostgreSQL immediately. A change with an unknown
/// reason is shown otherwise unchanged.
#[tokio::test]
async fn what_a_future_release_says_is_shown_at_once() {
    let store = Stack::empty(&[]).await.store(4);
    let (bus, _heard) = Hub::default().join();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let (rooms, mut outbound) = Rooms::new(announcer(&bus, "here"));
    let rooms = Arc::new(rooms);
    let (events, heard) = mpsc::channel(1);
    let _stopped = repair(&rooms, &store, bus, heard);

    let room = a_room();
    let join = subscribe(&rooms, &room, "first", |_| ()).await;
    rooms.admit(store.status(&room).await.unwrap(), join).await;
    assert_eq!(version(outbound.recv().await), ("snapshot", 0));
    let says = |message: serde_json::Value| {
        let envelope = serde_json::json!({ "from": "next", "hops": 2, "message": message });
        BusEvent::Message(envelope.to_string().into())
    };
    let at = serde_json::to_value(&room).unwrap();

    acquire(&store, &room).await;
    let unknown = serde_json::json!({ "handover-offered": { "room": at, "to": "ben" } });
    events.send(says(unknown)).await.unwrap();
    comes_at_once(&mut outbound, 1).await;

    acquire(&store, &room).await;
    let changed = serde_json::json!({ "change": { "state": { "room": at, "version": "two" } } });
    events.send(says(changed)).await.unwrap();
    comes_at_once(&mut outbound, 2).await;

    let lease = serde_json::json!({
        "user_id": "ann", "user_info": { "name": "Ann", "email": "" }, "session_id": null, "away": true,
        "granted_at": "2026-01-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z", "fencing_token": 1,
    });
    let away = serde_json::json!({ "change": { "state": {
        "room": at, "version": 9, "reason": "holder-away", "lease": lease, "now": "2026-01-01T00:00:01Z",
    }, "admin": null } });
    events.send(says(away)).await.unwrap();
    let next = timeout(PATIENCE, outbound.recv()).await.unwrap();
    let Some(OutboundItem::Change(RoomUpdate { events, .. })) = next else {
        panic!("no change")
    };
    let update: serde_json::Value = serde_json::from_str(events[0].payload.get()).unwrap();
    assert_eq!(
        (&update["version"], &update["reason"]),
        (&9.into(), &"renewed".into())
    );
}

/// A bus that says whether it has room, and keeps what was published.
#[derive(Default)]
struct Crowded {
    has_room: AtomicBool,
    published: Mutex<Vec<serde_json::Value>>,
}

impl Bus for Crowded {
    fn publish(&self, _: &RoomId, message: bytes::Bytes) {
        let envelope: serde_json::Value = serde_json::from_slice(&message).unwrap();
        let mut published = self.published.lock().unwrap();
        published.push(envelope["message"].clone());
    }
    fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }
    fn subscribe(&self, _: &RoomId) -> Subscribing {
        Box::pin(std::future::ready(()))
    }
    fn unsubscribe(&self, _: &RoomId) {}
    fn healthy(&self) -> bool {
        true
    }
    fn take_unsent(&self) -> bool {
        false
    }
    fn close(&self) -> Subscribing {
        Box::pin(std::future::ready(()))
    }
}

/// Members who come and go in a burst must not displace changes of locks: they are told later, as a whole.
#[tokio::test]
async fn rosters_wait_while_the_bus_is_busy_and_changes_do_not() {
    let crowded = Arc::new(Crowded::default());
    let bus: Arc<dyn Bus> = crowded.clone();
    let (rooms, _outbound) = Rooms::new(announcer(&bus, "here"));
    let room = a_room();
    let ann = Member {
        user_id: UserId::new("ann").unwrap(),
        session_id: None,
    };
    subscribe_as(&rooms, &room, "first", Some(ann.clone()), |_| ()).await;
    subscribe_as(&rooms, &a_room(), "second", Some(ann), |_| ()).await;
    let published = || std::mem::take(&mut *crowded.published.lock().unwrap());
    assert_eq!(published(), Vec::<serde_json::Value>::new());
    announcer(&bus, "here").announce(&room, Message::RosterWanted { room: room.clone() });
    assert_eq!(published().len(), 1, "what cannot wait is sent");
    rooms.exchange_rosters(9);
    assert!(published().is_empty(), "still no room");

    crowded.has_room.store(true, Ordering::Relaxed);
    rooms.exchange_rosters(1);
    assert_eq!(
        published().len(),
        2,
        "of one room: a request, and its members"
    );
    rooms.exchange_rosters(9);
    let rest = published();
    assert_eq!(rest.len(), 2, "of the other");
    let of = |kind: &str| rest.iter().find_map(|it| it.get(kind)).cloned();
    assert_eq!(of("roster").unwrap()["members"][0]["user_id"], "ann");
    assert!(of("roster-wanted").is_some());
    rooms.exchange_rosters(9);
    assert!(published().is_empty(), "nothing is owed");
    rooms.unsubscribe(&room, "first");
    assert_eq!(published()[0]["left"]["member"]["user_id"], "ann");
}
