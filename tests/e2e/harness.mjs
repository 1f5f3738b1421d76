// Vocabulary of the end-to-end tests: people, their sockets and their requests. Uses only the public interface of the
// service. Every wait is for one named condition and has a limit, and invariants are checked for every socket of every
// test.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { io } from 'socket.io-client';
import { startStack } from './stack.mjs';

/** How long a test waits for anything that ought to come at once. */
const PATIENCE = 10_000;

/** The three ways in which the official client may be told to connect. */
export const WAYS = {
  'websocket only': ['websocket'],
  'polling only': ['polling'],
  'polling with upgrade': ['polling', 'websocket'],
};

/** RFC 3339, UTC, milliseconds. */
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/;

/** Resolves as the promise does, or fails after the limit, saying what was missing. */
export function within(promise, what, limit = PATIENCE) {
  let timer;
  const tooLate = new Promise((_, reject) => {
    timer = setTimeout(() => {
      const text = typeof what === 'function' ? what() : what;
      reject(new Error(`waited ${limit} ms in vain for ${text}`));
    }, limit);
  });
  return Promise.race([promise, tooLate]).finally(() => clearTimeout(timer));
}

/** Somebody new, whom no other test knows. */
export function person(name) {
  const userId = `${name.toLowerCase()}-${randomUUID().slice(0, 8)}`;
  return { userId, userInfo: { name, email: `${userId}@example.com` } };
}

/** What an administrator sends along. */
export function asAdmin({ userId, userInfo }, reason = 'the test wants it') {
  return { adminId: userId, adminInfo: userInfo, reason };
}

/** An appointment that no other test knows; its id takes percent-encoding on every path. */
export function appointment(label) {
  return `${label} / Zürich #${randomUUID().slice(0, 8)}`;
}

/** One stack for a group of tests, started by `start`; each test gets a scene on it. */
export function suite(title, settings, define, start = startStack) {
  describe(title, () => {
    let stack;
    before(async () => {
      stack = await start(settings);
    });
    after(() => stack?.stop());

    const scenario = (name, play) =>
      it(name, async () => {
        const scene = new Scene(stack);
        try {
          await play(scene);
          scene.checkWhatAlwaysHolds();
        } catch (error) {
          console.error(`--- the service's output, before "${name}" failed ---\n${stack.output()}\n---`);
          throw error;
        } finally {
          scene.close();
        }
      });
    define(scenario);
  });
}

class Scene {
  #clients = [];

  constructor(stack) {
    this.stack = stack;
  }

  /** A connected socket. `auth` null connects without an identity; `more` is for the client, which `make` makes. */
  async connect(who, { replica = 0, transports = WAYS['websocket only'], auth = who, url, make = io, more } = {}) {
    const label = `${who?.userId ?? 'nobody'}@${replica}`;
    const options = { transports, auth: auth ?? {}, forceNew: true, reconnection: false, ...more };
    const client = new Client(make(url ?? this.stack.urls[replica], options), options, label);
    this.#clients.push(client);
    await client.connected();
    return client;
  }

  /** A request about an appointment: its status and body, whose envelope has been checked. */
  async request(method, id, action, body, { replica = 0, type = 'application/json' } = {}) {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    return this.fetch(method, `/api/appointments/${encodeURIComponent(id)}/${action}`, text, { replica, type });
  }

  async fetch(method, path, text, { replica = 0, type = 'application/json' } = {}) {
    const response = await fetch(this.stack.urls[replica] + path, {
      method,
      body: text,
      headers: text === undefined || type === null ? {} : { 'content-type': type },
      signal: AbortSignal.timeout(PATIENCE),
    });
    const answer = await response.text();
    const label = `${method} ${path}: ${response.status} ${answer.slice(0, 500)}`;
    assert.match(response.headers.get('content-type') ?? '', /^application\/json/, label);
    const parsed = JSON.parse(answer);
    assert.equal(parsed.success, response.ok, label);
    assert.equal(typeof parsed.message, 'string', label);
    if (!response.ok) assert.match(parsed.code ?? '', /^[A-Z_]+$/, label);
    return { status: response.status, body: parsed, label };
  }

  /** Takes a free appointment, and returns its lock. */
  async acquire(id, who, options) {
    const answer = await this.request('POST', id, 'acquire-lock', who, options);
    assert.equal(answer.status, 201, answer.label);
    assertLock(answer.body.lock, id, who);
    return answer.body.lock;
  }

  async status(id, options) {
    const answer = await this.request('GET', id, 'lock-status', undefined, options);
    assert.equal(answer.status, 200, answer.label);
    assert.match(answer.body.serverTime, TIME);
    assert.ok(Number.isInteger(answer.body.version), answer.label);
    return answer.body;
  }

