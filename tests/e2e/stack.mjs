// The service under test, as `apptlock dev` starts it: two replicas in one process, each stack with ports and
// data of its own. Owns their addresses and their data; knows nothing of locks or sockets.

import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePorts, Service } from './service.mjs';

/** Starts a stack, with these environment variables on top, and resolves when every replica is ready. */
export async function startStack(settings = {}, { replicas = 2 } = {}) {
  const port = await freePorts(2 * replicas);
  // The service keeps its temporary data under the working directory. A separate folder isolates the stacks from
  // each other and from a `make run`. PostgreSQL refuses to run as root, so a stack of root runs it as another user,
  // who needs access.
  const folder = await mkdtemp(join(tmpdir(), 'apptlock-e2e-'));
  await chmod(folder, 0o755);
  const stack = new Stack(folder, port, replicas, settings);
  await stack.start();
  return stack;
}

class Stack {
  #service;

  constructor(folder, port, replicas, settings) {
    const urls = (first) => Array.from({ length: replicas }, (_, n) => `http://127.0.0.1:${first + n}`);
    this.folder = folder;
    /** The public address of each replica. */
    this.urls = urls(port);
    this.managementUrls = urls(port + replicas);
    this.#service = new Service(['dev', '--replicas', String(replicas)], {
      folder,
      managementUrls: this.managementUrls,
      settings: {
        LISTEN_ADDR: `127.0.0.1:${port}`,
        MANAGEMENT_ADDR: `127.0.0.1:${port + replicas}`,
        // These tests need a thousand clients of one address in one second.
        RATE_LIMIT_PER_SECOND: '0',
        ...settings,
      },
    });
  }

  async start() {
    process.once('exit', this.#abandon);
    try {
      await this.#service.start();
    } catch (error) {
      await this.discard();
      throw error;
    }
  }

  output(lines) {
    return this.#service.output(lines);
  }

  printed(pattern) {
    return this.#service.printed(pattern);
  }

  /** Asks the service to stop; it has to do so, and to exit with 0. Its data goes in any case. */
  async stop() {
    try {
      await this.#service.stop();
    } finally {
      await this.discard();
    }
  }

  /** Ends what still runs and removes the data. */
  async discard() {
    await this.#service.kill();
    process.removeListener('exit', this.#abandon);
    await rm(this.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  #abandon = () => rmSync(this.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
}
