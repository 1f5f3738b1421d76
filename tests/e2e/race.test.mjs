// Many acquires of one lock on an overloaded machine: one succeeds, and all others get its holder.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { appointment, person, show, suite } from './harness.mjs';
import { startServing } from './serving.mjs';

const USERS = 200;
/** Appointments that are raced for at the same time. */
const FIELDS = [1, 10];

/** Runs this while every core is busy with something else. */
async function whileBusy(play) {
  const loops = Array.from({ length: availableParallelism() }, () =>
    spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }),
  );
  const end = () => loops.map((loop) => loop.kill('SIGKILL'));
  process.once('exit', end);
  try {
    await Promise.all(loops.map((loop) => new Promise((started) => loop.once('spawn', started))));
    return await play();
  } finally {
    process.removeListener('exit', end);
    end();
  }
}

async function race(scene) {
  const id = appointment('wanted');
  const racers = Array.from({ length: USERS }, (_, n) => person(`Racer${n}`));
  const answers = await Promise.all(
    racers.map((racer, n) => scene.request('POST', id, 'acquire-lock', racer, { replica: n % 2 })),
  );
  const counts = {};
  for (const { status, body } of answers) {
    const kind = `${status} ${body.code ?? ''}`.trim();
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  assert.deepEqual(counts, { 201: 1, '409 LOCK_HELD': USERS - 1 }, show(counts));
  const winner = racers[answers.findIndex(({ status }) => status === 201)];
  for (const { status, body, label } of answers) {
    if (status === 409) assert.equal(body.lock.userId, winner.userId, label);
  }
}

const races = (scenario) => {
  for (const fields of FIELDS) {
    scenario(`${USERS} users race for an appointment, ${fields} times at once: of each, one holds it and ${USERS - 1} are told who`, (scene) =>
      whileBusy(() => Promise.all(Array.from({ length: fields }, () => race(scene)))),
    );
  }
};
suite('a race on a busy machine', {}, races, startServing);
