// A browser: the system's Chromium, headless, with a separate profile.

import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];
const APPLICATIONS = ['Chromium', 'Google Chrome'].map((name) => `/Applications/${name}.app/Contents/MacOS/${name}`);
// It connects only to the tests, and needs neither a sandbox nor a graphics card.
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
];

/**
 * Resolves with a window that has been nowhere yet. It is an ordinary one: a private window, which Playwright opens
 * unless told otherwise, blocks third parties' cookies whatever their attributes.
 */
export async function startChromium() {
  const folders = (process.env.PATH ?? '').split(delimiter);
  const programs = NAMES.flatMap((name) => folders.map((folder) => join(folder, name)));
  const executablePath = [...programs, ...APPLICATIONS].find((program) => existsSync(program));
  if (!executablePath) throw new Error('the tests need chromium: run them with make');
  const profile = await mkdtemp(join(tmpdir(), 'apptlock-chromium-'));
  const remove = () => rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  try {
    // Accepts the tests' own certificates.
    const options = { executablePath, args: FLAGS, ignoreHTTPSErrors: true };
    const window = await chromium.launchPersistentContext(profile, options);
    window.once('close', remove);
    return window;
  } catch (error) {
    await remove();
    throw error;
  }
}
