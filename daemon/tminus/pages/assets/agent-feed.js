// The stream of events: one request after another, each from where the last one ended.

import { address, request } from "./agent-api.js";
import { parse } from "./foreign-text.js";

const FIRST_PAUSE = 0.4;
const LONGEST_PAUSE = 10;

// The server sends a comment every 15 s. A connection on which nothing arrives for longer is dead.
const SILENCE = 25;

// After this many seconds without a connection, reading the lists again costs less than all events since then.
const LONG_GONE = 120;

// A hidden page closes its connection after this many seconds: browsers allow six for all tabs together.
const HIDDEN_FOR = 10;

/** The events of the caller's sessions (`mine`) or of all (`all`), until `close`.
 *
 * `handlers`:
 * `connected(fresh)` – the stream is open. `fresh`: events before it are missing, so read everything again.
 * `heard(event)` – an event.
 * `lost(retryAt)` – the connection is lost; the next attempt is at `retryAt`.
 * `ended(failure)` – the server refuses the stream for good.
 */
export class Feed {
  retryAt = 0;
  #scope;
  #handlers;
  #after = "now";
  #lastHeard = 0;
  #failures = 0;
  #timer = 0;
  #hiding = 0;
  #silence = 0;
  #abort = null;
  #isResting = false;
  #isOver = false;

  constructor(scope, handlers) {
    this.#scope = scope;
    this.#handlers = handlers;
    addEventListener("online", this.#wake);
    addEventListener("pageshow", this.#wake);
    document.addEventListener("visibilitychange", this.#visible);
    this.#run();
  }

  /** Connect now instead of at `retryAt`. */
  retry() {
    if (!this.#isOver && !this.#abort) this.#run();
  }

  /** End the stream for good. */
  close() {
    this.#isOver = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#hiding);
    clearTimeout(this.#silence);
    removeEventListener("online", this.#wake);
    removeEventListener("pageshow", this.#wake);
    document.removeEventListener("visibilitychange", this.#visible);
    this.#abort?.abort();
  }

  // Fields, since listeners are removed by identity.
  #wake = () => this.retry();

  #visible = () => {
    clearTimeout(this.#hiding);
    if (document.visibilityState === "visible") {
      this.#isResting = false;
      return this.retry();
    }
    this.#hiding = setTimeout(() => {
      this.#isResting = true;
      this.#abort?.abort();
    }, HIDDEN_FOR * 1000);
  };

  async #run() {
    clearTimeout(this.#timer);
    const abort = (this.#abort = new AbortController());
    if (Date.now() - this.#lastHeard > LONG_GONE * 1000) this.#after = "now";
    const fresh = this.#after === "now";
    this.#listen(abort);
    try {
      const url = address("events", { scope: this.#scope, after: fresh ? "now" : undefined });
      const headers = { Accept: "text/event-stream", ...(!fresh && { "Last-Event-ID": this.#after }) };
      const response = await request("GET", url, { headers, signal: abort.signal });
      if (!response.headers.get("content-type")?.startsWith("text/event-stream")) throw new Error("not a stream");
      this.#failures = 0;
      this.#handlers.connected(fresh);
      await this.#read(response.body.pipeThrough(new TextDecoderStream()).getReader(), abort);
    } catch (failure) {
      const isFinal = failure.kind === "ended" || failure.status === 403;
      if (isFinal && !this.#isOver) {
        this.close();
        return this.#handlers.ended(failure);
      }
    }
    clearTimeout(this.#silence);
    this.#abort = null;
    if (!this.#isOver && !this.#isResting) this.#wait();
  }

  /** Drop the connection if nothing arrives. */
  #listen(abort) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => abort.abort(), SILENCE * 1000);
  }

  async #read(reader, abort) {
    let text = "";
    while (true) {
      const { value, done } = await reader.read();
      if (done || abort.signal.aborted) return;
      this.#lastHeard = Date.now();
      this.#listen(abort);
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      parts.forEach((part) => this.#take(part));
    }
  }

  #take(part) {
    const field = (name) => part.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
    const data = field("data");
    if (data !== undefined) this.#handlers.heard(parse(data));
    // Only after `heard`: if that fails, the server sends the event again.
    this.#after = field("id") ?? this.#after;
  }

  #wait() {
    // A random part, so that all pages that a restart disconnects do not come back at once.
    const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures) * (0.75 + Math.random() / 2);
    this.#failures += 1;
    this.retryAt = Date.now() + pause * 1000;
    this.#timer = setTimeout(() => this.#run(), pause * 1000);
    this.#handlers.lost(this.retryAt);
  }
}
