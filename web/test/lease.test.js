// Tests the version rule and the countdown, which the whole page stands on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clock, fractionLeft, newRoom, remaining, standing, startOver, take } from "../src/lease.js";

const lockOf = (userId, token, ms) => ({ userId, userInfo: { name: userId }, fencingToken: token, expiresInMs: ms });

test("an older version is dropped, whatever it says", () => {
  const room = newRoom();
  assert.equal(take(room, 5, lockOf("ada", 1, 1000), 0), "new");
  assert.equal(take(room, 4, null, 0), "stale");
  assert.equal(standing(room, "ada"), "mine");
});

test("the same version twice changes nothing", () => {
  const room = newRoom();
  take(room, 5, lockOf("ada", 1, 1000), 0);
  assert.equal(take(room, 5, lockOf("ada", 1, 1000), 700), "same");
  assert.equal(remaining(room, 700), 300);
});

test("a new connection may start at a lower version", () => {
  const room = newRoom();
  take(room, 50, lockOf("ada", 9, 1000), 0);
  startOver(room);
  assert.equal(take(room, 2, null, 0), "new");
  assert.equal(standing(room, "ada"), "free");
});

test("a version of 0 is a state like any other", () => {
  const room = newRoom();
  assert.equal(standing(room, "ada"), "unknown");
  assert.equal(take(room, 0, null, 0), "new");
  assert.equal(standing(room, "ada"), "free");
});

test("the countdown follows the server's relative time", () => {
  const room = newRoom();
  take(room, 1, lockOf("ada", 1, 10_000), 500);
  assert.equal(remaining(room, 3_500), 7_000);
  assert.equal(remaining(room, 99_000), 0);
});

test("the bar measures against the longest this grant has had", () => {
  const room = newRoom();
  take(room, 1, lockOf("ada", 1, 10_000), 0);
  take(room, 2, lockOf("ada", 1, 4_000), 0);
  assert.equal(fractionLeft(room, 0), 0.4);
  take(room, 3, lockOf("bob", 2, 4_000), 0);
  assert.equal(fractionLeft(room, 0), 1);
});

test("the clock rounds up", () => {
  assert.equal(clock(300_000), "5:00");
  assert.equal(clock(59_001), "1:00");
  assert.equal(clock(1), "0:01");
  assert.equal(clock(0), "0:00");
});
