// The official client in the oldest supported releases: each one does what the newest does.

import assert from 'node:assert/strict';
import { io as io31 } from 'socket.io-client-3.1';
import { io as io40 } from 'socket.io-client-4.0';
import { appointment, person, show, suite, WAYS, within } from '../harness.mjs';
import { startRelay } from '../relay.mjs';
import { startServing } from '../serving.mjs';
import { SECRET, tokenOf } from '../tokens.mjs';

const CLIENTS = { '3.1': io31, '4.0': io40 };
const SETTINGS = { AUTH_MODE: 'jwt', JWT_SECRET: SECRET };

for (const [version, make] of Object.entries(CLIENTS)) {
  const flows = (scenario) => {
    for (const [way, transports] of Object.entries(WAYS)) {
      /** A client of that release, which names its person by a token. */
      const connect = (scene, who, options) =>
        scene.connect(who, { transports, make, auth: { token: tokenOf(who) }, ...options });
      const acquire = async (scene, id, who, replica) => {
        const response = await fetch(`${scene.stack.urls[replica]}/api/appointments/${encodeURIComponent(id)}/acquire-lock`, {
          method: 'POST',
          headers: { authorization: `Bearer ${tokenOf(who)}`, 'content-type': 'application/json' },
          body: '{}',
        });
        const answer = await response.json();
        assert.equal(answer.success, true, show(answer));
        return answer.lock;
      };

      scenario(`${way}: subscribes, hears of changes and of pointers, unsubscribes, and gets a fresh token`, async (scene) => {
        const [anna, ben, id] = [person('Anna'), person('Ben'), appointment('old')];
        const [one, two] = await Promise.all([connect(scene, anna), connect(scene, ben, { replica: 1 })]);
        assert.equal(await one.transport(), transports.at(-1));
        const joined = await one.subscribe(id);
        await two.subscribe(id);

        const lock = await acquire(scene, id, anna, 1);
        const update = await one.nextUpdate('acquired');
        assert.equal(update.version, lock.version);
        assert.ok(update.version > joined.version);
        assert.equal(update.lock.userId, anna.userId);
        await two.next('lock-acquired');

        const moved = await one.ask('cursor-position', { appointmentId: id, position: { x: 3, y: 4 } });
        assert.equal(moved.success, true, show(moved));
        const seen = await two.next('cursor-update');
        assert.deepEqual([seen.userId, seen.position], [anna.userId, { x: 3, y: 4 }]);

        assert.equal((await one.ask('unsubscribe', id)).success, true);
        assert.equal((await two.next('cursor-left')).userId, anna.userId);
        const fresh = await one.ask('refresh-token', { token: tokenOf(anna, 7_200) });
        assert.equal(fresh.success, true, show(fresh));
        const refused = await one.ask('refresh-token', { token: tokenOf(ben) });
        assert.equal(refused.code, 'IDENTITY_MISMATCH', show(refused));
      });

      scenario(`${way}: comes back by itself when its replica stops, and can subscribe again`, async (scene) => {
        const [anna, id] = [person('Anna'), appointment('back')];
        const { replicas } = scene.stack;
        const relay = await startRelay(replicas);
        try {
          const client = await connect(scene, anna, { url: relay.url, more: { reconnection: true } });
          await client.transport();
          await client.subscribe(id);
          const lost = new Promise((resolve) => client.socket.once('disconnect', resolve));
          const back = new Promise((resolve) => client.socket.once('disconnect', () => client.socket.once('connect', resolve)));
          await replicas[0].stop();
          await client.next('server-restarting');
          assert.match(await within(lost, 'its end'), /^transport (close|error)$/);
          const lock = await acquire(scene, id, anna, 1);
          await within(back, 'its coming back');
          const state = await client.subscribe(id);
          assert.equal(state.version, lock.version);
          await acquire(scene, id, anna, 1);
          await client.nextUpdate('renewed');
          client.socket.disconnect();
        } finally {
          await relay.stop();
          if (!replicas[0].running) await replicas[0].start();
        }
      });
    }
  };
  suite(`socket.io-client ${version}`, SETTINGS, flows, startServing);
}
