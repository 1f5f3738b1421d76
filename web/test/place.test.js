// Tests that a pointer is at the same place of the same field in windows whose fields lie elsewhere.
import assert from "node:assert/strict";
import { test } from "node:test";
import { toPoint, toPosition } from "../src/place.js";

const box = (left, top, width, height) => ({ left, top, width, height });
const wide = [box(0, 0, 800, 80), box(20, 100, 380, 42), box(420, 100, 380, 42), box(20, 180, 780, 130)];
const narrow = [box(0, 0, 300, 100), box(10, 120, 280, 42), box(10, 180, 280, 42), box(10, 240, 280, 130)];

test("a point in a field is at the same fraction of that field elsewhere", () => {
  const position = toPosition(wide, 610, 121);
  const { x, y } = toPoint(narrow, position);
  assert.ok(Math.abs(x - 150) < 0.1 && Math.abs(y - 201) < 0.1, `${x}, ${y}`);
});

test("every corner comes back to itself", () => {
  for (const { left, top, width, height } of wide) {
    for (const [x, y] of [[left, top], [left + width, top], [left, top + height], [left + width, top + height]]) {
      const point = toPoint(wide, toPosition(wide, x, y));
      assert.ok(Math.hypot(point.x - x, point.y - y) < 0.2, `${x}, ${y}: ${point.x}, ${point.y}`);
    }
  }
});

test("a point between two fields belongs to the nearer one", () => {
  assert.equal(Math.floor(toPosition(wide, 402, 120).x / 4), 1);
  assert.equal(Math.floor(toPosition(wide, 418, 120).x / 4), 2);
});

test("whatever comes over the wire is a point near the card, and without parts there is no position", () => {
  for (const position of [{ x: -1e15, y: 1e15 }, { x: 120.5, y: 48 }, { x: 1e15, y: -1e15 }]) {
    const { x, y } = toPoint(narrow, position);
    assert.ok(x >= -300 && x <= 600 && y >= -130 && y <= 500, `${x}, ${y}`);
  }
  assert.equal(toPosition([], 1, 1), null);
  assert.equal(toPosition([box(0, 0, 0, 0)], 1, 1), null);
});
