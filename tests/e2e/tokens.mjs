// Signed tokens, as an identity provider issues them.

import { createHmac } from 'node:crypto';

export const SECRET = 'a secret of the end-to-end tests, of no other use';

/** A token of this person that runs out in so many seconds. */
export function tokenOf({ userId, userInfo }, seconds = 3_600) {
  const exp = Math.floor(Date.now() / 1_000) + seconds;
  const claims = { sub: userId, name: userInfo.name, email: userInfo.email, exp };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}
