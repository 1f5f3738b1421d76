// Owns the demo page: joins the lock's state, the people and the buttons, and draws the outcome. The rules are
// in lease.js, the wires in link.js and api.js.
import { Api } from "./api.js";
import { Cursors, watchPointer } from "./cursors.js";
import { colourOf, initialsOf, loadPerson, randomPerson, savePerson } from "./identity.js";
import { clock, fractionLeft, newRoom, remaining, standing, startOver, take } from "./lease.js";
import { openLink } from "./link.js";
import { EventLog } from "./log.js";
import { Notices } from "./notices.js";
import { RecordForm } from "./record.js";

const $ = (id) => document.getElementById(id);
const appointmentId = new URLSearchParams(location.search).get("id") || "demo";
// Below this fraction the countdown asks for attention; the server's own warning comes at the same point.
const SHORT = 0.2;
// The one notice about wanting to edit and not being able to: each replaces the one before.
const CONFLICT = "conflict";
// The one notice about what became of our lock.
const FATE = { key: "fate" };

let me = await loadPerson();
let linkState = "connecting";
let linkDetail = "";
// What happened just now and to whom, kept apart from the room because it says why, not what.
let wasMine = false;
let leavingByChoice = false;
let refusedOnce = false;
let lastAdmin = null;
let busy = false;

const room = newRoom();
const log = new EventLog({ list: $("log-list"), count: $("log-count"), cursorCount: $("log-cursors"), clear: $("log-clear") });
const notices = new Notices($("notices"));
const record = new RecordForm($("record"), appointmentId);
const cursors = new Cursors($("cursors"));
const api = new Api(appointmentId, (label, status, body) =>
  log.add("call", label, { reason: status ? String(status) : "no answer", detail: body.code }));

const now = () => performance.now();
const nameOf = (lock) => lock?.userInfo?.name || lock?.userId || "Somebody";

// ---- what we hear -------------------------------------------------------------------------------------------

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
  const mine = standing(room, me.userId) === "mine";
  if (mine && !wasMine) gained(reason);
  if (!mine && wasMine) lost(reason);
  if (!room.lock && refusedOnce) {
    refusedOnce = false;
    notices.say("good", "It is free now", "You wanted to edit a moment ago.", { key: CONFLICT, label: "Edit", run: edit });
  }
  wasMine = mine;
}

function gained(reason) {
  refusedOnce = false;
  notices.unsay(CONFLICT);
  record.setEditing(true);
  if (record.hasAside()) {
    notices.say("good", "Your earlier text is still here", "It was not saved when the lock went away.",
      { label: "Bring it back", run: () => standing(room, me.userId) === "mine" && record.restoreAside() });
  }
  if (reason === "taken-over") notices.say("good", "You took over", "The lock is yours now.", FATE);
}

function lost(reason) {
  record.setEditing(false);
  if (leavingByChoice) return;
  const kept = record.setAside() ? " Your unsaved text is kept in this tab." : "";
  const admin = lastAdmin && lastAdmin.adminId !== me.userId ? lastAdmin.adminInfo?.name : null;
  if (lastAdmin?.adminId === me.userId) notices.say("warn", "You ended your own lock", kept.trim(), FATE);
  else if (room.lock) notices.say("bad", `${nameOf(room.lock)} took over`, `You can read along, but no longer edit.${kept}`, FATE);
  else if (reason === "forced") notices.say("bad", `${admin ?? "An administrator"} released your lock`, `Anyone may edit now.${kept}`, FATE);
  else if (reason === "expired") notices.say("warn", "Your lock ran out", `There was no activity for a while.${kept}`, FATE);
  else notices.say("warn", "Your lock has ended", kept.trim(), FATE);
}

