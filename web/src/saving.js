// Owns the record on the server: reads it, and saves it while one types, with the fencing token of the lease. The
// server checks the token in the same statement, so a save that is too late is rejected.

const TYPING_MS = 400;
const RETRY_MS = 1000;

export class Saving {
  #url;
  #handlers;
  #tag = null;
  #turn = 0;
  #shown = 0;
  #waiting = null;
  #timer = 0;
  #last = Promise.resolve("saved");

  /**
   * `handlers`: `call(label, status, body)` for the log; `record(answer)` with each state that the server told;
   * `state(name, message)` with "typing", "saved", "failed" or "refused".
   */
  constructor(appointmentId, handlers) {
    this.#url = `/demo/records/${encodeURIComponent(appointmentId)}`;
    this.#handlers = handlers;
  }

  /** Asks for the record; the server sends it only where it has changed. */
  async look() {
    const turn = ++this.#turn;
    try {
      const headers = this.#tag ? { "if-none-match": this.#tag } : {};
      const response = await fetch(this.#url, { headers, cache: "no-store" });
      if (response.status !== 200) return;
      const answer = await response.json();
      // An answer to an earlier request may arrive later, and is older.
      if (turn < this.#shown) return;
      this.#shown = turn;
      this.#tag = response.headers.get("etag");
      this.#handlers.record(answer);
    } catch {
      // The page shows elsewhere that the server is unreachable; the next read finds missed changes.
    }
  }

  /** Saves soon: when nothing was typed for a moment. `lease` is `{ userId, token }`. */
  typed(record, lease) {
    this.#waiting = { record, lease };
    this.#handlers.state("typing");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), TYPING_MS);
  }

  /** Saves what waits, and resolves with what became of the last save: "saved", "refused" or "failed". */
  flush() {
    clearTimeout(this.#timer);
    this.#last = this.#last.then((last) => this.#next(last));
    return this.#last;
  }

  async #next(last) {
    const wanted = this.#waiting;
    if (!wanted) return last;
    this.#waiting = null;
    const { status, body } = await this.send(wanted.record, wanted.lease);
    if (status === 200) {
      this.#handlers.state(this.#waiting ? "typing" : "saved");
      return "saved";
    }
    // Text typed meanwhile is newer.
    const again = status === 0 || status === 429 || status >= 500;
    if (again) {
      this.#waiting ??= wanted;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.flush(), RETRY_MS);
    }
    this.#handlers.state(again ? "failed" : "refused", body.message);
    return again ? "failed" : "refused";
  }

  /** Saves this instead of what waits. */
  save(record, lease) {
    this.#waiting = { record, lease };
    return this.flush();
  }

  /** Forgets what waits. */
  drop() {
    clearTimeout(this.#timer);
    this.#waiting = null;
    this.#last = this.#last.then(() => "saved");
  }

  /** One save, as it is: its status, 0 where there was no answer, and its body. */
  async send(record, { userId, token }) {
    const turn = ++this.#turn;
    let status = 0;
    let body = { success: false, message: "The server could not be reached." };
    try {
      const response = await this.#put(record, userId, token);
      status = response.status;
      body = await response.json();
    } catch {
      // The body above says it.
    }
    if (status === 200) {
      this.#shown = turn;
      this.#tag = null;
      this.#handlers.record(body);
    }
    this.#handlers.call("PUT record", status, body);
    return { status, body };
  }

  /** As the page goes away: the request outlives it. */
  sendLast() {
    if (!this.#waiting) return;
    const { record, lease } = this.#waiting;
    this.drop();
    this.#put(record, lease.userId, lease.token, true).catch(() => {});
  }

  #put(record, userId, fencingToken, keepalive = false) {
    return fetch(this.#url, {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ fencingToken, userId, record }),
      keepalive,
    });
  }
}
