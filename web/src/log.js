// Owns the event log: received events, newest first, for authors of clients.

const KEEP = 150;

export class EventLog {
  #list;
  #count;
  #cursorCount;
  #cursors = 0;
  #total = 0;
  #run = null;
  #due = false;

  constructor({ list, count, cursorCount, clear }) {
    this.#list = list;
    this.#count = count;
    this.#cursorCount = cursorCount;
    clear.addEventListener("click", () => {
      this.#list.replaceChildren();
      this.#total = 0;
      this.#cursors = 0;
      this.#run = null;
      this.#draw();
    });
    this.#draw();
  }

  /** `kind`: "event", "call", "link" or "dropped". Equal rows in a row, as renewals are, become one with a count. */
  add(kind, name, { version, reason, detail } = {}) {
    this.#total += 1;
    const key = [kind, name, reason, detail].join("\n");
    const row = this.#run?.key === key && this.#run.element.isConnected ? this.#run : this.#newRow(kind, name, reason, detail, key);
    row.times += 1;
    row.time.textContent = new Date().toLocaleTimeString([], { hour12: false });
    row.version.textContent = version === undefined ? "" : `v${version}`;
    row.repeat.textContent = row.times > 1 ? `×${row.times}` : "";
    this.#draw();
  }

  /** Cursors come many a second: they are counted, not listed. */
  cursor() {
    this.#cursors += 1;
    if (this.#due) return;
    this.#due = true;
    setTimeout(() => {
      this.#due = false;
      this.#draw();
    }, 250);
  }

  #newRow(kind, name, reason, detail, key) {
    const element = document.createElement("li");
    element.className = `entry ${kind}`;
    const part = (className, text, parent = element) => {
      const span = document.createElement("span");
      span.className = className;
      span.textContent = text ?? "";
      parent.append(span);
      return span;
    };
    const time = part("entry-time");
    part("entry-name", name);
    const version = part("entry-version");
    const more = part("entry-more");
    if (reason) part("entry-reason", reason, more);
    if (detail) part("entry-detail", detail, more);
    const repeat = part("entry-repeat", "", more);
    this.#list.prepend(element);
    while (this.#list.children.length > KEEP) this.#list.lastElementChild.remove();
    this.#run = { key, element, time, version, repeat, times: 0 };
    return this.#run;
  }

  #draw() {
    this.#count.textContent = String(this.#total);
    this.#cursorCount.textContent = `cursor-update ×${this.#cursors}`;
  }
}
