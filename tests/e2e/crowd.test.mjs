// Many concurrent clients, and the stop of the service.

import assert from 'node:assert/strict';
import { io } from 'socket.io-client';
import { appointment, person, show, suite, WAYS, within } from './harness.mjs';
import { startStack } from './stack.mjs';
import { it } from 'node:test';

const CROWD = 1_000;

suite(`${CROWD} sockets`, {}, (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    scenario(`${way}: all that subscribe as soon as they are connected are acknowledged`, async (scene) => {
      const rooms = Array.from({ length: 20 }, (_, n) => appointment(`room ${n}`));
      const trouble = new Map();
      let connected = 0;
      let acknowledged = 0;
      const sockets = [];
      const answered = Array.from({ length: CROWD }, (_, n) => {
        const url = scene.stack.urls[n % scene.stack.urls.length];
        const socket = io(url, { transports, auth: person(`Crowd${n}`), forceNew: true, reconnection: false });
        sockets.push(socket);
        const note = (what) => trouble.set(what, (trouble.get(what) ?? 0) + 1);
        socket.on('connect_error', (error) => note(`connect_error: ${error.message}`));
        socket.on('disconnect', (reason) => note(`disconnect: ${reason}`));
        return new Promise((resolve) => {
          socket.on('connect', () => {
            connected += 1;
            // In the same tick: the service has had no time to prepare anything.
            socket.emit('subscribe', rooms[n % rooms.length], (state) => {
              acknowledged += 1;
              resolve(state);
            });
          });
        });
      });
      const progress = () =>
        `${CROWD} acknowledgements; ${connected} connected, ${acknowledged} were acknowledged ${show([...trouble])}`;
      try {
        const states = await within(Promise.all(answered), progress, 90_000);
        for (const [n, state] of states.entries()) {
          assert.equal(state.success, true, show(state));
          assert.equal(state.appointmentId, rooms[n % rooms.length]);
        }
        assert.equal(trouble.size, 0, show([...trouble]));
      } finally {
        for (const socket of sockets) socket.removeAllListeners().disconnect();
      }
    });
  }
});

it('SIGTERM closes every socket and ends the service with 0', async () => {
  const stack = await startStack();
  const sockets = [];
  try {
    for (const url of stack.urls) {
      for (const transports of Object.values(WAYS)) {
        const socket = io(url, { transports, auth: person('Anna'), forceNew: true, reconnection: false });
        sockets.push(socket);
        await within(new Promise((done) => socket.once('connect', done)), `a connection to ${url}`);
      }
    }
    const closed = sockets.map((socket) => new Promise((done) => socket.once('disconnect', done)));
    await Promise.all([within(Promise.all(closed), 'every socket being closed', 60_000), stack.stop()]);
  } finally {
    for (const socket of sockets) socket.disconnect();
    await stack.discard();
  }
});
