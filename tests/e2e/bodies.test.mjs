// Bodies that are too large: the client gets 413, in the envelope of every answer, however it sends the body, with or
// without a balancer. If the service closed the connection while the client still sends, the answer would be lost.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { startBalancer } from './balancers.mjs';
import { appointment, show } from './harness.mjs';
import { startServing } from './serving.mjs';

const TRIES = 40;
const KIB = 1024;
const BODIES = {
  '40 KiB in chunks': { chunks: 10, size: 4 * KIB },
  '8 MiB in chunks': { chunks: 128, size: 64 * KIB },
  '40 KiB, its length said before': { whole: 40 * KIB },
  '8 MiB, its length said before': { whole: 8 * KIB * KIB },
};

/** Text of JSON that never ends, as a stream that sends each chunk when the one before is away, or in one piece. */
function bodyOf({ chunks, size, whole }) {
  const bytes = (length) => new Uint8Array(length).fill(0x61);
  if (whole) return { body: bytes(whole) };
  let left = chunks;
  const body = new ReadableStream({
    pull(controller) {
      if (left === 0) controller.close();
      else controller.enqueue(bytes(size));
      left -= 1;
    },
  });
  return { body, duplex: 'half' };
}

describe('a body that is too large', () => {
  let [serving, balancer] = [];
  before(async () => {
    serving = await startServing();
    balancer = await startBalancer('haproxy', serving.replicas);
  });
  after(async () => {
    await balancer?.stop();
    await serving?.stop();
  });

  for (const through of ['directly', 'through haproxy']) {
    for (const [what, body] of Object.entries(BODIES)) {
      it(`${through}, ${what}: 413 arrives ${TRIES} times of ${TRIES}`, async () => {
        const { url } = through === 'directly' ? serving.replicas[0] : balancer;
        const path = `/api/appointments/${encodeURIComponent(appointment('large'))}/acquire-lock`;
        const seen = new Map();
        for (let n = 0; n < TRIES; n += 1) {
          const came = await answerTo(url + path, body);
          seen.set(came, (seen.get(came) ?? 0) + 1);
        }
        assert.deepEqual([...seen], [['413 TOO_LARGE', TRIES]], show([...seen]));
      });
    }
  }
});

async function answerTo(url, body) {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      signal: AbortSignal.timeout(20_000),
      ...bodyOf(body),
    });
    const { success, code, message } = await response.json();
    if (success !== false || !message) return `${response.status} without the envelope`;
    return `${response.status} ${code}`;
  } catch (error) {
    return error.cause?.code ?? error.cause?.message ?? error.message;
  }
}
