// Texts for people and codes for programs in rejections, and display of users without a name.

import assert from 'node:assert/strict';
import { io } from 'socket.io-client';
import { appointment, assertRefused, person, show, suite, WAYS, within } from './harness.mjs';
import { startServing } from './serving.mjs';
import { SECRET, tokenOf } from './tokens.mjs';

/** The error of a connection that is refused. */
function refusal(url, auth, transports) {
  const socket = io(url, { transports, auth, forceNew: true, reconnection: false });
  const refused = new Promise((resolve, reject) => {
    socket.once('connect_error', resolve);
    socket.once('connect', () => reject(new Error(`${show(auth)} was let in`)));
  });
  return within(refused, `the refusal of ${show(auth)}`).finally(() => socket.disconnect());
}

suite('words, where identities are trusted', {}, (scenario) => {
  scenario('HELD_BY_YOU begins as every conflict does', async (scene) => {
    const [anna, id] = [person('Anna'), appointment('two tabs')];
    await scene.acquire(id, { ...anna, sessionId: 'one' });
    const answer = await scene.request('POST', id, 'acquire-lock', { ...anna, sessionId: 'two' }, { replica: 1 });
    assert.equal(answer.status, 409, answer.label);
    assert.equal(answer.body.code, 'HELD_BY_YOU', answer.label);
    assert.match(answer.body.message, /^Appointment is currently locked by Anna(?!\w)/);
  });

  scenario('a pointer of somebody without a name has the id as its name', async (scene) => {
    const id = appointment('pointers');
    const [speaker, watcher] = await Promise.all([
      scene.connect(person('Sam'), { auth: null }),
      scene.connect(person('Walter'), { replica: 1 }),
    ]);
    await Promise.all([speaker, watcher].map((client) => client.subscribe(id)));
    const move = { appointmentId: id, userId: 'guest-7', position: { x: 1, y: 2 } };
    const answer = await speaker.ask('cursor-position', move);
    assert.equal(answer.success, true, show(answer));
    const seen = await watcher.next('cursor-update');
    assert.equal(seen.userId, 'guest-7');
    assert.equal(seen.userInfo.name, 'guest-7', show(seen));
  });

  for (const [way, transports] of Object.entries(WAYS)) {
    scenario(`${way}: what is refused on a socket is a payload or an auth, not a body`, async (scene) => {
      const client = await scene.connect(person('Anna'), { transports });
      for (const event of ['subscribe', 'unsubscribe', 'cursor-position', 'refresh-token']) {
        for (const payload of [[], [7], [null], [true], [['list']], [{}], ['']]) {
          const answer = await client.ask(event, ...payload);
          const label = `${event} with ${show(payload)}`;
          assertRefused(answer, label);
          assert.doesNotMatch(answer.message, /body/i, label);
        }
      }
      // A field without a name is called by its kind.
      assert.match((await client.ask('cursor-position', [1])).message, /\bpayload\b/);
      for (const auth of [{ userId: 7 }, { userId: '' }, { userId: 'ann' }, { userId: 'ann', userInfo: [] }]) {
        const error = await refusal(scene.stack.urls[0], auth, transports);
        assert.match(error.message, /\bauth\b/, show(auth));
        assert.doesNotMatch(error.message, /body/i, show(auth));
        assert.equal(error.data?.code, 'INVALID', `${show(auth)} is refused with data ${show(error.data)}`);
      }
    });
  }

  scenario('the OpenAPI document is compressed, and is not sent twice', async (scene) => {
    const url = `${scene.stack.urls[0]}/api/openapi.json`;
    const first = await fetch(url, { headers: { 'accept-encoding': 'gzip' } });
    assert.equal(first.status, 200);
    assert.equal(first.headers.get('content-encoding'), 'gzip');
    assert.match(first.headers.get('content-type'), /^application\/json/);
    assert.match((await first.json()).openapi, /^3\./);
    const tag = first.headers.get('etag');
    assert.ok(tag, 'it has an entity tag');
    const again = await fetch(url, { headers: { 'accept-encoding': 'gzip', 'if-none-match': tag } });
    assert.equal(again.status, 304);
    assert.equal(await again.text(), '');
    const plain = await fetch(url, { headers: { 'accept-encoding': 'identity', 'if-none-match': '"another"' } });
    assert.equal(plain.status, 200);
    assert.equal(plain.headers.get('content-encoding'), null);
    assert.match((await plain.json()).openapi, /^3\./);
  });

  scenario('a body in an encoding or a charset that is not read is refused, and says so', async (scene) => {
    const post = async (headers) => {
      const [anna, id] = [person('Anna'), appointment('encoded')];
      const response = await fetch(`${scene.stack.urls[0]}/api/appointments/${encodeURIComponent(id)}/acquire-lock`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(anna),
      });
      return { status: response.status, body: await response.json() };
    };
    for (const encoding of ['gzip', 'br', 'deflate', 'zstd', 'gzip, identity', 'nonsense']) {
      const { status, body } = await post({ 'content-encoding': encoding });
      assert.equal(status, 415, `${encoding}: ${show(body)}`);
      assert.equal(body.success, false);
      assert.match(body.message, /encod/i);
    }
    assert.equal((await post({ 'content-encoding': 'Identity' })).status, 201);
    for (const charset of ['iso-8859-1', '"ISO-8859-1"', 'utf-16', 'windows-1252']) {
      const { status, body } = await post({ 'content-type': `application/json; charset=${charset}` });
      assert.equal(status, 415, `${charset}: ${show(body)}`);
      assert.match(body.message, /UTF-8/);
    }
    for (const parameters of ['; charset=utf-8', ';charset=UTF-8', '; Charset="utf-8"', '; CHARSET="Utf-8"; a=b']) {
      const { status, body } = await post({ 'content-type': `application/json${parameters}` });
      assert.equal(status, 201, `${parameters}: ${show(body)}`);
    }
  });
});

const refusals = (scenario) => {
  for (const [way, transports] of Object.entries(WAYS)) {
    scenario(`${way}: a connection that is refused says why by a code`, async (scene) => {
      const anna = person('Anna');
      const token = tokenOf(anna);
      const forged = `${token.slice(0, -6)}AAAAAA`;
      for (const [auth, code] of [
        [{}, 'UNAUTHENTICATED'],
        [{ token: 'none' }, 'UNAUTHENTICATED'],
        [{ token: forged }, 'UNAUTHENTICATED'],
        [{ token: tokenOf(anna, -60) }, 'UNAUTHENTICATED'],
        [{ token, userId: 'somebody-else' }, 'IDENTITY_MISMATCH'],
        [{ token, sessionId: 7 }, 'INVALID'],
      ]) {
        const error = await refusal(scene.stack.urls[0], auth, transports);
        assert.equal(error.data?.code, code, `${show(auth)}: "${error.message}" with data ${show(error.data)}`);
        assert.notEqual(error.message, '');
      }
    });
  }
};
suite('words, with signed tokens', { AUTH_MODE: 'jwt', JWT_SECRET: SECRET }, refusals, startServing);
