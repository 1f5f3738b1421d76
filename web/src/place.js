// Owns the encoding of a pointer's position: as one of the card's parts and an offset inside it, so that windows of
// different widths, whose fields lie elsewhere, point at the same field. A position is two numbers, so the part's
// number is folded into x. Pure, so that it can be tested without a browser.

// An offset is a fraction of its part. Up to one part's size beyond each edge belongs to it, for the gaps between.
const LEAST = -1;
const MOST = 2;
/** Between the x of two parts: room for one part, and a gap, so that no rounding leads to the next one. */
const STRIDE = 4;

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
const round = (value) => Math.round(value * 10_000) / 10_000;

function distance(box, x, y) {
  const across = Math.max(box.left - x, 0, x - box.left - box.width);
  const down = Math.max(box.top - y, 0, y - box.top - box.height);
  return Math.hypot(across, down);
}

/** A point as a position relative to the nearest box; null where there is none. */
export function toPosition(boxes, x, y) {
  let nearest = -1;
  let least = Infinity;
  boxes.forEach((box, n) => {
    const far = box.width && box.height ? distance(box, x, y) : Infinity;
    if (far < least) [nearest, least] = [n, far];
  });
  if (nearest < 0) return null;
  const box = boxes[nearest];
  const across = clamp((x - box.left) / box.width, LEAST, MOST);
  const down = clamp((y - box.top) / box.height, LEAST, MOST);
  return { x: round(nearest * STRIDE - LEAST + across), y: round(down) };
}

/** The point of a position among these boxes. Whatever came over the wire, it is in or near one of them. */
export function toPoint(boxes, position) {
  const n = clamp(Math.floor(position.x / STRIDE), 0, boxes.length - 1);
  const box = boxes[n];
  const across = clamp(position.x - n * STRIDE + LEAST, LEAST, MOST);
  const down = clamp(position.y, LEAST, MOST);
  return { x: box.left + across * box.width, y: box.top + down * box.height };
}
