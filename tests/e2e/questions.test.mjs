// More concurrent requests than a connection can queue answers for: each is answered, or the connection ends. None is
// lost silently.

import assert from 'node:assert/strict';
import { appointment, person, show, suite, WAYS, within } from './harness.mjs';

const LIMIT = 30_000;
const FLOODS = [
  ['polling only', 2_000],
  ['websocket only', 10_000],
];
const RATES = {
  'without a limit of rate': {},
  'with the usual limits of rate': { RATE_LIMIT_PER_SECOND: '20', RATE_LIMIT_BURST: '40' },
};

for (const [title, settings] of Object.entries(RATES)) {
  suite(`questions at once, ${title}`, settings, (scenario) => {
    for (const [way, count] of FLOODS) {
      scenario(`${way}: each of ${count} subscriptions is answered, or the connection ends`, async (scene) => {
        const { socket } = await scene.connect(person('Anna'), { transports: WAYS[way] });
        // More than the maximum subscriptions of a socket: the others are rejected.
        const rooms = Array.from({ length: 2_000 }, (_, n) => appointment(`room ${n}`));
        const codes = new Map();
        let answered = 0;
        const over = new Promise((resolve) => {
          socket.once('disconnect', (reason) => resolve(`ended: ${reason}`));
          for (let n = 0; n < count; n += 1) {
            socket.emit('subscribe', rooms[n % rooms.length], (answer) => {
              const code = answer.success ? 'success' : answer.code;
              codes.set(code, (codes.get(code) ?? 0) + 1);
              answered += 1;
              if (answered === count) resolve('answered');
            });
          }
        });
        const progress = () => `${count} answers; there were ${answered} ${show([...codes])}`;
        const how = await within(over, progress, LIMIT);
        if (how === 'answered') {
          // And the connection still works.
          assert.equal(socket.connected, true);
          assert.ok(codes.get('success') > 0, show([...codes]));
        }
        // UNAVAILABLE would be wrong: PostgreSQL is healthy, and they only have to wait for their turn.
        for (const code of codes.keys()) assert.match(String(code), /^(success|LIMIT_EXCEEDED|RATE_LIMITED)$/);
      });
    }
  });
}
