// Owns this tab's identity. Every tab is a separate person, so that one browser can play a whole team: the person is
// kept in sessionStorage and survives a reload, not a new tab.

const KEY = "apptlock.person";

const FIRST = ["Amara", "Bruno", "Chiara", "Davit", "Elin", "Farid", "Greta", "Hana", "Ivo", "Jonas", "Kaia", "Leila",
  "Mateo", "Noor", "Oskar", "Priya", "Rafael", "Sanna", "Tomas", "Yuki"];
const LAST = ["Adler", "Berg", "Costa", "Dahl", "Eriksen", "Fischer", "Garcia", "Haddad", "Ito", "Jansen", "Kovacs",
  "Lund", "Moreau", "Novak", "Okafor", "Petrov", "Rossi", "Sato", "Tamm", "Weber"];

// Each is dark enough to carry white text, on a light page and on a dark one.
const COLOURS = ["#c2410c", "#0369a1", "#7c3aed", "#be185d", "#15803d", "#8f5a06", "#4338ca", "#0f766e"];

const pick = (list) => list[Math.floor(Math.random() * list.length)];

function randomId() {
  // Not crypto.randomUUID: that needs a secure context, and the page may be opened over plain http on a LAN.
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return "tab-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A colour follows from the id, so that everybody sees a person in the same one without sending it. */
export function colourOf(userId) {
  let hash = 0;
  for (const char of String(userId)) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return COLOURS[hash % COLOURS.length];
}

export function initialsOf(name) {
  const words = String(name ?? "").trim().split(/\s+/).filter(Boolean);
  const ends = words.length > 1 ? [words[0], words[words.length - 1]] : words;
  return ends.map((word) => [...word][0].toUpperCase()).join("") || "?";
}

/** Somebody new. */
export function randomPerson() {
  const first = pick(FIRST);
  const last = pick(LAST);
  return { userId: randomId(), name: `${first} ${last}`, email: `${first}.${last}@example.com`.toLowerCase() };
}

export function savePerson(person) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(person));
  } catch {
    // Storage may be disabled: then a reload creates a new person, and nothing else is lost.
  }
}

function storedPerson() {
  try {
    const person = JSON.parse(sessionStorage.getItem(KEY));
    return person?.userId && person?.name ? person : null;
  } catch {
    return null;
  }
}

/** True when this tab alone uses the id from now on, until it goes away. */
function claim(userId) {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise((answer) => {
    navigator.locks
      .request(`apptlock.${userId}`, { ifAvailable: true }, (lock) => {
        answer(lock !== null);
        return lock ? new Promise(() => {}) : undefined;
      })
      .catch(() => answer(true));
  });
}

/**
 * This tab's person. "Duplicate tab" copies sessionStorage, and two tabs with one id would share one lease; so
 * an id that another tab has claimed is not taken over.
 */
export async function loadPerson() {
  let person = storedPerson();
  if (person && !(await claim(person.userId))) {
    // On a quick reload the previous page may still hold it.
    await new Promise((done) => setTimeout(done, 250));
    if (!(await claim(person.userId))) person = null;
  }
  if (!person) {
    person = randomPerson();
    await claim(person.userId);
  }
  savePerson(person);
  return person;
}
