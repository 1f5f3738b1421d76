// Long-polling by the protocol, request by request: the effect of an aborted request, and of a closed connection.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { appointment, person, show, suite } from './harness.mjs';

const PATH = '/socket.io/?EIO=4&transport=polling';

/** A Socket.IO session by hand, over connections that close after each answer. */
async function openSession(url, auth) {
  const ask = async (method, path, body) => {
    const response = await fetch(url + path, { method, body, headers: { connection: 'close' } });
    return { status: response.status, text: await response.text() };
  };
  const opened = await ask('GET', PATH);
  assert.equal(opened.status, 200, show(opened));
  const path = `${PATH}&sid=${JSON.parse(opened.text.slice(1)).sid}`;
  const session = {
    path,
    poll: () => ask('GET', path),
    send: (packet) => ask('POST', path, packet),
    /** Sends a packet, and polls until the answer to it is there; pings are answered on the way. */
    async exchange(packet, answer) {
      assert.equal((await session.send(packet)).status, 200, packet);
      for (;;) {
        const { status, text } = await session.poll();
        assert.equal(status, 200, text);
        const packets = text.split('\x1e');
        if (packets.includes('2')) await session.send('3');
        const found = packets.find((packet) => answer.test(packet));
        if (found) return found;
      }
    },
  };
  await session.exchange(`40${JSON.stringify(auth)}`, /^40/);
  return session;
}

suite('long-polling', {}, (scenario) => {
  scenario('a poll that is given up ends the session; one that was answered does not', async (scene) => {
    const [anna, id] = [person('Anna'), appointment('polled')];
    const url = scene.stack.urls[0];
    const witness = await scene.connect(person('Walter'), { replica: 1 });
    await witness.subscribe(id);

    const session = await openSession(url, anna);
    await session.exchange(`420${JSON.stringify(['subscribe', id])}`, /^430/);
    for (let x = 1; x <= 3; x += 1) {
      const move = { appointmentId: id, position: { x, y: 0 } };
      await session.exchange(`42${x}${JSON.stringify(['cursor-position', move])}`, new RegExp(`^43${x}`));
    }
    await witness.next('cursor-update', ({ userId }) => userId === anna.userId);
    assert.deepEqual(witness.all('cursor-left'), [], 'the session lives');

    const { port, host } = new URL(url);
    const socket = connect({ port, host: '127.0.0.1' });
    // The request, and right after it the end: the service reads them in this order.
    socket.end(`GET ${session.path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    // Its pointer is removed with the session, long before a timeout would end it.
    await witness.next('cursor-left', ({ userId }) => userId === anna.userId);
    const { status, text } = await session.poll();
    assert.equal(status, 400, text);
    assert.match(text, /Session ID unknown/i);
  });
});
