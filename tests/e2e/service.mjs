// One process of the service: its start, its output, and its end. Knows neither how many there are nor the requests
// that they get.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as pause } from 'node:timers/promises';

// E2E_BINARY runs the same tests against another build, such as the optimised one.
const BUILT = fileURLToPath(new URL('../../target/debug/apptlock', import.meta.url));
const BINARY = resolve(process.env.E2E_BINARY ?? BUILT);
const START_LIMIT = 60_000;
const STOP_LIMIT = 60_000;

// An interrupted run ends its processes: they are in process groups of their own, which the terminal does not reach.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

export class Service {
  #output = [];
  #child;
  #exit;
  #exited = null;

  /** `managementUrls`: one for each replica in the process, asked whether it is ready. */
  constructor(args, { folder, settings, managementUrls }) {
    if (!existsSync(BINARY)) throw new Error(`${BINARY} is not there: run "make build" first`);
    this.args = args;
    this.folder = folder;
    this.settings = settings;
    this.managementUrls = managementUrls;
  }

  /** Resolves when it is ready. */
  async start() {
    // The tests must not use a real database, whatever the shell has set.
    const { DATABASE_URL, REDIS_URL, ...environment } = process.env;
    const env = { ...environment, ...this.settings };
    // A process group of its own, so that one that does not stop can be ended with all its children.
    this.#child = spawn(BINARY, this.args, {
      cwd: this.folder,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.#exited = null;
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.#output.push(text);
        if (this.#output.length > 5_000) this.#output.splice(0, 1_000);
      });
    }
    this.#exit = new Promise((ended) => {
      this.#child.once('error', (error) => ended({ error }));
      this.#child.once('exit', (code, signal) => ended({ code, signal }));
    }).then((how) => (this.#exited = how));
    process.once('exit', this.#abandon);
    try {
      await this.#ready();
    } catch (error) {
      await this.kill();
      throw error;
    }
  }

  /** The end of what the service printed: what a person would look at first. */
  output(lines = 60) {
    return this.#output.join('').split('\n').slice(-lines).join('\n');
  }

  /** Resolves with what matches, as soon as the service has printed it. */
  async printed(pattern) {
    const deadline = Date.now() + START_LIMIT;
    for (;;) {
      const found = this.#output.join('').match(pattern);
      if (found) return found;
      if (this.#exited || Date.now() > deadline) {
        throw new Error(`the service did not print ${pattern}:\n${this.output()}`);
      }
      await pause(20);
    }
  }

  async #ready() {
    const deadline = Date.now() + START_LIMIT;
    for (const url of this.managementUrls) {
      let last = 'no answer yet';
      for (;;) {
        if (this.#exited) throw new Error(`the service ended while starting: ${this.#how()}\n${this.output()}`);
        try {
          const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(2_000) });
          await response.text();
          if (response.status === 200) break;
          last = `status ${response.status}`;
        } catch (error) {
          last = error.cause?.message ?? error.message;
        }
        if (Date.now() > deadline) {
          throw new Error(`${url}/readyz was not 200 within ${START_LIMIT} ms (${last})\n${this.output()}`);
        }
        await pause(50);
      }
    }
  }

  /** Asks the service to stop, as an orchestrator does; it has to do so, and to exit with 0. */
  async stop() {
    if (this.#exited) {
      throw new Error(`the service had ended before it was stopped: ${this.#how()}\n${this.output()}`);
    }
    this.#child.kill('SIGTERM');
    const limit = new AbortController();
    await Promise.race([this.#exit, pause(STOP_LIMIT, null, { signal: limit.signal }).catch(() => {})]);
    limit.abort();
    const how = this.#exited;
    await this.kill();
    if (!how) throw new Error(`the service did not stop within ${STOP_LIMIT} ms of SIGTERM\n${this.output()}`);
    if (how.code !== 0) throw new Error(`the service did not exit with 0 on SIGTERM: ${this.#how()}\n${this.output()}`);
  }

  /** Ends it at once, as a crash does. */
  async kill() {
    this.#end();
    await this.#exit;
    process.removeListener('exit', this.#abandon);
  }

  get pid() {
    return this.#child.pid;
  }

  get running() {
    return Boolean(this.#child?.pid) && !this.#exited;
  }

  #how() {
    const { error, code, signal } = this.#exited;
    return error ? error.message : signal ? `by ${signal}` : `exit code ${code}`;
  }

  #end() {
    if (!this.running) return;
    try {
      process.kill(-this.#child.pid, 'SIGKILL');
    } catch {
      // It has just ended by itself.
    }
  }

  // Last action of this process if the tests ended before the service.
  #abandon = () => this.#end();
}

/** The first of `count` neighbouring ports that are all free. */
export async function freePorts(count) {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    // Below the range from which systems assign ports to outgoing connections, to avoid conflicts.
    const first = 18_000 + Math.floor(Math.random() * 12_000);
    const servers = [];
    try {
      for (let n = 0; n < count; n += 1) servers.push(await listen(first + n));
      return first;
    } catch (error) {
      if (error.code !== 'EADDRINUSE') throw error;
    } finally {
      await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))));
    }
  }
  throw new Error(`found no ${count} neighbouring free ports`);
}

function listen(port) {
  return new Promise((listening, failed) => {
    const server = createServer();
    server.once('error', failed);
    server.listen(port, '127.0.0.1', () => listening(server));
  });
}
