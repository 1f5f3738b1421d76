// Owns the demo page: connects the lock's state, the record, the people and the buttons. The rules are in lease.js, the
// transport in link.js, api.js and saving.js, the drawing in view.js.
import { Api } from "./api.js";
import { Cursors, watchPointer } from "./cursors.js";
import { loadPerson, savePerson } from "./identity.js";
import { newRoom, standing, startOver, take } from "./lease.js";
import { openLink } from "./link.js";
import { EventLog } from "./log.js";
import { Notices } from "./notices.js";
import { OldToken } from "./old-token.js";
import { personDialog } from "./person.js";
import { RecordForm } from "./record.js";
import { findReplica, linkTo } from "./replica.js";
import { Saving } from "./saving.js";
import { $, draw as drawPage, nameOf, now, setText, tick, timeOf } from "./view.js";

const appointmentId = new URLSearchParams(location.search).get("id") || "demo";
// Interval between two reads of the record while somebody else edits it.
const LOOK_EVERY_MS = 1000;
// The one notice about wanting to edit and not being able to: each replaces the one before.
const CONFLICT = "conflict";
// The one notice about the loss of our lock.
const FATE = "fate";
// The one notice about text that was not saved.
const ASIDE = "aside";

const page = { appointmentId, me: await loadPerson(), room: newRoom(), linkState: "connecting", linkDetail: "", busy: false };
const { room } = page;
// The lease that this tab holds, as a save needs it: `{ userId, token }`.
let held = null;
// The record as it was when that lease began.
let before = null;
// Resolves when the text of a new lease may be edited.
let ready = Promise.resolve();
let leavingByChoice = false;
let refusedOnce = false;
let lastAdmin = null;

const log = new EventLog({ list: $("log-list"), count: $("log-count"), cursorCount: $("log-cursors"), clear: $("log-clear") });
const notices = new Notices($("notices"));
const cursors = new Cursors($("cursors"));
const logCall = (label, status, body) => log.add("call", label, { reason: status ? String(status) : "no answer", detail: body.code });
const api = new Api(appointmentId, logCall);
const saving = new Saving(appointmentId, { call: logCall, record: onRecord, state: onSaving });
const record = new RecordForm($("record"), () => held && saving.typed(record.read(), held));
const oldToken = new OldToken((text, lease) => once(() => saving.send(text, lease)));

const draw = () => drawPage(page);
const isMine = () => standing(room, page.me.userId) === "mine";

/** True for as long as the same person, or nobody, holds the lock. */
function sameHolder() {
  const holder = room.lock?.userId;
  return () => room.lock?.userId === holder;
}

// ---- the record -----------------------------------------------------------------------------------------------

function onRecord({ record: text, revision, savedAt, savedByName }) {
  record.take(text);
  const byWhom = text ? `Saved at ${timeOf(savedAt)} by ${savedByName}, revision ${revision}.` : "Nothing is saved yet.";
  $("saved").dataset.state = "saved";
  setText($("saved-text"), byWhom);
  notices.review();
}

function onSaving(name, message) {
  $("saved").dataset.state = name;
  if (name === "typing") setText($("saved-text"), "Saving…");
  if (name === "failed") setText($("saved-text"), `Not saved yet, trying again: ${message}`);
  if (name === "refused") setText($("saved-text"), message);
}

function offerAside(text) {
  notices.say("warn", "Your last words were not saved", text, {
    key: ASIDE,
    label: "Bring them back",
    run: bringBack,
    holds: () => record.hasAside(),
  });
}

async function bringBack() {
  const done = await once(async () => {
    if (!isMine()) {
      const answer = await api.acquire(page.me);
      believeAnswer(answer.body, "acquired");
      if (!answer.ok) {
        const why = answer.status === 409 ? `${nameOf(answer.body.lock)} is editing.` : answer.body.message;
        offerAside(`${why} They wait in this tab until you can edit.`);
        return;
      }
    }
    await ready;
    record.restoreAside();
    if (held) saving.typed(record.read(), held);
    record.focus();
    notices.review();
  });
  if (done === false) offerAside("They are kept in this tab.");
}

// ---- events from the server ------------------------------------------------------------------------------------

function believe(version, lock, reason) {
  if (!Number.isFinite(version)) return "stale";
  const outcome = take(room, version, lock, now());
  if (outcome === "new") {
    follow(reason);
    draw();
  }
  return outcome;
}

