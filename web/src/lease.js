// Owns this page's view of one appointment's lock, and the one rule that keeps it correct: versions only rise. Pure,
// with the clock as an argument, so that it can be tested without a browser.

/** A room nobody has told us anything about yet. */
export function newRoom() {
  return { known: false, seen: -1, lock: null, deadline: 0, span: 0 };
}

/**
 * A new connection starts over: its first snapshot may come from a database that was set up afresh, and a
 * version remembered from before would then hide everything.
 */
export function startOver(room) {
  room.seen = -1;
}

/**
 * Takes a state with its version. Answers "new" when it is now what we believe, "same" when we knew it, and
 * "stale" when it is older than what we know and was dropped.
 */
export function take(room, version, lock, now) {
  if (version < room.seen) return "stale";
  if (version === room.seen) return "same";
  const before = room.lock;
  room.known = true;
  room.seen = version;
  room.lock = lock ?? null;
  if (!room.lock) {
    room.deadline = 0;
    room.span = 0;
    return "new";
  }
  // The server sends the remaining time, not a deadline: this machine's clock may be wrong by hours.
  room.deadline = now + room.lock.expiresInMs;
  const sameGrant = before?.fencingToken === room.lock.fencingToken;
  room.span = sameGrant ? Math.max(room.span, room.lock.expiresInMs) : room.lock.expiresInMs;
  return "new";
}

/** Milliseconds that are left of the lease, never negative. */
export function remaining(room, now) {
  return room.lock ? Math.max(0, room.deadline - now) : 0;
}

/** How much of the lease is left, from 0 to 1, measured against the longest this grant has had. */
export function fractionLeft(room, now) {
  return room.span > 0 ? Math.min(1, remaining(room, now) / room.span) : 0;
}

/** "free", "mine", "theirs", or "unknown" before the first snapshot. */
export function standing(room, userId) {
  if (!room.known) return "unknown";
  if (!room.lock) return "free";
  return room.lock.userId === userId ? "mine" : "theirs";
}

/** Minutes and seconds, rounded up so that 0:00 means that nothing is left. */
export function clock(ms) {
  const seconds = Math.ceil(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
