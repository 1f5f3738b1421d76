// Leases that expire. A short time to live is a setting of the whole service, so these tests have a separate stack;
// they wait for deadlines of the service, which no test can advance.

import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { appointment, assertLock, person, suite, WAYS, within } from './harness.mjs';

suite('expiry, with LOCK_TTL=2s', { LOCK_TTL: '2s' }, (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    scenario(`${way}: a lease that runs out is shown on both replicas within a second`, async (scene) => {
      const [anna, ben, id] = [person('Anna'), person('Ben'), appointment('expiring')];
      const watchers = await Promise.all(
        [0, 1].map((replica) => scene.connect(person('Walter'), { replica, transports })),
      );
      await Promise.all(watchers.map((watcher) => watcher.subscribe(id)));
      const lock = await scene.acquire(id, anna);
      assert.ok(lock.expiresInMs <= 2_000, `expires in ${lock.expiresInMs} ms`);
      // The service and the test are on one machine, so they read the same clock.
      const deadline = Date.parse(lock.expiresAt);

      for (const watcher of watchers) {
        const released = await watcher.next('lock-released');
        assert.equal(released.appointmentId, id);
        assert.equal(released.reason, 'expired');
        assert.ok(released.version > lock.version);
        const late = released.receivedAt - deadline;
        assert.ok(late >= 0, `${watcher.label} heard of it ${-late} ms before the deadline`);
        assert.ok(late <= 1_000, `${watcher.label} heard of it ${late} ms after the deadline`);
        const update = await watcher.nextUpdate('expired');
        assert.equal(update.lock, null);
      }
      const stale = await scene.request('POST', id, 'verify', { fencingToken: lock.fencingToken }, { replica: 1 });
      assert.equal(stale.status, 409, stale.label);
      const next = await scene.acquire(id, ben, { replica: 1 });
      assert.ok(next.fencingToken > lock.fencingToken);
      assert.ok(next.version > lock.version);
    });

    scenario(`${way}: the holder's moving cursor keeps the lease`, async (scene) => {
      const [anna, id] = [person('Anna'), appointment('kept')];
      const watcher = await scene.connect(person('Walter'), { replica: 1, transports });
      const holder = await scene.connect(anna, { transports });
      await Promise.all([watcher.subscribe(id), holder.subscribe(id)]);
      const lock = await scene.acquire(id, anna);

      // Keeps moving until well after the first deadline, then lets go.
      let x = 0;
      while (Date.now() < Date.parse(lock.expiresAt) + 500) {
        const answer = await holder.ask('cursor-position', { appointmentId: id, position: { x: (x += 1), y: 0 } });
        assert.equal(answer.success, true);
        await pause(100);
      }
      const status = await scene.status(id);
      assert.equal(status.locked, true, 'the lease ran out though its holder was moving');
      assertLock(status.lock, id, anna);
      assert.equal(status.lock.fencingToken, lock.fencingToken);
      const renewed = watcher.all('lock-update').filter((update) => update.reason === 'renewed');
      assert.ok(renewed.length >= 1, 'the renewals were shown to nobody');
      // At most one write for a tenth of the time to live; two more for the edges of the window.
      assert.ok(renewed.length <= 2_500 / 200 + 2, `${renewed.length} renewals are not debounced`);

      const released = await watcher.next('lock-released');
      assert.equal(released.reason, 'expired');
    });
  }

  scenario('a lease that ran out is free for the next at once', async (scene) => {
    const [anna, ben, id] = [person('Anna'), person('Ben'), appointment('free')];
    const watcher = await scene.connect(person('Walter'));
    await watcher.subscribe(id);
    const lock = await scene.acquire(id, anna);
    // Sends requests from just before the deadline on, so that one of them meets it before any sweep.
    await pause(Date.parse(lock.expiresAt) - Date.now() - 50);
    const grant = await within(
      (async () => {
        for (;;) {
          const answer = await scene.request('POST', id, 'acquire-lock', ben, { replica: 1 });
          if (answer.status === 201) return { lock: answer.body.lock, at: Date.now() };
          assert.equal(answer.status, 409, answer.label);
        }
      })(),
      'a grant after the deadline',
      3_000,
    );
    const wait = grant.at - Date.parse(lock.expiresAt);
    assert.ok(Date.parse(grant.lock.createdAt) >= Date.parse(lock.expiresAt), 'two leases overlap');
    assert.ok(wait < 250, `the next had to wait for ${wait} ms after the deadline`);
    const acquired = await watcher.next('lock-acquired', (event) => event.lock.userId === ben.userId);
    assert.equal(acquired.lock.fencingToken, grant.lock.fencingToken);
  });
});
