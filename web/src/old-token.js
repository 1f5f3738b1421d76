// Owns "Save with my old token": the save of a browser that was asleep while somebody else got its lock. The server's
// check rejects it, and the page shows its message.
import { $, setText } from "./view.js";

export class OldToken {
  #old = null;

  /** `send(record, lease)` saves at once and resolves with `{ status, body }`, or `false` where the page is busy. */
  constructor(send) {
    $("old-save").addEventListener("click", async () => {
      const { record, lease } = this.#old;
      const answer = await send(record, lease);
      if (answer !== false) this.#tell(answer);
    });
  }

  /** A lease that this tab no longer holds, and the text that it had then. */
  keep(lease, record) {
    this.#old = { lease, record };
    setText($("old-token"), String(lease.token));
    $("old").hidden = false;
    $("old-answer").hidden = true;
  }

  #tell({ status, body }) {
    const refused = status === 409;
    const title = refused ? `Refused: ${status} ${body.code}` : status === 200 ? "Saved: this must not happen" : "No verdict";
    setText($("old-title"), title);
    setText($("old-message"), body.message);
    $("old-answer").dataset.tone = refused ? "good" : "bad";
    $("old-answer").hidden = false;
  }
}