function onEvent(name, payload) {
  if (name === "cursor-update") {
    log.cursor();
    if (payload.userId !== me.userId) cursors.move(payload.userId, payload.userInfo, payload.position);
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

const link = openLink(appointmentId, () => me, {
  state(name, detail = "") {
    if (name !== linkState || name === "live") log.add("link", name === "live" ? "connected" : name, { detail });
    linkState = name;
    linkDetail = detail;
    // Whoever left while we were away said goodbye to somebody else.
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

// ---- what we do ---------------------------------------------------------------------------------------------

/** One request at a time: a second press while the first is on its way would only confuse. */
async function once(work) {
  if (busy) return;
  busy = true;
  draw();
  try {
    await work();
  } finally {
    busy = false;
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
  const answer = await api.acquire(me);
  believeAnswer(answer.body, "acquired");
  if (answer.ok) {
    record.focusFirst();
  } else if (answer.status === 409) {
    refusedOnce = true;
    notices.say("warn", `${nameOf(answer.body.lock)} is editing`, "Only one person can at a time. This page will tell you when it is free.", { key: CONFLICT });
  } else {
    explain(answer, "You cannot edit just now");
  }
});

const giveBack = (save) => once(async () => {
  const token = room.lock?.fencingToken;
  leavingByChoice = true;
  // A real application saves first and lets its back end check the fencing token in the same transaction. This
  // record lives in the browser, so the release, which carries the token too, is the check.
  record.setEditing(false);
  const answer = await api.release(me, token);
  const stillMine = standing(room, me.userId) === "mine";
  if (answer.ok) {
    if (save) record.save();
    else record.discard();
    // The event says so too; not waiting for it makes the button feel as fast as it is.
    if (stillMine && room.lock?.fencingToken === token) believe(answer.body.version ?? room.seen + 1, null, "released");
  } else if (stillMine) {
    record.setEditing(true);
    explain(answer, "The lock could not be given back");
  } else {
    const kept = record.setAside();
    notices.say("bad", "Your lock had ended already", kept ? "Nothing was saved. Your text is kept in this tab." : answer.body.message);
  }
  leavingByChoice = false;
  if (answer.ok) $("edit").focus({ preventScroll: true });
});

const asAdmin = (call, title) => once(async () => {
  $("admin").open = false;
  const answer = await call(me, $("admin-reason").value.trim());
  if (answer.ok) {
    $("admin-reason").value = "";
    believeAnswer(answer.body, "taken-over");
  } else {
    explain(answer, title);
  }
});

$("edit").addEventListener("click", edit);
$("done").addEventListener("click", () => giveBack(true));
$("cancel").addEventListener("click", () => giveBack(false));
$("take-over").addEventListener("click", () => asAdmin((...args) => api.takeOver(...args), "You could not take over"));
$("force-release").addEventListener("click", () => asAdmin((...args) => api.forceRelease(...args), "The lock could not be released"));

watchPointer($("card"), (position) => link.cursor(position));

addEventListener("pagehide", () => {
  if (standing(room, me.userId) === "mine") api.releaseByBeacon(me, room.lock.fencingToken);
});
addEventListener("pageshow", (event) => event.persisted && link.wake());

// ---- the admin menu and the person dialog -------------------------------------------------------------------

document.addEventListener("pointerdown", (event) => {
  if ($("admin").open && !$("admin").contains(event.target)) $("admin").open = false;
});
$("admin").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("admin").open = false;
  $("admin").querySelector("summary").focus();
});

let candidate = me;

function drawCandidate() {
  const name = $("person-name").value || candidate.name;
  paintAvatar($("person-avatar"), candidate.userId, name);
}

$("me").addEventListener("click", () => {
  candidate = me;
  $("person-name").value = me.name;
  $("person-email").value = me.email;
  // Another person would have to leave the lock behind.
  $("person-other").disabled = standing(room, me.userId) === "mine";
  drawCandidate();
  $("person-dialog").showModal();
});
$("person-name").addEventListener("input", drawCandidate);
$("person-cancel").addEventListener("click", () => $("person-dialog").close());
$("person-other").addEventListener("click", () => {
  candidate = randomPerson();
  $("person-name").value = candidate.name;
  $("person-email").value = candidate.email;
  drawCandidate();
});
$("person-form").addEventListener("submit", async () => {
  const mine = standing(room, me.userId) === "mine";
  // The lock may have come in while the dialog stood open: it stays with the id that holds it.
  const userId = mine ? me.userId : candidate.userId;
  me = { userId, name: $("person-name").value.trim() || me.name, email: $("person-email").value.trim() || me.email };
  savePerson(me);
  draw();
  // The handshake carries the name, and the lease too, where it is ours.
  link.reopen();
  if (mine) believeAnswer((await api.acquire(me)).body, "renewed");
});

// ---- drawing ------------------------------------------------------------------------------------------------

const LINK_TEXT = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", refused: "Refused" };

/** Writes only what changed: a live region repeats itself to a screen reader at every write. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function paintAvatar(element, userId, name) {
  element.style.setProperty("--who", colourOf(userId));
  setText(element, initialsOf(name));
}

function words(where) {
  const holder = nameOf(room.lock);
  switch (where) {
    case "free": return ["Free to edit", "Press Edit to take the lock."];
    case "mine": return ["You are editing", "Yours for as long as you are active."];
    case "theirs": return [`${holder} is editing`, room.lock.away
      ? "Their connection is gone. The lock ends soon."
      : "You can read along until they are done."];
    default: return linkState === "refused" ? ["Not connected", linkDetail] : ["Looking it up", "Asking who is editing."];
  }
}

function draw() {
  const where = standing(room, me.userId);
  $("card").dataset.standing = where;
  $("card").classList.toggle("adrift", room.known && linkState !== "live");

  setText($("me-name"), me.name);
  paintAvatar($("me-avatar"), me.userId, me.name);

  $("link-state").dataset.state = linkState;
  setText($("link-text"), LINK_TEXT[linkState]);
  $("link-state").title = linkDetail;

  const [title, sub] = words(where);
  setText($("banner-title"), title);
  setText($("banner-sub"), room.known && linkState !== "live" ? "Offline. This is the last known state." : sub);

  const lock = room.lock;
  const holderId = lock?.userId ?? "";
  $("card").style.setProperty("--holder", lock ? colourOf(holderId) : "transparent");
  $("holder-avatar").classList.toggle("empty", !lock);
  if (lock) paintAvatar($("holder-avatar"), holderId, nameOf(lock));
  else setText($("holder-avatar"), "");

  $("edit").hidden = where === "mine";
  $("edit").disabled = busy || where === "unknown";
  $("edit").classList.toggle("primary", where !== "theirs");
  $("done").hidden = $("cancel").hidden = where !== "mine";
  $("done").disabled = $("cancel").disabled = busy;
  $("take-over").disabled = busy || where !== "theirs";
  $("force-release").disabled = busy || !lock;

  setText($("fact-holder"), lock ? nameOf(lock) + (where === "mine" ? " (you)" : "") : "nobody");
  setText($("fact-since"), lock?.createdAt ? new Date(lock.createdAt).toLocaleTimeString([], { hour12: false }) : "–");
  setText($("fact-version"), room.known ? String(room.seen) : "–");
  setText($("fact-token"), lock?.fencingToken !== undefined ? String(lock.fencingToken) : "–");
  document.title = `${where === "theirs" ? "🔒 " : where === "mine" ? "✎ " : ""}${appointmentId} · apptlock demo`;
  tick();
}

function tick() {
  const left = remaining(room, now());
  const fraction = fractionLeft(room, now());
  $("countdown").hidden = !room.lock;
  if (room.lock) setText($("countdown-time"), left > 0 ? clock(left) : "ending");
  $("countdown").classList.toggle("short", Boolean(room.lock) && fraction < SHORT);
  $("bar").style.transform = `scaleX(${fraction.toFixed(4)})`;
}

// ---- start --------------------------------------------------------------------------------------------------

function linkTo(port) {
  const url = new URL(location.href);
  if (port) url.port = String(port);
  return url.href;
}

setText($("title"), appointmentId);
$("second").href = linkTo();
// On one machine replicas listen on neighbouring ports: the first that answers is shown.
async function findOther() {
  const own = Number(location.port);
  for (const port of [own + 1, own - 1]) {
    const url = new URL("/api/openapi.json", linkTo(port));
    // Another origin, so the answer cannot be read; that there is one is enough.
    const answers = await fetch(url, { mode: "no-cors" }).then(() => true, () => false);
    if (!answers) continue;
    $("replica").href = linkTo(port);
    setText($("replica"), `at port ${port}`);
    $("replica-step").hidden = false;
    return;
  }
}
if (["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) && location.port) findOther();
setInterval(tick, 250);
draw();
link.open();
