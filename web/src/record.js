// Owns the appointment's text: what is saved, what is being typed, and what was set aside when a lease was
// lost. apptlock keeps locks, not records, so this demo keeps its record in the browser's own storage.

const WAITING_MS = 600;

function tomorrow() {
  const day = new Date();
  day.setDate(day.getDate() + 1);
  return `${day.getFullYear()}-${String(day.getMonth() + 1).padStart(2, "0")}-${String(day.getDate()).padStart(2, "0")}`;
}

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
  #key;
  #saved;
  #aside = null;
  #editing = false;
  #flashTimer = 0;

  constructor(form, appointmentId) {
    this.#form = form;
    this.#key = `apptlock.record.${appointmentId}`;
    this.#saved = { ...firstDraft(), ...this.#stored() };
    this.#show(this.#saved);
    this.setEditing(false);
    form.addEventListener("submit", (event) => event.preventDefault());
    // Another tab of this browser pressed Done: show what it saved.
    addEventListener("storage", (event) => {
      if (event.key !== this.#key || !event.newValue || this.#editing) return;
      this.#saved = { ...this.#saved, ...this.#stored() };
      this.#show(this.#saved);
      this.#flash();
    });
  }

  setEditing(editing) {
    this.#editing = editing;
    for (const field of this.#fields()) field.readOnly = !editing;
    this.#form.classList.toggle("editing", editing);
  }

  focusFirst() {
    this.#fields()[0]?.focus({ preventScroll: true });
  }

  /** After "Done". */
  save() {
    this.#saved = this.#read();
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.#saved));
    } catch {
      // Without storage the text lives as long as the page, which is enough for a demo.
    }
  }

  discard() {
    this.#show(this.#saved);
  }

  /** After a lost lease: true when there was unsaved text, which `restoreAside` brings back. */
  setAside() {
    const typed = this.#read();
    const differs = Object.keys(typed).some((key) => typed[key] !== this.#saved[key]);
    if (differs) this.#aside = typed;
    this.#show(this.#saved);
    return differs;
  }

  hasAside() {
    return this.#aside !== null;
  }

  restoreAside() {
    if (this.#aside) this.#show(this.#aside);
    this.#aside = null;
  }

  #fields() {
    return [...this.#form.elements].filter((element) => element.name);
  }

  #read() {
    return Object.fromEntries(this.#fields().map((field) => [field.name, field.value]));
  }

  #show(record) {
    for (const field of this.#fields()) field.value = record[field.name] ?? "";
  }

  #stored() {
    try {
      return JSON.parse(localStorage.getItem(this.#key)) ?? {};
    } catch {
      return {};
    }
  }

  #flash() {
    this.#form.classList.add("fresh");
    clearTimeout(this.#flashTimer);
    this.#flashTimer = setTimeout(() => this.#form.classList.remove("fresh"), WAITING_MS);
  }
}
