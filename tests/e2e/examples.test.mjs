// Every example of the documents follows its lock past the expiry of its token and the stop of its replica. The tests
// wait for the expiry of tokens, which no test can advance.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { startBalancer } from './balancers.mjs';
import { person, show } from './harness.mjs';
import { printedExamples, run } from './printed.mjs';
import { startServing } from './serving.mjs';
import { SECRET, tokenOf } from './tokens.mjs';

const ID = '42';
/** For how long after its end a token is still taken. */
const LEEWAY = 5_000;
const [READER, EDITOR] = [person('Rita'), person('Emil')];

const examples = await printedExamples();

it('there are examples', () => assert.notEqual(examples.length, 0));

for (const example of examples) {
  describe(`the example of ${example.where}`, () => {
    let [serving, balancer] = [];
    before(async () => {
      serving = await startServing({ AUTH_MODE: 'jwt', JWT_SECRET: SECRET });
      balancer = await startBalancer('haproxy', serving.replicas);
    });
    after(async () => {
      await balancer?.stop();
      await serving?.stop();
    });

    /** A change of the lock, made at this replica; resolves with its version. */
    async function change({ url } = serving.replicas[0]) {
      const response = await fetch(`${url}/api/appointments/${ID}/acquire-lock`, {
        method: 'POST',
        headers: { authorization: `Bearer ${tokenOf(EDITOR)}`, 'content-type': 'application/json' },
        body: '{}',
      });
      const answer = await response.json();
      assert.ok(answer.success, show(answer));
      return answer.lock.version;
    }

    /** Runs it until this play is over. Its reader's tokens last `lasts` seconds and are said to last `expiresIn`. */
    async function following({ lasts, expiresIn = lasts, mayAsk = () => true }, play) {
      let asked = 0;
      const freshToken = async () => {
        asked += 1;
        if (!mayAsk(asked)) throw new Error('the back end that gives tokens is away');
        return { token: tokenOf(READER, lasts), expiresIn };
      };
      const running = await run(example, balancer.url, freshToken);
      try {
        await running.tells('connecting', ({ connection }) => connection === 'connected');
        await running.shows(await change());
        await play(running, () => asked);
      } catch (error) {
        console.error(`--- the service's output ---\n${serving.output()}\n---`);
        throw error;
      } finally {
        await running.stop();
      }
    }

    const ended = ({ connection }) => connection === 'io server disconnect';
    const connected = ({ connection }) => connection === 'connected';

    describe('past the end of its token', { concurrency: true }, () => {
      it('gets a fresh one in time, and its connection lives', () =>
        following({ lasts: 2 }, async (running, asked) => {
          await pause(2_000 + LEEWAY + 2_000);
          assert.ok(asked() > 3, `it asked for a token ${asked()} times`);
          assert.deepEqual(running.connections(), ['connected']);
          await running.shows(await change());
        }));

      it('comes back where it got none in time, as after a sleep', () =>
        following({ lasts: 1, expiresIn: 3_600 }, async (running) => {
          await running.tells('its end', ended, { limit: 1_000 + LEEWAY + 5_000 });
          await running.tells('coming back', connected, { from: running.log.findIndex(ended) });
          await running.shows(await change());
        }));

      it('comes back though tokens cannot be had for a while', () =>
        following({ lasts: 1, expiresIn: 3_600, mayAsk: (n) => n === 1 || n > 3 }, async (running, asked) => {
          await running.tells('its end', ended, { limit: 1_000 + LEEWAY + 5_000 });
          await running.tells('coming back', connected, { from: running.log.findIndex(ended) });
          assert.ok(asked() > 3, `it asked for a token ${asked()} times`);
          await running.shows(await change());
        }));
    });

    it('shows the newest state after each replica was stopped, and after each was killed', () =>
      following({ lasts: 3_600 }, async (running) => {
        for (const end of ['stop', 'kill']) {
          for (const [n, replica] of serving.replicas.entries()) {
            const other = serving.replicas[1 - n];
            const ending = replica[end]();
            // Changes while it is disconnected, which it gets as soon as it is back.
            let newest;
            const gone = ending.then(() => true);
            do newest = await change(other);
            while (!(await Promise.race([gone, pause(20, false)])));
            newest = await change(other);
            await running.shows(newest);
            await replica.start();
          }
        }
        const ends = running.connections().filter((connection) => connection.startsWith('transport'));
        assert.ok(ends.length >= 2, `no replica's end was noticed: ${show(running.connections())}`);
      }));
  });
}
