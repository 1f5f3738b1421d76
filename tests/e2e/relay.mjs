// A TCP balancer: it forwards each connection to the first replica that accepts it. So it never merges connections of
// a client, as HTTP balancers with persistent connections may; and all of them reach the same replica while it is up,
// with or without cookies.

import { createConnection, createServer } from 'node:net';
import { freePorts } from './service.mjs';

/** Starts one in front of these replicas. */
export async function startRelay(replicas) {
  const relay = new Relay(replicas, await freePorts(1));
  await relay.listening();
  return relay;
}

class Relay {
  #server;
  #sockets = new Set();

  constructor(replicas, port) {
    /** Where new connections go, the first choice first. */
    this.order = [...replicas];
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.#server = createServer({ noDelay: true, pauseOnConnect: true }, (client) => this.#lead(client));
  }

  async #lead(client) {
    this.#keep(client);
    const service = await this.#reach();
    if (!service || client.destroyed) return client.destroy();
    this.#keep(service);
    for (const [one, other] of [[client, service], [service, client]]) {
      one.pipe(other);
      // The end of one side ends the other, too.
      one.once('close', () => other.destroy());
    }
    client.resume();
  }

  /** A connection to the first replica that takes one. */
  async #reach() {
    for (const { port } of this.order) {
      const service = createConnection({ port, host: '127.0.0.1', noDelay: true });
      const taken = await new Promise((resolve) => {
        service.once('connect', () => resolve(true));
        service.once('error', () => resolve(false));
      });
      if (taken) return service;
    }
    return null;
  }

  #keep(socket) {
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#sockets.delete(socket));
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
