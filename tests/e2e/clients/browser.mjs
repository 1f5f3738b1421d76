// A page on another origin than the service, in a real browser: it connects through a balancer with sticky sessions
// by cookie, with each transport, and gets changes. Only browsers enforce CORS and the rules of cookies, so no other
// client can test this.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { startBalancer } from '../balancers.mjs';
import { startChromium } from '../chromium.mjs';
import { appointment, person, show, within } from '../harness.mjs';
import { freePorts } from '../service.mjs';
import { startServing } from '../serving.mjs';

const TRIES = 6;
const CLIENTS = { 'the default client': undefined, 'polling only': ['polling'], 'WebSocket only': ['websocket'] };

// Browsers take every name below .localhost for this machine. `app.` and `locks.` of one name are two origins of one
// site, as app.example.com and locks.example.com are; another name is another site, whose cookies are third parties'.
const SERVICE = 'locks.shop.localhost';
const PAGES = { 'this site': 'app.shop.localhost', 'other sites': 'app.partner.localhost' };

describe('a page on another origin', () => {
  let [browser, server, serving, pages] = [];

  before(async () => {
    server = await servePages();
    const { port } = server.address();
    pages = Object.fromEntries(Object.entries(PAGES).map(([whose, host]) => [whose, `http://${host}:${port}`]));
    [browser, serving] = await Promise.all([
      startChromium(),
      startServing({ CORS_ALLOWED_ORIGINS: Object.values(pages).join(',') }),
    ]);
  });
  after(async () => {
    server?.close();
    await browser?.close();
    await serving?.stop();
  });

  for (const kind of ['haproxy', 'nginx']) {
    for (const whose of Object.keys(PAGES)) {
      describe(`of ${whose}, through ${kind}`, () => {
        let balancer;
        before(async () => (balancer = await startBalancer(kind, serving.replicas, { otherSites: whose !== 'this site' })));
        after(() => balancer?.stop());

        for (const [client, transports] of Object.entries(CLIENTS)) {
          it(`${client} connects, subscribes and hears of a change, ${TRIES} times of ${TRIES}`, async () => {
            const url = `${balancer.scheme}://${SERVICE}:${balancer.port}`;
            const last = transports?.at(-1) ?? 'websocket';
            const seen = [];
            for (let n = 0; n < TRIES; n += 1) {
              const editedAt = serving.urls[n % serving.urls.length];
              seen.push(await visit(pages[whose], { url, transports }, last, editedAt));
            }
            assert.deepEqual(seen, Array(TRIES).fill(`subscribed, heard of the change, by ${last}`), show(seen));
          });
        }
      });
    }
  }

  /** A new visitor, with no cookie yet: what became of it, in words. */
  async function visit(page, client, last, editedAt) {
    await browser.clearCookies();
    const tab = await browser.newPage();
    try {
      const said = [];
      tab.on('console', (message) => said.push(message.text()));
      await tab.goto(page);
      const [id, visitor, editor] = [appointment('seen'), person('Vera'), person('Emil')];
      const met = await tab.evaluate(connect, { ...client, auth: visitor, id });
      if (met !== 'subscribed') return `${met} ${said[0] ?? ''}`;
      const acquired = await fetch(`${editedAt}/api/appointments/${encodeURIComponent(id)}/acquire-lock`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(editor),
      });
      assert.equal(acquired.status, 201, await acquired.text());
      return await within(tab.evaluate(hear, { userId: editor.userId, last }), `the change in the page on ${page}`);
    } finally {
      await tab.close();
    }
  }
});

/** In the page: connects as the documents say, and resolves when it has subscribed or was refused. */
function connect({ url, transports, auth, id }) {
  return new Promise((resolve) => {
    const socket = window.io(url, { auth, withCredentials: true, ...(transports && { transports }) });
    window.socket = socket;
    window.heard = new Promise((hear) => socket.on('lock-acquired', hear));
    socket.on('connect', () => {
      socket.emit('subscribe', id, (ack) => resolve(ack.success ? 'subscribed' : JSON.stringify(ack)));
    });
    socket.on('connect_error', (error) => resolve(`refused: ${error.message}`));
    socket.on('disconnect', (reason) => resolve(`disconnected: ${reason}`));
  });
}

/** In the page: resolves when the change has been heard, and the client has settled on its transport. */
async function hear({ userId, last }) {
  const { lock } = await window.heard;
  const { engine } = window.socket.io;
  if (engine.transport.name !== last) {
    await new Promise((done) => engine.once('upgrade', done));
  }
  const whose = lock.userId === userId ? 'heard of the change' : `heard of ${lock.userId}`;
  return `subscribed, ${whose}, by ${engine.transport.name}`;
}

/** A web server with one page, which loads the client's own bundle. */
async function servePages() {
  const bundle = await readFile(new URL('../node_modules/socket.io-client/dist/socket.io.min.js', import.meta.url));
  const server = createServer((request, response) => {
    const script = request.url === '/socket.io.js';
    response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
    response.end(script ? bundle : '<!doctype html><title>A page</title><script src="/socket.io.js"></script>');
  });
  const port = await freePorts(1);
  await new Promise((listening) => server.listen(port, '127.0.0.1', listening));
  return server;
}