/** What a new state means for the person at this tab. */
function follow(reason) {
  const token = isMine() ? room.lock.fencingToken : null;
  const had = held;
  // First what no longer holds, then what holds now.
  notices.review();
  if (had && had.token !== token) {
    oldToken.keep(had, record.read());
    held = null;
  }
  if (token !== null && had?.token !== token) gained(token, reason);
  else if (token === null && had) lost(reason);
  if (token === null) saving.look();
  if (!room.lock && refusedOnce) {
    refusedOnce = false;
    notices.say("good", "It is free now", "You wanted to edit a moment ago.", { key: CONFLICT, label: "Edit", run: edit, holds: sameHolder() });
  }
}

function gained(token, reason) {
  refusedOnce = false;
  held = { userId: page.me.userId, token };
  for (const key of [CONFLICT, FATE]) notices.unsay(key);
  // The previous holder's last save comes first.
  ready = saving.look().then(() => {
    if (held?.token !== token) return;
    before = record.read();
    record.setEditing(true);
  });
  if (record.hasAside()) offerAside("They are kept in this tab.");
  if (reason === "taken-over") notices.say("good", "You took over", "The lock is yours now.", { key: FATE, holds: sameHolder() });
}

function lost(reason) {
  record.setEditing(false);
  saving.drop();
  if (leavingByChoice) return;
  record.setAside();
  if (record.hasAside()) offerAside("They are kept in this tab.");
  const admin = lastAdmin?.adminInfo?.name ?? "An administrator";
  const [tone, title, text] = lastAdmin?.adminId === page.me.userId
    ? ["warn", "You ended your own lock", ""]
    : room.lock ? ["bad", `${nameOf(room.lock)} took over`, "You can read along, but no longer edit."]
    : reason === "forced" ? ["bad", `${admin} released your lock`, "Anyone may edit now."]
    : reason === "expired" ? ["warn", "Your lock ran out", "There was no activity for a while."]
    : ["warn", "Your lock has ended", ""];
  notices.say(tone, title, text, { key: FATE, holds: sameHolder() });
}

function onEvent(name, payload) {
  if (name === "cursor-update") {
    log.cursor();
    if (payload.userId !== page.me.userId) cursors.move(payload.userId, payload.userInfo, payload.position);
    return;
  }
  if (name === "cursor-left") {
    log.add("event", name, { detail: payload.userId });
    cursors.leave(payload.userId);
    return;
  }
  const { version, reason } = payload;
  if (Number.isFinite(version) && version < room.seen) {
    log.add("dropped", name, { version, reason, detail: "older than what is shown: dropped" });
    return;
  }
  const detail = name === "admin-takeover" ? payload.adminInfo?.name : payload.lock ? nameOf(payload.lock) : undefined;
  log.add("event", name, { version, reason, detail });
  // Names the admin only: the state itself follows in the event that this one announces.
  if (name === "admin-takeover") lastAdmin = payload;
  if (name === "lock-update" || name === "lock-acquired" || name === "lock-released") {
    believe(version, payload.lock ?? null, reason ?? "acquired");
    if (lastAdmin && version >= lastAdmin.version) lastAdmin = null;
  }
}

const link = openLink(appointmentId, () => page.me, {
  state(name, detail = "") {
    if (name !== page.linkState || name === "live") log.add("link", name === "live" ? "connected" : name, { detail });
    page.linkState = name;
    page.linkDetail = detail;
    // We got no `cursor-left` of those who left while we were disconnected.
    if (name !== "live") cursors.clear();
    draw();
  },
  starting: () => startOver(room),
  snapshot(ack) {
    log.add("event", "subscribe ack", { version: ack.version, detail: ack.lock ? nameOf(ack.lock) : "free" });
    believe(ack.version, ack.lock, "snapshot");
    draw();
  },
  event: onEvent,
});

// ---- actions of the user ---------------------------------------------------------------------------------------

/** One request at a time: a second press while the first is on its way is passed over, and answered `false`. */
async function once(work) {
  if (page.busy) return false;
  page.busy = true;
  draw();
  try {
    return await work();
  } finally {
    page.busy = false;
    draw();
  }
}

function believeAnswer(body, reason) {
  if (body.lock) believe(body.lock.version, body.lock, reason);
}

function explain(answer, title) {
  const { status, body } = answer;
  if (status === 401) {
    notices.say("bad", "The server wants a token", "This page speaks for people by name alone, which needs AUTH_MODE=trusted. `apptlock dev` sets it.");
  } else {
    notices.say("bad", title, body.message);
  }
}

