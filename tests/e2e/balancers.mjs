// Load balancers in front of replicas: the shipped configurations of HAProxy and of nginx, with the replicas'
// addresses on this machine in place of those of a network.

import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePorts } from './service.mjs';

const START_LIMIT = 10_000;

/**
 * Starts `haproxy` or `nginx` in front of these replicas. `otherSites` makes of it what the shipped file says that
 * pages of another site need: TLS, with a certificate of its own making, and a cookie that may travel there.
 */
export async function startBalancer(kind, replicas, { otherSites = false } = {}) {
  const port = await freePorts(2);
  const home = await mkdtemp(join(tmpdir(), `apptlock-${kind}-`));
  // nginx started by root has workers of another user, who needs access.
  await chmod(home, 0o755);
  const certificate = otherSites ? await makeCertificate(home) : null;
  const [args, config] = await { haproxy, nginx }[kind](home, port, replicas, certificate);
  await writeFile(join(home, `${kind}.conf`), config);
  const child = spawn(find(kind), args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const balancer = new Balancer(kind, port, home, child, otherSites ? 'https' : 'http');
  try {
    await balancer.listening();
  } catch (error) {
    await balancer.stop();
    throw error;
  }
  return balancer;
}

class Balancer {
  #output = [];
  #exited = false;

  constructor(kind, port, home, child, scheme) {
    this.kind = kind;
    this.port = port;
    this.scheme = scheme;
    this.url = `${scheme}://127.0.0.1:${port}`;
    this.home = home;
    this.child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => this.#output.push(text));
    }
    this.exit = new Promise((ended) => child.once('exit', ended)).then(() => (this.#exited = true));
    process.once('exit', this.#abandon);
  }

  output(lines = 40) {
    return this.#output.join('').split('\n').slice(-lines).join('\n');
  }

  async listening() {
    const deadline = Date.now() + START_LIMIT;
    while (!(await answers(this.port))) {
      if (this.#exited || Date.now() > deadline) throw new Error(`${this.kind} did not start:\n${this.output()}`);
      await pause(20);
    }
  }

  async stop() {
    this.child.kill('SIGTERM');
    await this.exit;
    process.removeListener('exit', this.#abandon);
    await rm(this.home, { recursive: true, force: true });
  }

  #abandon = () => this.child.kill('SIGTERM');
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = createConnection({ port, host: '127.0.0.1' });
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

/** On the PATH, or where Debian keeps servers. */
function find(program) {
  const places = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  const found = places.map((place) => join(place, program)).find((file) => existsSync(file));
  if (!found) throw new Error(`the tests need ${program}: run them with make`);
  return found;
}

/** One file with a key and a certificate that nobody has signed. */
async function makeCertificate(home) {
  const file = (name) => join(home, name);
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-subj', '/CN=localhost', '-keyout', file('key.pem'), '-out', file('certificate.pem')],
  ]);
  const parts = await Promise.all(['certificate.pem', 'key.pem'].map((name) => readFile(file(name), 'utf8')));
  await writeFile(file('both.pem'), parts.join(''));
  return file('both.pem');
}

const shipped = (file) => readFile(new URL(`../../${file}`, import.meta.url), 'utf8');

/** With the one line that begins like this replaced. */
function replaced(config, begins, by) {
  const lines = config.split('\n');
  const found = lines.filter((line) => line.trimStart().startsWith(begins));
  if (found.length !== 1) throw new Error(`"${begins}" should begin one line, not ${found.length}, of\n${config}`);
  return lines.map((line) => (line === found[0] ? by : line)).join('\n');
}

/** With every occurrence of this text replaced; there has to be one. */
function exchanged(config, text, by) {
  if (!config.includes(text)) throw new Error(`"${text}" should be in\n${config}`);
  return config.replaceAll(text, by);
}

async function haproxy(home, port, replicas, certificate) {
  const servers = replicas.map((at, n) => `    server replica-${n + 1} 127.0.0.1:${at.port} port ${at.management}`);
  let config = await shipped('compose/haproxy.cfg');
  const tls = certificate ? ` ssl crt ${certificate}` : '';
  config = replaced(config, 'bind :3000', `    bind 127.0.0.1:${port}${tls}`);
  config = replaced(config, 'bind 127.0.0.1:8404', `    bind 127.0.0.1:${port + 1}`);
  config = replaced(config, 'fd-hard-limit', '    maxconn 2000');
  config = replaced(config, 'server-template', servers.join('\n'));
  config = replaced(config, 'default-server', '    default-server check inter 100ms fall 1 rise 1');
  if (certificate) config = exchanged(config, 'attr "SameSite=Lax"', 'secure attr "SameSite=None" attr "Partitioned"');
  return [['-db', '-f', join(home, 'haproxy.conf')], config];
}

async function nginx(home, port, replicas, certificate) {
  const servers = replicas.map((at) => `    server 127.0.0.1:${at.port} max_fails=1 fail_timeout=2s;`);
  let config = await shipped('deploy/nginx.conf');
  config = replaced(config, 'server replica-1:3000', servers.join('\n'));
  config = replaced(config, 'server replica-2:3000', '');
  const tls = certificate ? ` ssl;\n    ssl_certificate ${certificate};\n    ssl_certificate_key ${certificate};` : ';';
  config = replaced(config, 'listen 80;', `    listen 127.0.0.1:${port}${tls}`);
  if (certificate) config = exchanged(config, 'SameSite=Lax"', 'SameSite=None; Secure; Partitioned"');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const frame = `daemon off;
worker_processes 1;
pid ${home}/pid;
error_log stderr warn;
events { worker_connections 1000; }
http {
    access_log off;
${temporary.map((name) => `    ${name}_temp_path ${home}/${name};`).join('\n')}
${config}
}
`;
  return [['-e', 'stderr', '-p', home, '-c', join(home, 'nginx.conf')], frame];
}
