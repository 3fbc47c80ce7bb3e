// The connection to a room: one WebSocket after another, until the visit is over.

import { parse } from "./foreign-text.js";

const SUBPROTOCOL = "tminus.room.v1";
const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 15;
const CROWDED_PAUSE = 5;
const LONGEST_CROWDED_PAUSE = 60;

const INTERNAL_ERROR = 1011; // the close code of an internal error of the server
const MOST_INTERNAL_ERRORS = 3; // errors in a row after which the room stops reconnecting

// A socket stays open for minutes after its network has failed. Seconds between two requests that detect this, and their
// time limit.
const PROBE_EVERY = 15;
const PROBE_FOR = 8;

/** A room. It reconnects automatically, after longer and longer pauses, until `leave` or a final answer.
 *
 * `handlers`:
 * `opened()` – a connection is open; send the first message.
 * `heard(message)` – a message of the server.
 * `ended(code)` – the server has ended the visit, with a code from 4400 to 4499, or failed again and again with 1011.
 * Returns true to try again later.
 * `lost(crowded)` – the connection is lost; the room tries again at `retryAt`. `crowded`: `ended` has returned true.
 */
export class Room {
  retryAt = 0;
  #url;
  #handlers;
  #socket = null;
  #failures = 0;
  #internalErrors = 0;
  #timer = 0;
  #probe = 0;
  #over = false;

  constructor(id, handlers) {
    this.#url = new URL(`v3/rooms/${encodeURIComponent(id)}`, location.href);
    this.#url.protocol = this.#url.protocol === "https:" ? "wss:" : "ws:";
    this.#handlers = handlers;
    addEventListener("online", this.#online);
    addEventListener("pageshow", this.#online);
    document.addEventListener("visibilitychange", this.#online);
    this.#connect();
  }

  /** Whether messages can be sent now. */
  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Send a message; return whether the connection is open. */
  send(message) {
    if (!this.open) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Connect now instead of at `retryAt`. */
  retry() {
    if (!this.#over && !this.#socket) this.#connect();
  }

  /** Send `leave`, and close the connection for good. */
  leave() {
    const socket = this.#socket;
    this.send({ type: "leave" });
    this.#finish();
    // The server closes after `leave`. This closes the connection if the server does not.
    setTimeout(() => socket?.close(1000), 500);
  }

  /** Close the connection for good, without `leave`. */
  close() {
    const socket = this.#socket;
    this.#finish();
    socket?.close(1000);
  }

  #finish() {
    this.#over = true;
    this.#detach();
    clearTimeout(this.#timer);
    removeEventListener("online", this.#online);
    removeEventListener("pageshow", this.#online);
    document.removeEventListener("visibilitychange", this.#online);
  }

  // A field, since listeners are removed by identity.
  #online = () => {
    if (document.visibilityState === "visible") this.retry();
  };

  #connect() {
    clearTimeout(this.#timer);
    let socket;
    try {
      socket = new WebSocket(this.#url, SUBPROTOCOL);
    } catch {
      return this.#wait(false);
    }
    this.#socket = socket;
    socket.onopen = () => {
      this.#probe = setInterval(() => this.#check(socket), PROBE_EVERY * 1000);
      this.#handlers.opened();
    };
    socket.onmessage = ({ data }) => {
      let message;
      try {
        message = parse(data);
      } catch {
        return;
      }
      if (message?.type !== "error") this.#failures = 0;
      this.#handlers.heard(message);
    };
    socket.onclose = ({ code }) => {
      this.#detach();
      this.#internalErrors = code === INTERNAL_ERROR ? this.#internalErrors + 1 : 0;
      const isFinal = (code >= 4400 && code <= 4499) || this.#internalErrors === MOST_INTERNAL_ERRORS;
      if (!isFinal) return this.#wait(false);
      if (this.#handlers.ended(code)) return this.#wait(true);
      this.#finish();
    };
  }

  /** Forget the socket, and ignore what it reports later. */
  #detach() {
    clearInterval(this.#probe);
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = null;
  }

  #wait(crowded) {
    if (this.#over) return;
    const [first, longest] = crowded ? [CROWDED_PAUSE, LONGEST_CROWDED_PAUSE] : [FIRST_PAUSE, LONGEST_PAUSE];
    // A random part, so that everybody who was disconnected at once does not come back at once.
    const pause = Math.min(longest, first * 2 ** this.#failures) * (0.75 + Math.random() / 2);
    this.#failures += 1;
    this.retryAt = Date.now() + pause * 1000;
    this.#timer = setTimeout(() => this.#connect(), pause * 1000);
    this.#handlers.lost(crowded);
  }

  /** Drop a connection on which nothing arrives any more, which a browser does not notice itself. */
  async #check(socket) {
    try {
      await fetch(new URL("healthz", location.href), {
        cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(PROBE_FOR * 1000),
      });
    } catch {
      if (socket !== this.#socket) return;
      this.#detach();
      socket.close();
      this.#wait(false);
    }
  }
}
