// Owns the Socket.IO connection of one appointment: (re)subscribes on every connect, takes the snapshot from
// the acknowledgement, and hands every event on. Draws nothing.
import { io } from "./socket.io.esm.min.js";
import { infoOf } from "./api.js";

const EVENTS = ["lock-update", "lock-acquired", "lock-released", "admin-takeover", "lock-expiring", "cursor-update", "cursor-left"];
const ACK_TIMEOUT_MS = 5000;

/**
 * `handlers`: `state(name, detail)` with "connecting", "live", "reconnecting" or "refused"; `snapshot(ack)`;
 * `starting()` before each subscription; `event(name, payload)`.
 */
export function openLink(appointmentId, person, handlers) {
  const socket = io({
    // Called at every attempt, so that it sends the current name.
    auth: (give) => give({ userId: person().userId, userInfo: infoOf(person()) }),
    // WebSocket first: long-polling needs a sticky load balancer, WebSocket does not.
    transports: ["websocket", "polling"],
    // A balancer's cookie sends the polls of one session to one replica, on another origin too.
    withCredentials: true,
    tryAllTransports: true,
    reconnectionDelay: 500,
    reconnectionDelayMax: 5000,
    autoConnect: false,
  });
  let subscribed = false;
  let everLive = false;
  let retry = 0;

  const resume = (after) => {
    clearTimeout(retry);
    retry = setTimeout(() => socket.connect(), after);
  };

  async function subscribe() {
    const connection = socket.id;
    handlers.starting();
    let ack;
    try {
      ack = await socket.timeout(ACK_TIMEOUT_MS).emitWithAck("subscribe", appointmentId);
    } catch {
      ack = { success: false, message: "The server did not answer the subscription." };
    }
    // The connection of this answer may be closed by now; its successor subscribes for itself.
    if (socket.id !== connection || !socket.connected) return;
    if (!ack?.success) {
      handlers.state("refused", ack?.message ?? "The subscription was refused.");
      clearTimeout(retry);
      retry = setTimeout(() => socket.connected && subscribe(), 3000);
      return;
    }
    subscribed = true;
    everLive = true;
    handlers.state("live");
    handlers.snapshot(ack);
  }

  socket.on("connect", subscribe);
  socket.on("disconnect", (reason) => {
    subscribed = false;
    clearTimeout(retry);
    if (reason === "io client disconnect") return;
    handlers.state("reconnecting", reason);
    // After a disconnect by the server (a rolling restart) the library does not reconnect by itself. A random delay
    // keeps a room full of clients from all coming back in the same instant.
    if (reason === "io server disconnect") resume(300 + Math.random() * 1200);
  });
  socket.on("connect_error", (error) => {
    // `active` means that the library keeps retrying; otherwise the server rejected the connection.
    if (socket.active) {
      handlers.state(everLive ? "reconnecting" : "connecting", error.message);
    } else {
      handlers.state("refused", error.message);
      resume(3000);
    }
  });
  for (const name of EVENTS) socket.on(name, (payload) => payload?.appointmentId === appointmentId && handlers.event(name, payload));

  return {
    open() {
      handlers.state("connecting");
      socket.connect();
    },
    /** A new handshake, to be known by another name. */
    reopen() {
      clearTimeout(retry);
      socket.disconnect();
      handlers.state("connecting");
      socket.connect();
    },
    /** After the browser brought the page back from its cache. */
    wake() {
      if (!socket.connected) socket.connect();
    },
    /** A position that cannot go out now is worthless later: it is dropped, not queued. */
    cursor(position) {
      if (subscribed && socket.connected) socket.emit("cursor-position", { appointmentId, position });
    },
  };
}
