// Replicas as an operator runs them: `apptlock serve`, each a process of its own that can be stopped, killed and
// started again at its address. The PostgreSQL and the Redis that they share are those of an `apptlock dev`.

import { Service, freePorts } from './service.mjs';
import { startStack } from './stack.mjs';

/** What is short here so that a test's stop is short; clients see the same in the same order. */
const QUICK = { DRAIN_DELAY: '1s', DRAIN_TIME: '1s' };

/** Starts replicas, with these environment variables on top, and resolves when every one is ready. */
export async function startServing(settings = {}, { replicas = 2 } = {}) {
  const systems = await startStack({}, { replicas: 1 });
  const serving = new Serving(systems);
  try {
    const [databaseUrl] = await systems.printed(/postgres:\/\/apptlock@\S+(?=\s)/);
    const [redisUrl] = await systems.printed(/redis:\/\/127\S+(?=\s)/);
    const port = await freePorts(2 * replicas);
    for (let n = 0; n < replicas; n += 1) {
      serving.replicas.push(
        new Replica(port + n, port + replicas + n, systems.folder, {
          DATABASE_URL: databaseUrl,
          REDIS_URL: redisUrl,
          AUTH_MODE: 'trusted',
          RATE_LIMIT_PER_SECOND: '0',
          ...QUICK,
          ...settings,
        }),
      );
    }
    await Promise.all(serving.replicas.map((replica) => replica.start()));
  } catch (error) {
    await serving.discard();
    throw error;
  }
  return serving;
}

class Serving {
  replicas = [];
  #systems;

  constructor(systems) {
    this.#systems = systems;
  }

  get urls() {
    return this.replicas.map(({ url }) => url);
  }

  output(lines) {
    return this.replicas.map((replica, n) => `replica ${n}:\n${replica.output(lines)}`).join('\n');
  }

  /** Stops what still runs; each replica has to exit with 0. */
  async stop() {
    try {
      await Promise.all(this.replicas.filter(({ running }) => running).map((replica) => replica.stop()));
    } finally {
      await this.discard();
    }
  }

  async discard() {
    await Promise.all(this.replicas.map((replica) => replica.kill()));
    await this.#systems.discard();
  }
}

class Replica extends Service {
  constructor(port, management, folder, settings) {
    const managementUrls = [`http://127.0.0.1:${management}`];
    const where = { LISTEN_ADDR: `127.0.0.1:${port}`, MANAGEMENT_ADDR: `127.0.0.1:${management}` };
    super(['serve'], { folder, managementUrls, settings: { ...settings, ...where } });
    this.port = port;
    this.management = management;
    this.url = `http://127.0.0.1:${port}`;
  }
}
