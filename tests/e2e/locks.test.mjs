// A lock's life, seen by the sockets of both replicas.

import assert from 'node:assert/strict';
import { appointment, asAdmin, assertLock, person, suite, WAYS } from './harness.mjs';

suite('locks', {}, (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    /** Two subscribers of an appointment, one on each replica, and somebody who wants to edit it. */
    const watched = async (scene, label) => {
      const id = appointment(label);
      const watchers = await Promise.all(
        [0, 1].map((replica) => scene.connect(person('Walter'), { replica, transports })),
      );
      const states = await Promise.all(watchers.map((watcher) => watcher.subscribe(id)));
      return { id, watchers, states, both: (look) => Promise.all(watchers.map(look)) };
    };

    scenario(`${way}: connects, on both replicas`, async (scene) => {
      for (const replica of [0, 1]) {
        const client = await scene.connect(person('Anna'), { replica, transports });
        assert.equal(await client.transport(), transports.at(-1));
        // Still good after the upgrade.
        await client.subscribe(appointment('connected'));
      }
    });

    scenario(`${way}: a subscription is acknowledged with the state at joining`, async (scene) => {
      const [anna, id] = [person('Anna'), appointment('snapshot')];
      const client = await scene.connect(person('Walter'), { transports });
      const free = await client.subscribe(id);
      assert.equal(free.locked, false);
      assert.equal(free.lock, null);

      const lock = await scene.acquire(id, anna);
      for (const replica of [0, 1]) {
        const late = await scene.connect(person('Lea'), { replica, transports });
        const held = await late.subscribe(id, { cursors: 'each' });
        assertLock(held.lock, id, anna);
        assert.equal(held.lock.fencingToken, lock.fencingToken);
        assert.equal(held.version, lock.version);
        assert.ok(held.version > free.version);
      }
    });

    scenario(`${way}: acquire, conflict, renew, move and release reach both replicas`, async (scene) => {
      const [anna, ben] = [person('Anna'), person('Ben')];
      const { id, both, states } = await watched(scene, 'life');

      const lock = await scene.acquire(id, anna, { replica: 0 });
      for (const acquired of await both((watcher) => watcher.next('lock-acquired'))) {
        assertLock(acquired.lock, id, anna);
        assert.equal(acquired.appointmentId, id);
        assert.equal(acquired.version, lock.version);
        assert.equal(acquired.lock.fencingToken, lock.fencingToken);
      }
      for (const update of await both((watcher) => watcher.nextUpdate('acquired'))) {
        assertLock(update.lock, id, anna);
        assert.equal(update.appointmentId, id);
        assert.equal(update.version, lock.version);
        for (const state of states) assert.ok(update.version > state.version);
      }

      for (const replica of [0, 1]) {
        const conflict = await scene.request('POST', id, 'acquire-lock', ben, { replica });
        assert.equal(conflict.status, 409, conflict.label);
        assert.equal(conflict.body.code, 'LOCK_HELD');
        assert.equal(conflict.body.message, 'Appointment is currently locked by Anna');
        assertLock(conflict.body.lock, id, anna);
      }

      const renewal = await scene.request('POST', id, 'acquire-lock', anna, { replica: 1 });
      assert.equal(renewal.status, 200, renewal.label);
      assert.equal(renewal.body.lock.fencingToken, lock.fencingToken);
      assert.equal(renewal.body.lock.createdAt, lock.createdAt);
      assert.ok(renewal.body.lock.version > lock.version);
      assert.ok(Date.parse(renewal.body.lock.expiresAt) >= Date.parse(lock.expiresAt));
      for (const update of await both((watcher) => watcher.nextUpdate('renewed'))) {
        assert.equal(update.version, renewal.body.lock.version);
        assert.equal(update.lock.fencingToken, lock.fencingToken);
      }

      const position = { x: 12.5, y: -3 };
      const moved = await scene.request('POST', id, 'update-position', { userId: anna.userId, position });
      assert.equal(moved.status, 200, moved.label);
      for (const update of await both((watcher) => watcher.nextUpdate('renewed'))) {
        assert.deepEqual(update.lock.userInfo.position, position);
      }
      const status = await scene.status(id, { replica: 1 });
      assert.equal(status.locked, true);
      assert.deepEqual(status.lock.userInfo.position, position);

      const release = await scene.request('DELETE', id, 'release-lock', { userId: anna.userId }, { replica: 1 });
      assert.equal(release.status, 200, release.label);
      for (const released of await both((watcher) => watcher.next('lock-released'))) {
        assert.equal(released.appointmentId, id);
        assert.equal(released.reason, 'released');
        assert.ok(released.version > status.version);
      }
      const [update] = await both((watcher) => watcher.nextUpdate('released'));
      assert.equal(update.lock, null);
      for (const replica of [0, 1]) {
        const free = await scene.status(id, { replica });
        assert.equal(free.locked, false);
        assert.equal(free.version, update.version);
      }
      for (const names of await both((watcher) => watcher.names(id))) {
        assert.equal(names.filter((name) => name === 'lock-acquired').length, 1, 'one grant, one lock-acquired');
        assert.equal(names.filter((name) => name === 'lock-released').length, 1, 'one end, one lock-released');
      }
    });

    scenario(`${way}: a beacon's text body releases`, async (scene) => {
      const anna = person('Anna');
      const { id, both } = await watched(scene, 'beacon');
      const lock = await scene.acquire(id, anna);
      const body = JSON.stringify({ userId: anna.userId, fencingToken: lock.fencingToken });
      const release = await scene.request('POST', id, 'release-lock', body, { type: 'text/plain;charset=UTF-8' });
      assert.equal(release.status, 200, release.label);
      for (const released of await both((watcher) => watcher.next('lock-released'))) {
        assert.equal(released.reason, 'released');
      }
      assert.equal((await scene.status(id)).locked, false);
    });

    scenario(`${way}: a forced release is announced before it is shown`, async (scene) => {
      const [anna, root] = [person('Anna'), person('Root')];
      const { id, both } = await watched(scene, 'forced');
      await scene.acquire(id, anna);
      const forced = await scene.request('DELETE', id, 'force-release-lock', asAdmin(root), { replica: 1 });
      assert.equal(forced.status, 200, forced.label);
      for (const released of await both((watcher) => watcher.next('lock-released'))) {
        assert.equal(released.reason, 'forced');
      }
      for (const update of await both((watcher) => watcher.nextUpdate('forced'))) assert.equal(update.lock, null);
      for (const takeover of await both((watcher) => watcher.next('admin-takeover'))) {
        assert.equal(takeover.appointmentId, id);
        assert.equal(takeover.adminId, root.userId);
        assert.equal(takeover.adminInfo.name, 'Root');
        assert.ok(Number.isInteger(takeover.version));
      }
      for (const names of await both((watcher) => watcher.names(id))) {
        assert.ok(names.indexOf('admin-takeover') < names.indexOf('lock-released'), names.join());
      }
      await scene.acquire(id, person('Ben'), { replica: 1 });
    });

    scenario(`${way}: a take-over leaves no free moment`, async (scene) => {
      const [anna, root] = [person('Anna'), person('Root')];
      const { id, both } = await watched(scene, 'taken');
      const lock = await scene.acquire(id, anna);
      await both((watcher) => watcher.next('lock-acquired'));
      const taken = await scene.request('POST', id, 'take-over', asAdmin(root), { replica: 1 });
      assert.equal(taken.status, 200, taken.label);
      assertLock(taken.body.lock, id, root);
      assert.ok(taken.body.lock.fencingToken > lock.fencingToken);
      assert.ok(taken.body.lock.version > lock.version);
      for (const acquired of await both((watcher) => watcher.next('lock-acquired'))) {
        assertLock(acquired.lock, id, root);
        assert.equal(acquired.lock.fencingToken, taken.body.lock.fencingToken);
      }
      await both((watcher) => watcher.nextUpdate('taken-over'));
      for (const takeover of await both((watcher) => watcher.next('admin-takeover'))) {
        assert.equal(takeover.adminId, root.userId);
      }
      for (const watcher of await both((it) => it)) {
        const names = watcher.names(id);
        assert.ok(names.indexOf('admin-takeover') < names.lastIndexOf('lock-acquired'), names.join());
        assert.ok(!names.includes('lock-released'), names.join());
        for (const update of watcher.all('lock-update')) assert.notEqual(update.lock, null);
      }
    });

    scenario(`${way}: a socket hears of its own rooms only`, async (scene) => {
      const [anna, mine, theirs] = [person('Anna'), appointment('mine'), appointment('theirs')];
      for (const replica of [0, 1]) {
        const witness = await scene.connect(person('Walter'), { replica, transports });
        const bystander = await scene.connect(person('Berta'), { replica, transports });
        await Promise.all([witness.subscribe(theirs), bystander.subscribe(mine)]);
        const left = appointment('left');
        await bystander.subscribe(left);
        assert.equal((await bystander.ask('unsubscribe', left)).success, true);
        await witness.subscribe(left);

        for (const id of [theirs, left]) {
          await scene.acquire(id, anna);
          await witness.next('lock-acquired', (acquired) => acquired.appointmentId === id);
          await scene.request('DELETE', id, 'release-lock', { userId: anna.userId });
          await witness.next('lock-released', (released) => released.appointmentId === id);
        }
        // The replica has shown the others' events; what it shows from now on comes after them.
        await scene.acquire(mine, anna);
        await bystander.next('lock-acquired');
        await scene.request('DELETE', mine, 'release-lock', { userId: anna.userId });
        await bystander.next('lock-released');
        assert.deepEqual(bystander.names(theirs), []);
        assert.deepEqual(bystander.names(left), ['(subscribed)']);
        assert.ok(!witness.names(mine).length);
        witness.socket.disconnect();
        bystander.socket.disconnect();
      }
    });
  }

  scenario('verify knows the living lease from any other, on both replicas', async (scene) => {
    const [anna, ben, id] = [person('Anna'), person('Ben'), appointment('verified')];
    const verify = async (fencingToken, expected) => {
      for (const replica of [0, 1]) {
        const answer = await scene.request('POST', id, 'verify', { fencingToken }, { replica });
        assert.equal(answer.status, expected, answer.label);
        if (expected === 409) assert.equal(answer.body.code, 'STALE_TOKEN');
      }
    };
    await verify(1, 409);
    const first = await scene.acquire(id, anna);
    await verify(first.fencingToken, 200);
    await verify(first.fencingToken + 1, 409);
    await scene.request('POST', id, 'acquire-lock', anna);
    await verify(first.fencingToken, 200);
    await scene.request('DELETE', id, 'release-lock', { userId: anna.userId });
    await verify(first.fencingToken, 409);
    const second = await scene.acquire(id, ben, { replica: 1 });
    assert.ok(second.fencingToken > first.fencingToken);
    assert.ok(second.version > first.version);
    await verify(first.fencingToken, 409);
    await verify(second.fencingToken, 200);
  });

  scenario('who may not is told why', async (scene) => {
    const [anna, ben, root, id] = [person('Anna'), person('Ben'), person('Root'), appointment('refused')];
    const refused = async (method, action, body, status, code) => {
      for (const replica of [0, 1]) {
        const answer = await scene.request(method, id, action, body, { replica });
        assert.equal(answer.status, status, answer.label);
        assert.equal(answer.body.code, code, answer.label);
      }
    };
    const position = { x: 1, y: 2 };
    await refused('DELETE', 'release-lock', { userId: anna.userId }, 404, 'NOT_LOCKED');
    await refused('POST', 'release-lock', { userId: anna.userId }, 404, 'NOT_LOCKED');
    await refused('DELETE', 'force-release-lock', asAdmin(root), 404, 'NOT_LOCKED');
    await refused('POST', 'update-position', { userId: anna.userId, position }, 404, 'NOT_LOCKED');

    const lock = await scene.acquire(id, anna);
    const stale = lock.fencingToken + 1;
    await refused('DELETE', 'release-lock', { userId: ben.userId }, 403, 'NOT_HOLDER');
    await refused('POST', 'release-lock', { userId: ben.userId }, 403, 'NOT_HOLDER');
    await refused('POST', 'update-position', { userId: ben.userId, position }, 403, 'NOT_HOLDER');
    await refused('DELETE', 'release-lock', { userId: anna.userId, fencingToken: stale }, 409, 'STALE_TOKEN');
    await refused('DELETE', 'force-release-lock', { ...asAdmin(root), fencingToken: stale }, 409, 'STALE_TOKEN');
    await refused('POST', 'take-over', { ...asAdmin(root), fencingToken: stale }, 409, 'STALE_TOKEN');

    const status = await scene.status(id);
    assert.equal(status.version, lock.version, 'a refusal changes nothing');
    assert.equal(status.lock.fencingToken, lock.fencingToken);
  });
});
