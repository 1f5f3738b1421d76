// Owns the search for another replica of this installation on this machine, where `apptlock dev` starts them on
// neighbouring ports. Other services on those ports are not offered.

const PATIENCE_MS = 3000;

async function infoAt(url) {
  try {
    const response = await fetch(new URL("/demo/info", url), { signal: AbortSignal.timeout(PATIENCE_MS) });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** This page's address at another port. */
export function linkTo(port) {
  const url = new URL(location.href);
  if (port) url.port = String(port);
  return url.href;
}

/** The neighbouring port at which another replica over the same database answers, or null. */
export async function findReplica() {
  if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) || !location.port) return null;
  const mine = await infoAt(location.href);
  if (!mine) return null;
  const own = Number(location.port);
  for (const port of [own + 1, own - 1]) {
    const theirs = await infoAt(linkTo(port));
    if (theirs?.product === mine.product && theirs.installation === mine.installation) return port;
  }
  return null;
}
