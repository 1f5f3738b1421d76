// Owns the named cursors over the card: sends ours, draws everybody else's. Their places are relative to the card's
// parts (place.js), so that windows of different sizes agree.
import { colourOf } from "./identity.js";
import { toPoint, toPosition } from "./place.js";

const SEND_EVERY_MS = 50;
const QUIET_AFTER_MS = 4000;
const GONE_AFTER_MS = 120_000;
const SVG = "http://www.w3.org/2000/svg";

/** The card's parts, in the order of the document, which is the same in every window. */
const boxesOf = (card) =>
  [...card.querySelectorAll(".card-head, .banner, .record [name], .fine")].map((part) => part.getBoundingClientRect());

const within = (value, size) => Math.min(size, Math.max(0, value));

/** `send(position)` is called at most every 50 ms, and always with the last position in the end. */
export function watchPointer(card, send) {
  let waiting = null;
  let timer = 0;
  let last = -Infinity;

  function flush() {
    timer = 0;
    if (!waiting) return;
    last = performance.now();
    send(waiting);
    waiting = null;
  }
  function offer(clientX, clientY) {
    waiting = toPosition(boxesOf(card), clientX, clientY) ?? waiting;
    if (!timer) timer = setTimeout(flush, Math.max(0, last + SEND_EVERY_MS - performance.now()));
  }

  card.addEventListener("pointermove", (event) => offer(event.clientX, event.clientY));
  card.addEventListener("pointerdown", (event) => offer(event.clientX, event.clientY));
  // Keys are activity as well, also those that only move the caret: the field that they go to is the position then.
  const offerField = (event) => {
    const box = event.target.getBoundingClientRect();
    offer(box.left + Math.min(box.width * 0.6, 220), box.top + Math.min(box.height * 0.6, 40));
  };
  card.addEventListener("input", offerField);
  card.addEventListener("keydown", offerField);
}

export class Cursors {
  #layer;
  #shown = new Map();

  constructor(layer) {
    this.#layer = layer;
    new ResizeObserver(() => this.#shown.forEach((cursor) => this.#place(cursor))).observe(layer);
    setInterval(() => this.#age(), 1000);
  }

  move(userId, userInfo, position) {
    if (!Number.isFinite(position?.x) || !Number.isFinite(position?.y)) return;
    let cursor = this.#shown.get(userId);
    if (!cursor) {
      cursor = draw(userId);
      this.#shown.set(userId, cursor);
    }
    cursor.name.textContent = userInfo?.name || "Somebody";
    cursor.position = position;
    cursor.movedAt = performance.now();
    cursor.element.classList.remove("quiet");
    this.#place(cursor);
    if (!cursor.element.isConnected) this.#layer.append(cursor.element);
  }

  leave(userId) {
    this.#shown.get(userId)?.element.remove();
    this.#shown.delete(userId);
  }

  clear() {
    for (const userId of [...this.#shown.keys()]) this.leave(userId);
  }

  #place(cursor) {
    const origin = this.#layer.getBoundingClientRect();
    const point = toPoint(boxesOf(this.#layer.parentElement), cursor.position);
    const x = Math.round(within(point.x - origin.left, origin.width));
    const y = Math.round(within(point.y - origin.top, origin.height));
    cursor.element.style.transform = `translate(${x}px, ${y}px)`;
    // The name turns inwards near the edges, where it would be cut off.
    cursor.element.classList.toggle("leftwards", this.#layer.clientWidth - x < 170 && x > 150);
    cursor.element.classList.toggle("upwards", this.#layer.clientHeight - y < 52);
  }

  #age() {
    const now = performance.now();
    for (const [userId, cursor] of this.#shown) {
      const still = now - cursor.movedAt;
      cursor.element.classList.toggle("quiet", still > QUIET_AFTER_MS);
      // A server that crashed sent no `cursor-left` for its sockets.
      if (still > GONE_AFTER_MS) this.leave(userId);
    }
  }
}

function draw(userId) {
  const element = document.createElement("div");
  element.className = "cursor";
  element.style.setProperty("--who", colourOf(userId));
  const arrow = document.createElementNS(SVG, "svg");
  arrow.setAttribute("viewBox", "0 0 20 22");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", "M2 2 17.2 11.4 10.6 12.9 7 19.4Z");
  arrow.append(path);
  const name = document.createElement("span");
  name.className = "cursor-name";
  element.append(arrow, name);
  return { element, name, position: null, movedAt: 0 };
}
