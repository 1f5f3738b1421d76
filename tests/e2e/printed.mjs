// Runs the examples of the documents as printed: each in a separate process and folder, with `socket.io-client` being
// the real client with another address, and with our own versions of the functions that an example leaves to its
// reader. In place of the client, this file also reports the state of the connection.

import { fork } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { show, within } from './harness.mjs';

const ROOT = new URL('../../', import.meta.url);
const CLIENT = new URL('./node_modules/socket.io-client/build/esm-debug/index.js', import.meta.url).href;

/** Every block of JavaScript in docs/: `{ where, text }`. */
export async function printedExamples() {
  const pages = (await readdir(new URL('docs/', ROOT))).filter((name) => name.endsWith('.md'));
  const found = await Promise.all(pages.sort().map((page) => printedBlocks(`docs/${page}`, 'js|javascript|mjs')));
  return found.flat();
}

/** The blocks of a page in one language, or in one of several with `|` between: `{ where, text }`. */
export async function printedBlocks(page, language) {
  const text = await readFile(new URL(page, ROOT), 'utf8');
  return [...text.matchAll(new RegExp(`^\`\`\`(?:${language})\\n(.*?)^\`\`\`$`, 'gms'))].map(({ 1: block, index }) => ({
    where: `${page}:${text.slice(0, index).split('\n').length}`,
    text: block,
  }));
}

/** Runs one against the service at `url`. `freshToken()` is asked for whatever the example's own resolves with. */
export async function run({ where, text }, url, freshToken) {
  const folder = await mkdtemp(join(tmpdir(), 'apptlock-example-'));
  const client = join(folder, 'node_modules', 'socket.io-client');
  await mkdir(client, { recursive: true });
  await Promise.all([
    writeFile(join(client, 'package.json'), '{ "type": "module", "exports": "./index.js" }'),
    writeFile(join(client, 'index.js'), STAND_IN),
    writeFile(join(folder, 'example.mjs'), text),
    writeFile(join(folder, 'run.mjs'), READER),
  ]);
  const env = { ...process.env, CLIENT, URL_OF_SERVICE: url };
  const child = fork(join(folder, 'run.mjs'), { env, cwd: fileURLToPath(ROOT), stdio: 'inherit' });
  const example = new Example(where, child, folder);
  child.on('message', async ({ asked }) => {
    if (asked === undefined) return;
    const answer = await freshToken().then((token) => ({ token }), (error) => ({ error: error.message }));
    if (child.connected) child.send({ asked, ...answer });
  });
  return example;
}

class Example {
  /** What it has told, in order: `{ shown }`, `{ fault }`, `{ connection }`. */
  log = [];
  #looks = new Set();

  constructor(where, child, folder) {
    this.where = where;
    this.child = child;
    this.folder = folder;
    this.exit = new Promise((ended) => child.once('exit', ended));
    child.on('message', (message) => {
      if (message.asked === undefined) this.log.push(message);
      for (const look of this.#looks) look();
    });
    this.exit.then((code) => this.log.push({ ended: code }));
  }

  /** Resolves with the first thing that it tells, or has told since `from`, and that is like this. */
  async tells(what, matches, { from = 0, limit } = {}) {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const entry = this.log.slice(from).find(matches);
        if (entry) resolve(entry);
      };
      this.#looks.add(look);
      look();
    });
    const told = () => `${this.where}: ${what}; it told ${show(this.log.slice(-20))}`;
    return within(found, told, limit).finally(() => this.#looks.delete(look));
  }

  shows(version, options) {
    return this.tells(`showing version ${version}`, ({ shown }) => shown?.version === version, options);
  }

  connections() {
    return this.log.filter(({ connection }) => connection).map(({ connection }) => connection);
  }

  async stop() {
    this.child.kill('SIGKILL');
    await this.exit;
    await rm(this.folder, { recursive: true, force: true });
  }
}

const STAND_IN = `
const client = await import(process.env.CLIENT);
export const io = (url, ...rest) => {
  if (url !== 'https://locks.example.com') throw new Error('an example calls ' + url);
  const socket = client.io(process.env.URL_OF_SERVICE, ...rest);
  socket.on('connect', () => process.send({ connection: 'connected' }));
  socket.on('disconnect', (reason) => process.send({ connection: reason }));
  socket.on('connect_error', (error) => process.send({ connection: 'refused: ' + error.message }));
  return socket;
};
`;

const READER = `
const asked = new Map();
process.on('message', ({ asked: n, token, error }) => {
  const { resolve, reject } = asked.get(n);
  asked.delete(n);
  if (error) reject(new Error(error));
  else resolve(token);
});
let asking = 0;
globalThis.freshToken = () => new Promise((resolve, reject) => {
  asking += 1;
  asked.set(asking, { resolve, reject });
  process.send({ asked: asking });
});
globalThis.show = (lock, reason) => process.send({ shown: lock, reason });
globalThis.showFault = (message) => process.send({ fault: message });
await import('./example.mjs');
`;