const edit = () => once(async () => {
  const answer = await api.acquire(page.me);
  believeAnswer(answer.body, "acquired");
  if (answer.ok) {
    record.focus();
  } else if (answer.status === 409) {
    refusedOnce = true;
    notices.say("warn", `${nameOf(answer.body.lock)} is editing`, "Only one person can at a time. This page will tell you when it is free.",
      { key: CONFLICT, holds: sameHolder() });
  } else {
    explain(answer, "You cannot edit just now");
  }
});

/** A renewal: activity without a key or a pointer. */
const keep = () => once(async () => {
  const answer = await api.acquire(page.me);
  believeAnswer(answer.body, "renewed");
  if (answer.ok) record.focus();
  else explain(answer, "The lock could not be kept");
});

/** Saves what was typed, or what was there before, and gives the lock back. */
const giveBack = (save) => once(async () => {
  await ready;
  if (!held) return;
  const lease = held;
  record.setEditing(false);
  if (!save) record.put(before);
  const saved = save ? await saving.flush() : await saving.save(before, lease);
  if (saved === "failed") {
    if (held === lease) record.setEditing(true);
    notices.say("bad", "The text could not be saved", "You still hold the lock. The page goes on trying.", { holds: isMine });
    return;
  }
  leavingByChoice = true;
  const answer = await api.release(page.me, lease.token);
  leavingByChoice = false;
  if (answer.ok) {
    // The event says so too; not waiting for it makes the button feel as fast as it is.
    if (held === lease) leave(answer.body.version ?? room.seen + 1);
    $("edit").focus({ preventScroll: true });
  } else if (held === lease && saved !== "refused") {
    record.setEditing(true);
    explain(answer, "The lock could not be given back");
  } else {
    record.setAside();
    if (record.hasAside()) offerAside("They are kept in this tab.");
    notices.say("bad", "Your lock had ended already", answer.body.message, { key: FATE, holds: sameHolder() });
  }
});

function leave(version) {
  leavingByChoice = true;
  believe(version, null, "released");
  leavingByChoice = false;
}

const asAdmin = (call, title, next) => once(async () => {
  $("admin").open = false;
  const answer = await call(page.me, $("admin-reason").value.trim());
  if (answer.ok) {
    $("admin-reason").value = "";
    believeAnswer(answer.body, "taken-over");
    next();
  } else {
    explain(answer, title);
    $("admin").querySelector("summary").focus();
  }
});

$("edit").addEventListener("click", edit);
$("keep").addEventListener("click", keep);
$("done").addEventListener("click", () => giveBack(true));
$("cancel").addEventListener("click", () => giveBack(false));
$("take-over").addEventListener("click", () =>
  asAdmin((...args) => api.takeOver(...args), "You could not take over", () => record.focus()));
$("force-release").addEventListener("click", () =>
  asAdmin((...args) => api.forceRelease(...args), "The lock could not be released", () => $("edit").focus()));

watchPointer($("card"), (position) => link.cursor(position));

addEventListener("pagehide", () => {
  if (!held) return;
  saving.sendLast();
  api.releaseByBeacon(page.me, held.token);
});
addEventListener("pageshow", (event) => event.persisted && link.wake());
document.addEventListener("visibilitychange", () => document.hidden && saving.flush());

// ---- the admin menu and the person dialog ---------------------------------------------------------------------

document.addEventListener("pointerdown", (event) => {
  if ($("admin").open && !$("admin").contains(event.target)) $("admin").open = false;
});
$("admin").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("admin").open = false;
  $("admin").querySelector("summary").focus();
});

personDialog({
  person: () => page.me,
  holds: isMine,
  async become(person) {
    const mine = isMine();
    page.me = person;
    savePerson(person);
    draw();
    // The handshake carries the name, and the lease too, where it is ours.
    link.reopen();
    if (mine) believeAnswer((await api.acquire(person)).body, "renewed");
  },
});

// ---- start ----------------------------------------------------------------------------------------------------

setText($("title"), appointmentId);
$("second").href = linkTo();
findReplica().then((port) => {
  if (port === null) return;
  $("replica").href = linkTo(port);
  setText($("replica"), `at port ${port}`);
  $("replica-step").hidden = false;
});
setInterval(() => tick(page), 250);
setInterval(() => !document.hidden && standing(room, page.me.userId) === "theirs" && saving.look(), LOOK_EVERY_MS);
draw();
saving.look();
link.open();
