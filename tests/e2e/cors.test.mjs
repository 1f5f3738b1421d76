// CORS: preflight requests and answers for pages of other origins.

import assert from 'node:assert/strict';
import { suite } from './harness.mjs';

const [LISTED, STRANGE] = ['https://app.example.com', 'https://elsewhere.example.com'];
// A request, the poll that opens a connection, and the preflight of a request that is not a simple one.
const PATHS = [
  ['GET', '/api/appointments/42/lock-status'],
  ['GET', '/socket.io/?EIO=4&transport=polling'],
  ['OPTIONS', '/api/appointments/42/acquire-lock'],
  ['OPTIONS', '/socket.io/?EIO=4&transport=polling'],
];

async function ask(scene, method, path, origin) {
  const headers = { origin };
  if (method === 'OPTIONS') {
    headers['access-control-request-method'] = 'POST';
    headers['access-control-request-headers'] = 'content-type,authorization';
  }
  const response = await fetch(scene.stack.urls[0] + path, { method, headers });
  await response.text();
  const allowed = (name) => response.headers.get(`access-control-allow-${name}`);
  const label = `${method} ${path} from ${origin}: ${response.status}`;
  return { label, origin: allowed('origin'), credentials: allowed('credentials'), vary: response.headers.get('vary') };
}

suite('origins that are written out', { CORS_ALLOWED_ORIGINS: `${LISTED},https://third.example.com` }, (scenario) => {
  scenario('a listed one may send its cookies, and no other', async (scene) => {
    for (const [method, path] of PATHS) {
      const listed = await ask(scene, method, path, LISTED);
      assert.equal(listed.origin, LISTED, listed.label);
      assert.equal(listed.credentials, 'true', `${listed.label}: access-control-allow-credentials`);
      assert.match(listed.vary ?? '', /\borigin\b/i, `${listed.label}: a cache must not give this to another origin`);
      const strange = await ask(scene, method, path, STRANGE);
      assert.equal(strange.origin, null, strange.label);
    }
  });
});

suite('all origins', { CORS_ALLOWED_ORIGINS: '*' }, (scenario) => {
  scenario('none may send its cookies', async (scene) => {
    for (const [method, path] of PATHS) {
      const answer = await ask(scene, method, path, STRANGE);
      assert.equal(answer.origin, '*', answer.label);
      assert.equal(answer.credentials, null, answer.label);
    }
  });
});
