// Cursors: their audience, and their removal.

import assert from 'node:assert/strict';
import { appointment, assertRefused, person, suite, WAYS } from './harness.mjs';

suite('cursors', {}, (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    /** Anna and Carl on the first replica and Ben on the second, all in the same room. */
    const room = async (scene, label) => {
      const id = appointment(label);
      const [anna, ben, carl] = [person('Anna'), person('Ben'), person('Carl')];
      const sockets = await Promise.all([
        scene.connect(anna, { replica: 0, transports }),
        scene.connect(ben, { replica: 1, transports }),
        scene.connect(carl, { replica: 0, transports }),
      ]);
      await Promise.all(sockets.map((socket) => socket.subscribe(id)));
      const move = async (socket, x, y = 0) => {
        const answer = await socket.ask('cursor-position', { appointmentId: id, position: { x, y } });
        assert.equal(answer.success, true);
      };
      return { id, people: { anna, ben, carl }, sockets, move };
    };
    const of = ({ userId }) => (payload) => payload.userId === userId;

    scenario(`${way}: a cursor reaches the room's others, not its sender`, async (scene) => {
      const { id, people, sockets, move } = await room(scene, 'cursor');
      const [anna, ben, carl] = sockets;
      await move(anna, 10.25, -20);
      for (const other of [ben, carl]) {
        const update = await other.next('cursor-update');
        assert.equal(update.appointmentId, id);
        assert.equal(update.userId, people.anna.userId);
        assert.deepEqual(update.userInfo, people.anna.userInfo);
        assert.deepEqual(update.position, { x: 10.25, y: -20 });
      }
      // An echo would have arrived before these.
      await move(ben, 1);
      await move(carl, 2);
      await anna.next('cursor-update', of(people.ben));
      await anna.next('cursor-update', of(people.carl));
      assert.ok(!anna.all('cursor-update').some(of(people.anna)), 'the sender got its own cursor');
    });

    scenario(`${way}: in a burst the newest position wins`, async (scene) => {
      const { id, people, sockets, move } = await room(scene, 'burst');
      const [anna, ben, carl] = sockets;
      for (let x = 1; x <= 60; x += 1) {
        anna.socket.emit('cursor-position', { appointmentId: id, position: { x, y: 0 } });
      }
      for (const other of [ben, carl]) {
        await other.next('cursor-update', (update) => update.position.x === 60, 'with the newest position');
      }
      await move(carl, 1);
      await ben.next('cursor-update', of(people.carl));
      await move(ben, 1);
      await carl.next('cursor-update', of(people.ben));
      for (const other of [ben, carl]) {
        const seen = other.all('cursor-update').filter(of(people.anna)).map((update) => update.position.x);
        assert.equal(seen.at(-1), 60, `the cursor ended at ${seen.at(-1)}: ${seen}`);
        assert.deepEqual(seen, [...seen].sort((a, b) => a - b), 'the cursor went back in time');
      }
    });

    scenario(`${way}: unsubscribing takes the cursor away`, async (scene) => {
      const { id, people, sockets, move } = await room(scene, 'unsubscribed');
      const [anna, ben, carl] = sockets;
      await move(anna, 5);
      for (const other of [ben, carl]) await other.next('cursor-update', of(people.anna));
      assert.equal((await anna.ask('unsubscribe', id)).success, true);
      for (const other of [ben, carl]) {
        const left = await other.next('cursor-left');
        assert.equal(left.appointmentId, id);
        assert.equal(left.userId, people.anna.userId);
      }
      assertRefused(
        await anna.ask('cursor-position', { appointmentId: id, position: { x: 6, y: 0 } }),
        'a cursor without a subscription',
      );
      // Carl's cursor passes Anna's replica; she would see it here if she were still in the room.
      await move(carl, 7);
      await ben.next('cursor-update', of(people.carl));
      await anna.subscribe(appointment('elsewhere'));
      assert.ok(!anna.all('cursor-update').some(of(people.carl)), 'a cursor came after unsubscribing');
      assert.ok(!ben.all('cursor-update').some((update) => update.position.x === 6));
    });

    scenario(`${way}: disconnecting takes the cursor away`, async (scene) => {
      const { id, people, sockets, move } = await room(scene, 'disconnected');
      const [anna, ben, carl] = sockets;
      await move(anna, 5);
      await move(ben, 5);
      await carl.next('cursor-update', of(people.anna));
      await carl.next('cursor-update', of(people.ben));
      anna.socket.disconnect();
      for (const other of [ben, carl]) {
        assert.equal((await other.next('cursor-left', of(people.anna))).appointmentId, id);
      }
      // Without a disconnect packet, as if the network failed: the transport just ends.
      ben.socket.io.engine.close();
      assert.equal((await carl.next('cursor-left', of(people.ben))).appointmentId, id);
    });
  }

  scenario('a position needs a subscription', async (scene) => {
    const client = await scene.connect(person('Anna'));
    const position = { x: 1, y: 1 };
    assertRefused(await client.ask('cursor-position', { appointmentId: appointment('strange'), position }), 'a cursor');
  });

  scenario('where identities are trusted, a payload may carry one', async (scene) => {
    const [guest, id] = [person('Guest'), appointment('guest')];
    const watcher = await scene.connect(person('Walter'), { replica: 1 });
    const nameless = await scene.connect(guest, { auth: null });
    await Promise.all([watcher.subscribe(id), nameless.subscribe(id)]);
    const answer = await nameless.ask('cursor-position', { appointmentId: id, position: { x: 3, y: 4 }, ...guest });
    assert.equal(answer.success, true);
    const update = await watcher.next('cursor-update');
    assert.equal(update.userId, guest.userId);
    assert.deepEqual(update.userInfo, guest.userInfo);
    assert.deepEqual(update.position, { x: 3, y: 4 });
  });
});
