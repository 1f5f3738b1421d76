// Owns the display of the lock and of the people: everything is redrawn from the state that main.js keeps.
import { colourOf, initialsOf } from "./identity.js";
import { clock, fractionLeft, remaining, standing } from "./lease.js";

// Below this fraction the page asks for attention; the server's own warning comes at the same point.
const SHORT = 0.2;
const LINK_TEXT = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", refused: "Refused" };

export const $ = (id) => document.getElementById(id);
export const now = () => performance.now();
export const nameOf = (lock) => lock?.userInfo?.name || lock?.userId || "Somebody";
export const timeOf = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

/** Writes only what changed: a live region repeats itself to a screen reader at every write. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function paintAvatar(element, userId, name) {
  element.style.setProperty("--who", colourOf(userId));
  setText(element, initialsOf(name));
}

const isShort = (room) => Boolean(room.lock) && fractionLeft(room, now()) < SHORT;

function words(where, { room, linkState, linkDetail }) {
  const holder = nameOf(room.lock);
  switch (where) {
    case "free": return ["Free to edit", "Press Edit to take the lock."];
    case "mine": return ["You are editing", "Yours for as long as you are active."];
    case "theirs": return [`${holder} is editing`, room.lock.away
      ? "Their connection is gone. The lock ends soon."
      : isShort(room) ? "Their lock ends soon unless they go on." : "You see the text as it is saved."];
    default: return linkState === "refused" ? ["Not connected", linkDetail] : ["Looking it up", "Asking who is editing."];
  }
}

/** `page`: `{ appointmentId, me, room, linkState, linkDetail, busy }`. */
export function draw(page) {
  const { me, room, linkState, linkDetail, busy } = page;
  const where = standing(room, me.userId);
  const focused = document.activeElement;
  $("card").dataset.standing = where;
  $("card").classList.toggle("adrift", room.known && linkState !== "live");

  setText($("me-name"), me.name);
  paintAvatar($("me-avatar"), me.userId, me.name);

  $("link-state").dataset.state = linkState;
  setText($("link-text"), LINK_TEXT[linkState]);
  $("link-state").title = linkDetail;

  const lock = room.lock;
  const holderId = lock?.userId ?? "";
  $("card").style.setProperty("--holder", lock ? colourOf(holderId) : "transparent");
  $("holder-avatar").classList.toggle("empty", !lock);
  if (lock) paintAvatar($("holder-avatar"), holderId, nameOf(lock));
  else setText($("holder-avatar"), "");

  $("edit").hidden = where === "mine";
  $("edit").disabled = where === "unknown";
  $("edit").classList.toggle("primary", where !== "theirs");
  $("done").hidden = $("cancel").hidden = where !== "mine";
  $("take-over").disabled = where !== "theirs";
  $("force-release").disabled = !lock;
  // A button that is disabled for a moment would lose the keyboard's focus permanently.
  for (const id of ["edit", "done", "cancel", "keep", "take-over", "force-release", "old-save"]) {
    $(id).setAttribute("aria-disabled", String(busy));
  }

  setText($("fact-holder"), lock ? nameOf(lock) + (where === "mine" ? " (you)" : "") : "nobody");
  setText($("fact-since"), lock?.createdAt ? timeOf(lock.createdAt) : "–");
  setText($("fact-version"), room.known ? String(room.seen) : "–");
  setText($("fact-token"), lock?.fencingToken !== undefined ? String(lock.fencingToken) : "–");
  document.title = `${where === "theirs" ? "🔒 " : where === "mine" ? "✎ " : ""}${page.appointmentId} · apptlock demo`;
  tick(page);
  // The focus on a button that was removed moves to its replacement.
  if (focused?.closest?.("[hidden]")) $(where === "mine" ? "done" : "edit").focus({ preventScroll: true });
}

/** What changes with the time alone. */
export function tick(page) {
  const { me, room } = page;
  const where = standing(room, me.userId);
  const [title, sub] = words(where, page);
  setText($("banner-title"), title);
  setText($("banner-sub"), room.known && page.linkState !== "live" ? "Offline. This is the last known state." : sub);

  const left = remaining(room, now());
  $("countdown").hidden = !room.lock;
  if (room.lock) setText($("countdown-time"), left > 0 ? clock(left) : "ending");
  $("countdown").classList.toggle("short", isShort(room));
  $("bar").style.transform = `scaleX(${fractionLeft(room, now()).toFixed(4)})`;

  const warn = where === "mine" && isShort(room);
  $("expiring").hidden = !warn;
  // Announced once: the time itself is in the countdown.
  setText($("expiring-text"), warn ? "Your lock ends soon unless you go on." : "");
}