  checkWhatAlwaysHolds() {
    for (const client of this.#clients) client.checkVersions();
  }

  close() {
    for (const client of this.#clients) client.socket.disconnect();
  }
}

class Client {
  /** Everything received, in order: { event, payload, at }. */
  log = [];
  #taken = new Set();
  #waiting = new Set();

  constructor(socket, { transports }, label) {
    this.label = label;
    this.socket = socket;
    this.transports = transports;
    this.socket.onAny((event, payload) => {
      this.log.push({ event, payload, at: Date.now() });
      for (const look of this.#waiting) look();
    });
  }

  connected() {
    const connected = new Promise((resolve, reject) => {
      this.socket.once('connect', resolve);
      this.socket.once('connect_error', (error) => reject(new Error(`${this.label}: ${error.message}`)));
    });
    return within(connected, `the connection of ${this.label}`);
  }

  /** The name of the transport once the client has settled on one. */
  async transport() {
    const { engine } = this.socket.io;
    const upgrades = this.transports.includes('websocket');
    if (upgrades && engine.transport.name !== 'websocket') {
      await within(new Promise((done) => engine.once('upgrade', done)), `the upgrade of ${this.label}`);
    }
    return engine.transport.name;
  }

  /** Emits, and resolves with the acknowledgement. */
  ask(event, ...payload) {
    const what = `${this.label}: the acknowledgement of ${event} ${show(payload)}`;
    let lost;
    const acknowledged = new Promise((resolve, reject) => {
      lost = (reason) => reject(new Error(`${what}: disconnected (${reason})`));
      if (this.socket.disconnected) lost('before');
      this.socket.once('disconnect', lost);
      this.socket.emit(event, ...payload, resolve);
    });
    return within(acknowledged, what).finally(() => this.socket.off('disconnect', lost));
  }

  /** Joins an appointment's room, and resolves with the state at joining. */
  async subscribe(id, options) {
    const state = await this.ask('subscribe', options ? { appointmentId: id, ...options } : id);
    const label = `${this.label}: subscribe answered ${show(state)}`;
    assert.equal(state.success, true, label);
    assert.equal(state.appointmentId, id, label);
    assert.equal(typeof state.locked, 'boolean', label);
    assert.equal(state.locked, state.lock !== null, label);
    assert.ok(Number.isInteger(state.version), label);
    assert.match(state.serverTime, TIME, label);
    // Not an event of the service, but recorded among them: versions rise from here.
    this.log.push({ event: '(subscribed)', payload: state, at: Date.now() });
    return state;
  }

  /**
   * The first event of this name, and where given of this kind, that was not yet asked for. What came in
   * between stays to be asked for: between two senders there is no order to rely on.
   */
  next(event, matches = () => true, what = '') {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const entry = this.log.find((seen) => seen.event === event && !this.#taken.has(seen) && matches(seen.payload));
        if (!entry) return;
        this.#taken.add(entry);
        this.#waiting.delete(look);
        resolve({ ...entry.payload, receivedAt: entry.at });
      };
      this.#waiting.add(look);
      look();
    });
    return within(found, () => `${this.label}: ${event} ${what}; it got ${show(this.names())}`).finally(() =>
      this.#waiting.delete(look),
    );
  }

  /** The next lock-update with this reason. */
  nextUpdate(reason) {
    return this.next('lock-update', (update) => update.reason === reason, `with reason ${reason}`);
  }

  disconnected() {
    if (this.socket.disconnected) return Promise.resolve();
    return within(new Promise((done) => this.socket.once('disconnect', done)), `${this.label}: being disconnected`);
  }

  /** The names of what was received, in order, for one appointment or for all. */
  names(id) {
    return this.log
      .filter(({ payload }) => id === undefined || payload?.appointmentId === id)
      .map(({ event, payload }) => (event === 'lock-update' ? `lock-update:${payload.reason}` : event));
  }

  /** Everything received of one event. */
  all(event) {
    return this.log.filter((entry) => entry.event === event).map((entry) => entry.payload);
  }

  checkVersions() {
    const newest = new Map();
    for (const { event, payload } of this.log) {
      const { appointmentId: id, version } = payload ?? {};
      if (event === '(subscribed)') {
        newest.set(id, Math.max(version, newest.get(id) ?? 0));
      } else if (event === 'lock-update') {
        assert.ok(Number.isInteger(version), `${this.label}: ${event} without a version: ${show(payload)}`);
        const before = newest.get(id);
        assert.ok(before === undefined || version > before, `${this.label}: version ${version} came after ${before}`);
        newest.set(id, version);
      }
    }
  }
}

/** That this is a lock as the interface has it, of this appointment and this holder. */
export function assertLock(lock, id, who) {
  const label = show(lock);
  assert.equal(lock?.appointmentId, id, label);
  assert.equal(lock.userId, who.userId, label);
  assert.equal(lock.userInfo.name, who.userInfo.name, label);
  assert.equal(lock.userInfo.email, who.userInfo.email, label);
  assert.match(lock.createdAt, TIME, label);
  assert.match(lock.expiresAt, TIME, label);
  assert.ok(Date.parse(lock.expiresAt) > Date.parse(lock.createdAt), label);
  assert.ok(lock.expiresInMs > 0, label);
  assert.ok(Number.isInteger(lock.version) && lock.version > 0, label);
  assert.ok(Number.isInteger(lock.fencingToken) && lock.fencingToken > 0, label);
}

/** That an acknowledgement says no, with a code and a message. */
export function assertRefused(answer, label) {
  const text = `${label} was answered ${show(answer)}`;
  assert.equal(answer?.success, false, text);
  assert.match(answer.code ?? '', /^[A-Z_]+$/, text);
  assert.equal(typeof answer.message, 'string', text);
  assert.notEqual(answer.message, '', text);
}

export function show(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 600 ? `${text.slice(0, 600)}…` : text;
}
