// A foreign client: python-socketio, which upgrades to WebSocket before it joins Socket.IO's namespace. It follows a
// lock, gets `server-restarting`, and reconnects to another replica by itself.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { afterEach, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startBalancer } from '../balancers.mjs';
import { appointment, person, show, within } from '../harness.mjs';
import { startRelay } from '../relay.mjs';
import { startServing } from '../serving.mjs';

const PYTHON = fileURLToPath(new URL('../../../target/client-tools/bin/python', import.meta.url));
const PROGRAM = fileURLToPath(new URL('./follow.py', import.meta.url));
const LIMIT = 20_000;

/** What leads clients to a replica. */
const FRONTS = {
  haproxy: (replicas) => startBalancer('haproxy', replicas),
  'a relay of bytes': startRelay,
};
const WAYS = [
  ['default', 'websocket'],
  ['websocket', 'websocket'],
  ['polling', 'polling'],
];

for (const [through, start] of Object.entries(FRONTS)) {
  describe(`python-socketio, through ${through}`, () => {
    let [serving, front] = [];
    before(() => {
      if (!existsSync(PYTHON)) throw new Error(`${PYTHON} is not there: run "make run-clients"`);
    });
    beforeEach(async () => {
      serving = await startServing();
      front = await start(serving.replicas);
    });
    afterEach(async () => {
      await front?.stop();
      await serving?.stop();
    });

    for (const [transports, last] of WAYS) {
      it(`${transports}: follows a lock, and comes back when its replica stops`, async () => {
        const [anna, id] = [person('Anna'), appointment('followed')];
        const follower = new Follower(front.url, transports, id, anna);
        try {
          const { transport } = await follower.hears('connect');
          assert.equal(transport, last);
          const joined = await follower.hears('(subscribed)');
          assert.equal(joined.success, true, show(joined));
          assert.equal(joined.locked, false, show(joined));

          follower.say('acquire');
          const acquired = await follower.hears('(acquired)');
          assert.equal(acquired.success, true, show(acquired));
          const update = await follower.hears('lock-update');
          assert.equal(update.reason, 'acquired', show(update));
          assert.equal(update.lock.fencingToken, acquired.lock.fencingToken);
          await follower.hears('lock-acquired');

          // Whichever replica it is connected to, each one is stopped once.
          for (const [n, replica] of serving.replicas.entries()) {
            await replica.stop();
            const version = await renew(serving.replicas[1 - n], id, anna);
            await follower.knows(version);
            await replica.start();
          }
          const names = follower.names();
          const told = names.filter((name) => name === 'server-restarting').length;
          const label = `${names.join()} ${show(follower.all('disconnect'))}`;
          assert.ok(told >= 1, `it was not told: ${label}`);
          assert.equal(names.filter((name) => name === 'disconnect').length, told, label);
          assert.equal(names.filter((name) => name === '(subscribed)').length, told + 1, label);
          assert.ok(names.indexOf('server-restarting') < names.indexOf('disconnect'), label);
          for (const joined of follower.all('(subscribed)')) assert.equal(joined.success, true, show(joined));
        } catch (error) {
          console.error(`--- it said ---\n${follower.output()}\n--- the service's output ---\n${serving.output(8)}\n---`);
          throw error;
        } finally {
          await follower.stop();
        }
      });
    }
  });
}

/** Renews the lock at this replica, and resolves with the new version. */
async function renew({ url }, id, who) {
  const response = await fetch(`${url}/api/appointments/${encodeURIComponent(id)}/acquire-lock`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(who),
  });
  const answer = await response.json();
  assert.equal(response.status, 200, show(answer));
  return answer.lock.version;
}

class Follower {
  #log = [];
  #taken = new Set();
  #looks = new Set();
  #errors = [];

  constructor(...args) {
    const last = JSON.stringify(args.pop());
    this.child = spawn(PYTHON, ['-B', PROGRAM, ...args, last], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.exit = new Promise((ended) => this.child.once('exit', ended));
    this.child.stderr.setEncoding('utf8').on('data', (text) => this.#errors.push(text));
    createInterface(this.child.stdout).on('line', (line) => {
      this.#log.push(JSON.parse(line));
      for (const look of this.#looks) look();
    });
  }

  say(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** The payload of the first event of this name that was not yet asked for. */
  async hears(event) {
    return this.#find(event, (entry) => entry.event === event);
  }

  /** Resolves when it has heard of this version, in whatever way. */
  async knows(version) {
    return this.#find(`version ${version}`, ({ payload }) => payload?.version >= version);
  }

  async #find(what, matches) {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const entry = this.#log.find((seen) => !this.#taken.has(seen) && matches(seen));
        if (!entry) return;
        this.#taken.add(entry);
        this.#looks.delete(look);
        resolve(entry.payload);
      };
      this.#looks.add(look);
      look();
    });
    return within(found, () => `${what}; it heard ${show(this.names())}`, LIMIT).finally(() => this.#looks.delete(look));
  }

  names() {
    return this.#log.map(({ event }) => event);
  }

  all(event) {
    return this.#log.filter((entry) => entry.event === event).map(({ payload }) => payload);
  }

  output() {
    return [...this.#log.map((entry) => JSON.stringify(entry)), ...this.#errors].join('\n');
  }

  async stop() {
    this.child.kill('SIGKILL');
    await this.exit;
  }
}
