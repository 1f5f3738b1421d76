// The form of README.md, as it is printed there, in two tabs of a real browser: one person edits and saves, the other
// sees it, and gets the lock afterwards. Only the functions that the page leaves to its reader are ours, and the
// identities.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { startChromium } from '../chromium.mjs';
import { within } from '../harness.mjs';
import { printedBlocks } from '../printed.mjs';
import { startStack } from '../stack.mjs';

const LOCK_TTL = 3_000;
const PRINTED = { url: 'http://127.0.0.1:3000', person: "{ userId: 'ann', userInfo: { name: 'Ann', email: 'ann@example.com' } }" };

const [html] = await printedBlocks('README.md', 'html');
const scripts = await printedBlocks('README.md', 'js');

let [stack, browser, server] = [];
before(async () => {
  [stack, browser, server] = await Promise.all([startStack({ LOCK_TTL: `${LOCK_TTL}ms` }), startChromium(), servePages()]);
});
after(async () => {
  server?.close();
  await browser?.close();
  await stack?.stop();
});

it('README.md has one form, and names who and where once', () => {
  assert.ok(html && scripts.length === 1, 'a block of HTML and one of JavaScript');
  for (const text of Object.values(PRINTED)) assert.equal(scripts[0].text.split(text).length, 2, text);
});

it('shows who edits, keeps the lease while somebody is active, saves with its token, and releases', async () => {
  const [ann, ben] = [await open('Ann', 0), await open('Ben', 1)];
  for (const tab of [ann, ben]) await says(tab, 'Nobody is editing');
  assert.equal(await editable(ann), false);

  await ann.click('#edit');
  for (const tab of [ann, ben]) await says(tab, 'Ann is editing');
  await until('the form to be editable', () => editable(ann));
  assert.equal(await ann.inputValue('input'), 'loaded', 'the record was loaded under the lease');
  assert.deepEqual([await editable(ben), await ben.isDisabled('#edit')], [false, true]);

  // For longer than the lease would last by itself.
  for (const end = Date.now() + 1.5 * LOCK_TTL; Date.now() < end; await pause(100)) await ann.type('input', 'x');
  assert.equal(await editable(ann), true);

  await ann.click('form button');
  for (const tab of [ann, ben]) await says(tab, 'Nobody is editing');
  assert.deepEqual(await ann.evaluate(() => window.saved), [1]);
  assert.equal(await editable(ann), false);

  await ben.click('#edit');
  await says(ann, 'Ben is editing');
  await until('the form to be editable', () => editable(ben));
  // Long before the lease would run out: the page has released it while it closed.
  await ben.close({ runBeforeUnload: true });
  await says(ann, 'Nobody is editing', LOCK_TTL / 2);
});

it('is not editable any more when its lease has run out', async () => {
  const cleo = await open('Cleo', 0);
  await cleo.click('#edit');
  await until('the form to be editable', () => editable(cleo));
  await says(cleo, 'Nobody is editing', LOCK_TTL + 5_000);
  assert.equal(await editable(cleo), false);
  await cleo.close();
});

async function open(name, replica) {
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${server.address().port}/?name=${name}&service=${stack.urls[replica]}`);
  return tab;
}

const editable = (tab) => tab.evaluate(() => !document.querySelector('form').inert);

function says(tab, text, limit) {
  return until(`"${text}" in the tab`, async () => (await tab.textContent('#who')) === text, limit);
}

function until(what, holds, limit) {
  const look = async () => {
    while (!(await holds())) await pause(20);
  };
  return within(look(), what, limit);
}

/** Serves the form, for the person and the replica that the address names, with the client's own bundle. */
async function servePages() {
  const bundle = await readFile(new URL('../node_modules/socket.io-client/dist/socket.io.esm.min.js', import.meta.url));
  const serving = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://127.0.0.1');
    if (pathname === '/') {
      response.setHeader('content-type', 'text/html');
      response.end(page(searchParams.get('name'), searchParams.get('service')));
    } else if (pathname === '/socket.io.js') {
      response.setHeader('content-type', 'text/javascript');
      response.end(bundle);
    } else {
      response.writeHead(404).end();
    }
  });
  await new Promise((listening) => serving.listen(0, '127.0.0.1', listening));
  return serving;
}

function page(name, service) {
  const person = JSON.stringify({ userId: name.toLowerCase(), userInfo: { name, email: '' } });
  const script = scripts[0].text.replace(PRINTED.url, service).replace(PRINTED.person, person);
  return `<!doctype html><title>A form</title>
<script type="importmap">{ "imports": { "socket.io-client": "/socket.io.js" } }</script>
${html.text}
<script>
  window.saved = [];
  window.load = async (form) => void (form.elements.title.value = 'loaded');
  window.save = async (form, token) => void window.saved.push(token);
</script>
<script type="module">
${script}
</script>`;
}
