// Owns the notices at the edge of the window: events that concern this user, each shown once.

const STAYS_MS = 9000;

export class Notices {
  #list;
  /** Of each notice that is true for a while only: whether it still is. */
  #holds = new WeakMap();

  constructor(list) {
    this.#list = list;
  }

  /**
   * `tone`: "good", "warn" or "bad". With a button (`label`, `run`) it stays until it is answered. A notice
   * replaces an earlier one of the same `key`, which is the title where none is given. `holds` says whether it is
   * still true; `review` takes back those that are not.
   */
  say(tone, title, text, { key = title, label, run, holds } = {}) {
    this.unsay(key);
    const item = document.createElement("div");
    item.className = `notice ${tone}`;
    item.dataset.key = key;
    if (holds) this.#holds.set(item, holds);
    const words = document.createElement("div");
    const heading = document.createElement("strong");
    heading.textContent = title;
    words.append(heading);
    if (text) {
      const more = document.createElement("p");
      more.textContent = text;
      words.append(more);
    }
    item.append(words);
    if (label) item.append(button("button small", label, () => (item.remove(), run())));
    const close = button("icon-button", "×", () => item.remove());
    close.setAttribute("aria-label", "Dismiss");
    item.append(close);
    this.#list.append(item);
    while (this.#list.children.length > 3) this.#list.firstElementChild.remove();
    if (!label) fade(item);
  }

  /** Takes back what is no longer true. */
  review() {
    for (const item of [...this.#list.children]) if (this.#holds.get(item)?.() === false) item.remove();
  }

  /** Takes back one notice. */
  unsay(key) {
    for (const old of [...this.#list.children]) if (old.dataset.key === key) old.remove();
  }
}

function button(className, label, run) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = className;
  element.textContent = label;
  element.addEventListener("click", run);
  return element;
}

function fade(item) {
  let timer = setTimeout(() => item.remove(), STAYS_MS);
  // It stays while the user reads it.
  const hold = () => clearTimeout(timer);
  const go = () => {
    clearTimeout(timer);
    timer = setTimeout(() => item.remove(), STAYS_MS);
  };
  item.addEventListener("pointerenter", hold);
  item.addEventListener("pointerleave", go);
  item.addEventListener("focusin", hold);
  item.addEventListener("focusout", go);
}
