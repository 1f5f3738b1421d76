// Owns the appointment's text on the page: what the server has, what is being typed, and what was set aside when a
// lease was lost before it was saved.

const FLASH_MS = 600;

function tomorrow() {
  const day = new Date();
  day.setDate(day.getDate() + 1);
  return `${day.getFullYear()}-${String(day.getMonth() + 1).padStart(2, "0")}-${String(day.getDate()).padStart(2, "0")}`;
}

/** What is shown until somebody has saved. */
const firstDraft = () => ({
  patient: "Alma Brandt",
  clinician: "Dr. Okoro",
  date: tomorrow(),
  start: "09:30",
  minutes: "30",
  place: "Room 4",
  subject: "Follow-up after knee surgery",
  notes: "Walks without crutches since Monday.\nPlease have the latest X-ray ready.",
});

export class RecordForm {
  #form;
  #saved = firstDraft();
  #aside = null;
  #editing = false;
  #field = null;
  #flashTimer = 0;

  /** `typed` is called with each change that a person makes. */
  constructor(form, typed) {
    this.#form = form;
    this.#show(this.#saved);
    this.setEditing(false);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("focusin", (event) => (this.#field = event.target));
    form.addEventListener("input", () => this.#editing && typed());
  }

  setEditing(editing) {
    this.#editing = editing;
    for (const field of this.#fields()) field.readOnly = !editing;
    this.#form.classList.toggle("editing", editing);
  }

  /** The field that was used last, else the first. */
  focus() {
    (this.#field ?? this.#fields()[0])?.focus({ preventScroll: true });
  }

  /** Takes what the server has. Whoever edits sees their own text go on. */
  take(record) {
    this.#saved = record ?? firstDraft();
    this.#prune();
    if (this.#editing) return;
    const shown = this.read();
    const changed = Object.keys(shown).some((name) => shown[name] !== (this.#saved[name] ?? ""));
    if (!changed) return;
    this.#show(this.#saved);
    this.#flash();
  }

  /** Puts a text in place of what is typed. */
  put(record) {
    this.#show(record);
  }

  read() {
    return Object.fromEntries(this.#fields().map((field) => [field.name, field.value]));
  }

  /** After a lost lease: keeps the fields that were not saved, and shows what the server has. */
  setAside() {
    const typed = Object.entries(this.read()).filter(([name, text]) => text !== (this.#saved[name] ?? ""));
    if (typed.length > 0) this.#aside = Object.fromEntries(typed);
    this.#show(this.#saved);
  }

  hasAside() {
    return this.#aside !== null;
  }

  /** Only those fields: what others wrote into the rest stays. */
  restoreAside() {
    if (this.#aside) this.#show({ ...this.read(), ...this.#aside });
    this.#aside = null;
  }

  /** A save that was under way when the lease was lost may have been in time. */
  #prune() {
    const left = Object.entries(this.#aside ?? {}).filter(([name, text]) => text !== (this.#saved[name] ?? ""));
    this.#aside = left.length > 0 ? Object.fromEntries(left) : null;
  }

  #fields() {
    return [...this.#form.elements].filter((element) => element.name);
  }

  #show(record) {
    for (const field of this.#fields()) {
      const text = record[field.name] ?? "";
      if (field.value !== text) field.value = text;
    }
  }

  #flash() {
    this.#form.classList.add("fresh");
    clearTimeout(this.#flashTimer);
    this.#flashTimer = setTimeout(() => this.#form.classList.remove("fresh"), FLASH_MS);
  }
}
