// The pages in a real browser: two people at the demo, and an example of the API page that is sent as it stands there.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { startChromium } from '../chromium.mjs';
import { appointment, asAdmin, person, show } from '../harness.mjs';
import { startStack } from '../stack.mjs';

const WIDE = { width: 1280, height: 900 };
const PHONE = { width: 320, height: 640 };

describe('the pages in Chromium', () => {
  let [browser, stack] = [];
  before(async () => ([browser, stack] = await Promise.all([startChromium(), startStack()])));
  after(async () => {
    await browser?.close();
    await stack?.stop();
  });

  const path = (id, action) => `/api/appointments/${encodeURIComponent(id)}/${action}`;

  async function open(url, size = WIDE) {
    const tab = await browser.newPage();
    tab.setDefaultTimeout(10_000);
    await tab.setViewportSize(size);
    await tab.goto(url);
    return tab;
  }

  /** A person at the demo page of an appointment, once they see who holds its lock. */
  async function visit(id, { replica = 0, size } = {}) {
    const tab = await open(`${stack.urls[replica]}/?id=${encodeURIComponent(id)}`, size);
    await tab.waitForSelector('#card:not([data-standing=unknown])');
    return tab;
  }

  async function send(method, id, action, body) {
    const response = await fetch(stack.urls[0] + path(id, action), {
      method,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    assert.ok(response.ok, await response.clone().text());
    return response.json();
  }

  const edit = async (tab) => {
    await tab.click('#edit');
    await tab.waitForSelector('#record.editing');
  };
  const takeOver = async (tab) => {
    await tab.click('#admin summary');
    await tab.click('#take-over');
    await tab.waitForSelector('#record.editing');
  };
  const shows = (tab, name, text) =>
    tab.waitForFunction(([name, text]) => document.querySelector(`[name=${name}]`).value === text, [name, text]);
  const saved = async (id) => (await fetch(`${stack.urls[1]}/demo/records/${encodeURIComponent(id)}`)).json();
  const focused = (tab) => tab.evaluate(() => document.activeElement.name || document.activeElement.id);
  const notices = (tab) => tab.$$eval('.notice strong', (titles) => titles.map((title) => title.textContent));

  it('one types, the other reads it as it is saved, and an old token is refused after a take-over', async () => {
    const id = appointment('shown');
    const ann = await visit(id);
    const ben = await visit(id, { replica: 1 });
    await edit(ann);
    await ann.fill('[name=notes]', 'typed by the first');
    await shows(ben, 'notes', 'typed by the first');
    assert.equal(await ann.isHidden('#old-save'), true);

    await takeOver(ben);
    assert.equal(await focused(ben), 'patient');
    await ann.waitForSelector('[data-standing=theirs]');
    await ben.fill('[name=notes]', 'typed by the admin');
    await shows(ann, 'notes', 'typed by the admin');

    await ann.click('#old-save');
    await ann.waitForSelector('#old-answer:not([hidden])');
    assert.equal(await ann.textContent('#old-title'), 'Refused: 409 STALE_TOKEN');
    assert.match(await ann.textContent('#old-message'), /fencing token 1 is not in force\. .+ holds the lock now/);
    assert.equal((await saved(id)).record.notes, 'typed by the admin');

    // The notice of the take-over disappears once the lock is back.
    await ben.click('#done');
    await ann.waitForSelector('[data-standing=free]');
    await edit(ann);
    assert.deepEqual(await notices(ann), []);
    await ann.fill('[name=notes]', 'not wanted');
    await ann.click('#cancel');
    await ann.waitForSelector('[data-standing=free]');
    assert.equal((await saved(id)).record.notes, 'typed by the admin');
    assert.equal(await focused(ann), 'edit');
  });

  it('words that came too late are brought back with the lock, and wait while somebody else has it', async () => {
    const id = appointment('late');
    const ann = await visit(id);
    await edit(ann);
    const admin = asAdmin(person('Ada'));
    // The save is in flight when the lock is lost.
    await ann.route('**/demo/records/**', async (route) => {
      if (route.request().method() === 'PUT') await send('POST', id, 'take-over', admin);
      await route.continue();
    });
    await ann.fill('[name=subject]', 'too late');
    const back = ann.getByRole('button', { name: 'Bring them back' });
    await back.click();
    await ann.getByText('Ada is editing. They wait').waitFor();
    await ann.unroute('**/demo/records/**');
    await send('DELETE', id, 'force-release-lock', admin);
    await ann.waitForSelector('[data-standing=free]');
    await back.click();
    await ann.waitForSelector('#record.editing');
    await shows(ann, 'subject', 'too late');
    await ann.waitForFunction(() => document.getElementById('saved').dataset.state === 'saved');
    assert.equal((await saved(id)).record.subject, 'too late');
    assert.deepEqual(await notices(ann), []);
  });

  it('a pointer is in the same field of a narrow window, and nothing is cut there', async () => {
    const id = appointment('narrow');
    const ann = await visit(id);
    const phone = await visit(id, { size: PHONE });
    for (const field of ['clinician', 'place', 'notes']) {
      await ann.hover(`[name=${field}]`);
      await phone.waitForFunction((field) => {
        const pointer = document.querySelector('.cursor')?.getBoundingClientRect();
        const box = document.querySelector(`[name=${field}]`).getBoundingClientRect();
        const inside = (at, from, to) => at >= from && at <= to;
        return pointer && inside(pointer.left, box.left, box.right) && inside(pointer.top, box.top, box.bottom);
      }, field);
    }
    await edit(phone);
    const cut = await phone.$$eval('[name=date], [name=start], .me-name', (all) =>
      all.filter((it) => it.scrollWidth > it.clientWidth || it.clientWidth < 60).map((it) => it.name || it.className));
    assert.deepEqual(cut, []);
    assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
  });

  it('offers another replica of the same installation only', async () => {
    const other = await startStack({}, { replicas: 1 });
    try {
      const id = appointment('beside');
      const ann = await visit(id);
      await ann.waitForSelector('#replica-step:not([hidden])');
      assert.equal(new URL(await ann.getAttribute('#replica', 'href')).origin, stack.urls[1]);
      // The other installation takes the neighbour's place.
      const eve = await browser.newPage();
      await eve.route(`${stack.urls[1]}/demo/info`, async (route) =>
        route.fulfill({ response: await route.fetch({ url: `${other.urls[0]}/demo/info` }) }));
      const asked = eve.waitForResponse(`${stack.urls[1]}/demo/info`);
      await eve.goto(stack.urls[0]);
      await asked;
      await eve.waitForTimeout(500);
      assert.equal(await eve.isHidden('#replica-step'), true);
    } finally {
      await other.stop();
    }
  });

  it('an example of the API page is sent as it stands there, and granted', async () => {
    const docs = await open(`${stack.urls[0]}/api/docs`);
    const operation = docs.locator('.opblock', { hasText: '/acquire-lock' });
    await operation.locator('.opblock-summary-control').click();
    await operation.getByRole('button', { name: 'Try it out' }).click();
    await operation.getByRole('button', { name: 'Execute' }).click();
    const answer = operation.locator('.live-responses-table .response');
    await answer.waitFor();
    assert.match(await answer.textContent(), /^201/);

    const headings = await docs.$$eval('h1, h2, h3, h4, h5, h6', (all) =>
      all.filter((it) => it.checkVisibility()).map((it) => [Number(it.ariaLevel ?? it.tagName[1]), it.textContent.slice(0, 30)]));
    assert.equal(headings.filter(([level]) => level === 1).length, 1, show(headings));
    headings.forEach(([level], n) => assert.ok(level <= (headings[n - 1]?.[0] ?? 0) + 1, show(headings)));
  });
});

describe('a lock that is about to run out', () => {
  let [browser, stack] = [];
  before(async () => ([browser, stack] = await Promise.all([startChromium(), startStack({ LOCK_TTL: '10s' }, { replicas: 1 })])));
  after(async () => {
    await browser?.close();
    await stack?.stop();
  });

  async function edit(id) {
    const tab = await browser.newPage();
    await tab.goto(`${stack.urls[0]}/?id=${encodeURIComponent(id)}`);
    await tab.click('#edit:enabled');
    await tab.waitForSelector('#record.editing');
    return tab;
  }

  it('is kept by arrow keys alone', async () => {
    const tab = await edit(appointment('keys'));
    const left = (times) => tab.waitForFunction((times) => times.includes(document.getElementById('countdown-time').textContent), times);
    await tab.focus('[name=notes]');
    await left(['0:06']);
    await tab.keyboard.press('ArrowLeft');
    await left(['0:09', '0:10']);
  });

  it('is announced in words, with a button that keeps it', async () => {
    const tab = await edit(appointment('short'));
    const keep = tab.getByRole('button', { name: 'Keep editing' });
    await keep.waitFor({ timeout: 15_000 });
    assert.match(await tab.textContent('[role=alert]'), /ends soon/);
    await keep.focus();
    await tab.keyboard.press('Enter');
    await keep.waitFor({ state: 'hidden' });
    assert.equal(await tab.textContent('[role=alert]'), '');
    assert.equal(await tab.evaluate(() => document.activeElement.name), 'patient');
    assert.equal(await tab.getAttribute('#card', 'data-standing'), 'mine');
  });
});
