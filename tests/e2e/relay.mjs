// A balancer that knows nothing of HTTP: each connection goes, byte by byte, to the replica that it is told. So no two
// of a client's connections are one behind it, as they may be behind those that keep connections for the next request.

import { createConnection, createServer } from 'node:net';
import { freePorts } from './service.mjs';

/** Starts one that sends new connections to the first of these replicas. */
export async function startRelay(replicas) {
  const relay = new Relay(replicas, await freePorts(1));
  await relay.listening();
  return relay;
}

class Relay {
  #server;
  #sockets = new Set();

  constructor(replicas, port) {
    /** Where new connections go. */
    this.to = replicas[0];
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.#server = createServer({ noDelay: true }, (client) => {
      const service = createConnection({ port: this.to.port, host: '127.0.0.1', noDelay: true });
      for (const [one, other] of [[client, service], [service, client]]) {
        this.#sockets.add(one);
        one.pipe(other);
        // What breaks on one side breaks on the other, too.
        one.once('error', () => other.destroy());
        one.once('close', () => {
          this.#sockets.delete(one);
          other.destroy();
        });
      }
    });
  }

  listening() {
    return new Promise((done) => this.#server.listen(this.port, '127.0.0.1', done));
  }

  async stop() {
    const closed = new Promise((done) => this.#server.close(done));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
