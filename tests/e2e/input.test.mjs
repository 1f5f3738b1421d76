// Invalid input: it is answered, and harms neither its sender nor other clients.

import assert from 'node:assert/strict';
import { appointment, assertRefused, person, show, suite, WAYS } from './harness.mjs';

const BAD_IDS = [
  ['empty', ''],
  ['201 bytes', 'a'.repeat(201)],
  ['101 characters that are 202 bytes', 'é'.repeat(101)],
  ['a NUL', 'a\u0000b'],
  ['a line feed', 'a\nb'],
  ['a DEL', 'a\u007fb'],
  ['a number', 42],
  ['a boolean', true],
  ['a list', ['a']],
  ['nothing', null],
];

const BAD_POSITIONS = [
  ['none', undefined],
  ['null', null],
  ['half of one', { x: 1 }],
  ['text', { x: '1', y: '2' }],
  // JSON encodes NaN and the infinities as null.
  ['not a number', { x: NaN, y: 1 }],
  ['infinite', { x: 1, y: Infinity }],
  ['a list', [1, 2]],
  ['a word', 'left'],
];

suite('bad input', {}, (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    scenario(`${way}: a malformed payload is answered, and the connection lives`, async (scene) => {
      const [anna, id] = [person('Anna'), appointment('tried')];
      const witness = await scene.connect(person('Walter'), { transports });
      const client = await scene.connect(anna, { transports });
      await Promise.all([witness.subscribe(id), client.subscribe(id)]);
      const session = client.socket.id;

      for (const event of ['subscribe', 'unsubscribe', 'cursor-position']) {
        const position = { x: 1, y: 1 };
        const refuse = async (what, ...payload) =>
          assertRefused(await client.ask(event, ...payload), `${event} with ${what}, ${show(payload)},`);
        await refuse('no payload');
        await refuse('an empty object', {});
        for (const [what, bad] of BAD_IDS) {
          if (event !== 'cursor-position') await refuse(what, bad);
          if (event !== 'unsubscribe') await refuse(`an id that is ${what}`, { appointmentId: bad, position });
        }
      }
      for (const [what, position] of BAD_POSITIONS) {
        const answer = await client.ask('cursor-position', { appointmentId: id, position });
        assertRefused(answer, `a position that is ${what}`);
      }
      assertRefused(await client.ask('subscribe', { appointmentId: id, cursors: 'sideways' }), 'an unknown choice');

      // Without an acknowledgement it is ignored, and so are unknown events.
      for (const event of ['subscribe', 'unsubscribe', 'cursor-position', 'no-such-event']) {
        client.socket.emit(event);
        client.socket.emit(event, { appointmentId: 7 });
        client.socket.emit(event, [[]], 'and', { more: true });
      }

      const good = await client.ask('cursor-position', { appointmentId: id, position: { x: 8, y: 9 } });
      assert.equal(good.success, true);
      const update = await witness.next('cursor-update', (seen) => seen.position.x === 8);
      assert.deepEqual(update.position, { x: 8, y: 9 });
      await client.subscribe(appointment('after'));
      assert.equal(client.socket.id, session, 'the connection was lost on the way');
    });

    scenario(`${way}: who sends bytes loses the connection, and harms nobody else`, async (scene) => {
      const id = appointment('bytes');
      const witness = await scene.connect(person('Walter'), { transports });
      await witness.subscribe(id);
      const sender = await scene.connect(person('Nora'), { transports });
      sender.socket.emit('subscribe', Buffer.from('bytes'));
      await sender.disconnected();
      await scene.acquire(id, person('Anna'), { replica: 1 });
      await witness.next('lock-acquired');
    });

    scenario(`${way}: packets that are none harm nobody else`, async (scene) => {
      const id = appointment('noise');
      const witness = await scene.connect(person('Walter'), { transports });
      await witness.subscribe(id);
      const noises = [
        ...['2', '2{}', '2[', '2[]', '2[1]', '2["subscribe"', '2["subscribe","\\ud800"]', '299["subscribe",{}]'],
        ...['3', '31["stray"]', '51-["subscribe",{"_placeholder":true,"num":0}]', '0', '0{"userId":7}', '4"no"'],
        ...['9', 'x', ''],
      ];
      for (const noise of noises) {
        const noisy = await scene.connect(person('Nora'), { transports });
        noisy.socket.io.engine.write(noise);
        noisy.socket.io.engine.write(Buffer.from([0, 1, 2, 255]));
        // Either outcome is right for the sender: the connection continues, or ends.
        await noisy.ask('subscribe', id).catch(() => {});
        noisy.socket.disconnect();
      }
      await scene.acquire(id, person('Anna'), { replica: 1 });
      await witness.next('lock-acquired');
      assert.equal(witness.socket.connected, true);
    });
  }

  scenario('every answer wears the same envelope, whichever layer gives it', async (scene) => {
    const [anna, id] = [person('Anna'), appointment('envelope')];
    const path = `/api/appointments/${encodeURIComponent(id)}`;
    const body = JSON.stringify(anna);
    const { userId } = anna;
    for (const [status, method, route, text, type] of [
      [404, 'GET', '/api/no-such-route'],
      [404, 'POST', `${path}/no-such-action`, body],
      [405, 'GET', `${path}/acquire-lock`],
      [405, 'PUT', `${path}/lock-status`, body],
      [400, 'POST', `${path}/acquire-lock`, '{"userId":'],
      [415, 'POST', `${path}/acquire-lock`, body, 'application/xml'],
      [413, 'POST', `${path}/acquire-lock`, JSON.stringify({ ...anna, padding: 'x'.repeat(17 * 1024) })],
      [422, 'POST', `${path}/acquire-lock`, '{}'],
      [422, 'POST', `${path}/acquire-lock`, JSON.stringify({ ...anna, userId: 5 })],
      [422, 'POST', `${path}/update-position`, JSON.stringify({ userId, position: { x: 1 } })],
      [422, 'POST', `${path}/verify`, '{"fencingToken":"7"}'],
      // Lists are not objects, though their members could be taken for the fields in order.
      [422, 'POST', `${path}/acquire-lock`, JSON.stringify({ userId, userInfo: ['Anna', 'anna@example.com'] })],
      [422, 'POST', `${path}/update-position`, JSON.stringify({ userId, position: [1, 2] })],
      [422, 'POST', `${path}/verify`, '[7]'],
      [422, 'GET', `/api/appointments/${'a'.repeat(201)}/lock-status`],
      [422, 'GET', '/api/appointments/a%00b/lock-status'],
    ]) {
      for (const replica of [0, 1]) {
        const answer = await scene.fetch(method, route, text, { replica, type });
        assert.equal(answer.status, status, answer.label);
      }
    }
    const nameless = await scene.request('POST', id, 'acquire-lock', { userInfo: anna.userInfo });
    assert.match(nameless.body.message, /userId/, 'the message names the field');
    assert.equal((await scene.status(id)).locked, false);
  });
});
