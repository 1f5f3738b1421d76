// Owns the REST calls: one place that knows the paths, and turns every failure into one shape.

export class Api {
  /** `onCall(label, status, body)` hears of every answer, for the event log. */
  constructor(appointmentId, onCall) {
    this.base = `/api/appointments/${encodeURIComponent(appointmentId)}`;
    this.onCall = onCall;
  }

  async #call(method, action, payload) {
    const label = `${method} ${action}`;
    try {
      const response = await fetch(`${this.base}/${action}`, {
        method,
        headers: { "content-type": "application/json", accept: "application/json" },
        body: JSON.stringify(payload),
      });
      const body = await response.json().catch(() => ({ success: false, message: `The server answered ${response.status}.` }));
      this.onCall(label, response.status, body);
      return { ok: response.ok, status: response.status, body };
    } catch {
      const body = { success: false, message: "The server could not be reached." };
      this.onCall(label, 0, body);
      return { ok: false, status: 0, body };
    }
  }

  acquire(person) {
    return this.#call("POST", "acquire-lock", { userId: person.userId, userInfo: infoOf(person) });
  }

  release(person, fencingToken) {
    return this.#call("DELETE", "release-lock", { userId: person.userId, fencingToken });
  }

  takeOver(person, reason) {
    return this.#call("POST", "take-over", adminBody(person, reason));
  }

  forceRelease(person, reason) {
    return this.#call("DELETE", "force-release-lock", adminBody(person, reason));
  }

  /** Survives the page: a string beacon goes out as text/plain, which the server accepts here. */
  releaseByBeacon(person, fencingToken) {
    navigator.sendBeacon(`${this.base}/release-lock`, JSON.stringify({ userId: person.userId, fencingToken }));
  }
}

export function infoOf(person) {
  return { name: person.name, email: person.email };
}

function adminBody(person, reason) {
  const body = { adminId: person.userId, adminInfo: infoOf(person) };
  if (reason) body.reason = reason;
  return body;
}
