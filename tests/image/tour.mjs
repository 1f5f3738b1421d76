// node tests/image/tour.mjs URL   walks docs/TOUR.md through the balancer of docker-compose.yml
//
// It runs the very commands that the page shows, with the two changes that docs/COMPOSE.md tells people to make: the
// balancer stands for both replicas, and psql runs inside the stack. What comes out must be what the page prints, but
// for times. The stack must be fresh: versions and tokens are compared. The first difference ends it with exit code 1.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url] = process.argv.slice(2);
if (!url) throw new Error('say where the balancer is: node tests/image/tour.mjs http://127.0.0.1:3000');

const PATIENCE = 20_000;
const PAGE = 'docs/TOUR.md';
const tour = readFileSync(new URL(`../../${PAGE}`, import.meta.url), 'utf8');
const scratch = mkdtempSync(join(tmpdir(), 'apptlock-tour-'));
let watcher;

/** The page's fenced blocks, each with its heading, language and text. */
function blocksOfTour() {
  const blocks = [];
  let heading = '', open;
  for (const line of tour.split('\n')) {
    if (open && line === '```') {
      blocks.push(open);
      open = undefined;
    } else if (open) {
      open.text += `${line}\n`;
    } else if (line.startsWith('```')) {
      open = { heading, language: line.slice(3), text: '' };
    } else if (line.startsWith('## ')) {
      heading = line.slice(3);
    }
  }
  return blocks;
}

/** For this stack. */
function adapted(script) {
  return script
    .replaceAll(/http:\/\/127\.0\.0\.1:300[01]/g, url)
    .replaceAll('/tmp/apptlock-watch', scratch)
    .replaceAll(/^DB=.*\n/gm, '')
    .replaceAll('psql "$DB"', 'docker compose exec -T postgres psql -U apptlock');
}

/** Without what differs at each run. */
function lasting(text) {
  return text
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replaceAll(/"expiresInMs":\d+/g, '"expiresInMs":N')
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')
    .trim();
}

function compare(step, wanted, found) {
  if (lasting(wanted) === lasting(found)) {
    console.log(`  ok: ${step}`);
    return;
  }
  throw new Error(`${step}: ${PAGE} prints\n${lasting(wanted)}\n\nand this is\n${lasting(found)}`);
}

function run(script) {
  const ran = spawnSync('bash', ['-c', `exec 2>&1\n${script}`], { encoding: 'utf8' });
  return ran.stdout;
}

/** The watcher's lines so far, beyond those that were asked for before. */
async function heard(count) {
  const since = Date.now();
  while (watcher.lines.length < count) {
    if (Date.now() - since > PATIENCE) throw new Error(`the watcher heard only\n${watcher.lines.join('\n')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return watcher.lines.splice(0, count).join('\n');
}

function watch(command) {
  const child = spawn('bash', ['-c', `exec ${command}`], { cwd: scratch, stdio: ['ignore', 'pipe', 'inherit'] });
  watcher = { child, lines: [] };
  let rest = '';
  child.stdout.on('data', (data) => {
    const lines = (rest + data).split('\n');
    rest = lines.pop();
    watcher.lines.push(...lines);
  });
}

async function walk() {
  const blocks = blocksOfTour();
  // `make run`, and what it prints, is another way to start.
  const start = blocks.findIndex(({ heading }) => heading.startsWith('2.'));
  if (start < 0) throw new Error(`${PAGE} has no step 2`);
  let step, output;
  let steps = 0;
  for (const { heading, language, text } of blocks.slice(start)) {
    if (language === 'sh') {
      step = heading;
      const [before, command] = adapted(text).split(/^(?=node watch\.mjs)/m);
      output = run(before);
      if (command) {
        watch(command);
        output = undefined;
      }
    } else if (text.startsWith('lock-update ') || text.startsWith('(subscribed)')) {
      compare(`${step} (what the watcher heard)`, text, await heard(text.trim().split('\n').length));
      steps += 1;
    } else {
      compare(step, text, output);
      steps += 1;
    }
  }
  // A tour that shrank to nothing would pass, too.
  if (steps < 8) throw new Error(`${PAGE} has only ${steps} steps that print something`);
}

try {
  await walk();
} catch (error) {
  console.error(`tour: ${error.message}`);
  process.exitCode = 1;
} finally {
  watcher?.child.kill();
  rmSync(scratch, { recursive: true, force: true });
}
