// The sessions that the page has read: three lists, in the order in which they are shown.

import { call } from "./agent-api.js";

const PAGE = 200;
const PAST_PAGE = 50;

// How many sessions that changed at the same moment are read one by one; for more, the lists are read again.
const ONE_BY_ONE = 8;

const LISTS = {
  open: { status: ["new", "active"], orderby: "createdAt", orderdir: "DESC", limit: PAGE },
  coming: { status: ["scheduled"], orderby: "startTime", orderdir: "ASC", limit: PAGE },
  past: { status: ["closed"], orderby: "updatedAt", orderdir: "DESC", limit: PAST_PAGE },
};

const ORDER = {
  open: (one, two) =>
    Number(two.status === "active") - Number(one.status === "active") || two.createdAt.localeCompare(one.createdAt),
  coming: (one, two) => one.startTime.localeCompare(two.startTime) || one.id.localeCompare(two.id),
  past: (one, two) => two.closedAt.localeCompare(one.closedAt),
};

export const NAMES = Object.keys(LISTS);

/** Return the name of the list to which a session belongs. */
export function listOf({ status }) {
  return status === "closed" ? "past" : status === "scheduled" ? "coming" : "open";
}

/** The sessions of the caller, or of everybody. `changed()` is called after each change, `failed(failure)` if a read fails. */
export class Sessions {
  scope = "mine";
  #known = new Map();
  #counts = { open: 0, coming: 0, past: 0 };
  #pages = { open: 1, coming: 1, past: 1 };
  #gone = new Set();
  #taken = new Map(); // id -> the number of the read of the lists that had begun when the session was taken
  #dirty = new Set();
  #timer = 0;
  #reading = 0; // the number of the latest read of the lists; an older one that arrives late is dropped
  #changed;
  #failed;

  constructor(changed, failed) {
    this.#changed = changed;
    this.#failed = failed;
  }

  get(id) {
    return this.#known.get(id);
  }

  /** Forget all sessions for good. What is still being read is dropped. */
  close() {
    this.#reading += 1;
    this.#known.clear();
    clearTimeout(this.#timer);
    this.#changed = () => this.#known.clear();
  }

  all() {
    return [...this.#known.values()];
  }

  /** Return the rows of a list in order. */
  rows(name) {
    return this.all().filter((one) => listOf(one) === name).sort(ORDER[name]);
  }

  /** Return how many sessions a list has on the server. */
  count(name) {
    return Math.max(this.#counts[name], this.rows(name).length);
  }

  /** Read all lists again, as far as they were read before. Sessions that are gone disappear. */
  async load() {
    const reading = ++this.#reading;
    const scope = this.scope;
    let found;
    try {
      found = await Promise.all(NAMES.map((name) => this.#readList(name, scope)));
    } catch (failure) {
      if (reading === this.#reading) this.#failed(failure);
      return false;
    }
    if (reading !== this.#reading) return false;
    const before = this.#known;
    this.#known = new Map();
    found.forEach(({ count, rows }, index) => {
      this.#counts[NAMES[index]] = count;
      for (const row of rows) {
        // A session that changed between the reads of two lists is in both: the newer one counts.
        const other = this.#known.get(row.id);
        if (!this.#gone.has(row.id) && (!other || other.version < row.version)) this.#known.set(row.id, row);
      }
    });
    // An answer to a call of this page may be newer than the lists, which may not even have its session yet.
    for (const [id, row] of before) {
      const other = this.#known.get(id);
      if (other ? row.version > other.version : this.#taken.get(id) >= reading) this.#known.set(id, row);
    }
    for (const [id, number] of this.#taken) if (number < reading) this.#taken.delete(id);
    this.#changed();
    return true;
  }

  async #readList(name, scope) {
    const rows = [];
    let count = 0;
    for (let page = 0; page < this.#pages[name]; page += 1) {
      const answer = await call("GET", "supportsessions", { parameters: { ...LISTS[name], scope, offset: rows.length } });
      rows.push(...answer.rows);
      count = answer.count;
      if (rows.length >= count || !answer.rows.length) break;
    }
    return { count, rows };
  }

  /** Read one more page of a list. */
  more(name) {
    this.#pages[name] += 1;
    return this.load();
  }

  /** Take a session as an answer of the API shows it. */
  take(session) {
    const before = this.#known.get(session.id);
    if (before && before.version > session.version) return;
    this.#taken.set(session.id, this.#reading);
    if (before) this.#counts[listOf(before)] -= 1;
    this.#counts[listOf(session)] += 1;
    this.#known.set(session.id, session);
    this.#changed();
  }

  /** Return whether a session turned out not to exist any more. */
  isGone(id) {
    return this.#gone.has(id);
  }

  /** Forget a session that does not exist any more. */
  forget(id) {
    this.#gone.add(id);
    const before = this.#known.get(id);
    if (!before) return;
    this.#counts[listOf(before)] -= 1;
    this.#known.delete(id);
    this.#changed();
  }

  /** Read a session again soon, because an event has named it. */
  touch(id) {
    this.#dirty.add(id);
    // The first event starts the timer; the later ones of a burst wait for the same read.
    this.#timer ||= setTimeout(() => this.#refresh(), 100);
  }

  async #refresh() {
    const ids = [...this.#dirty];
    this.#dirty.clear();
    // A session that the page has not read may leave any list, so only the server has the new counts.
    const isUncounted = NAMES.some((name) => this.count(name) > this.rows(name).length) && ids.some((id) => !this.#known.has(id));
    if (ids.length > ONE_BY_ONE || isUncounted) await this.load();
    else await Promise.all(ids.map((id) => this.read(id)));
    this.#timer = this.#dirty.size ? setTimeout(() => this.#refresh(), 100) : 0;
  }

  /** Read one session, and return it; null if it does not exist, or the caller may not see it. */
  async read(id) {
    try {
      const session = await call("GET", `supportsession/${encodeURIComponent(id)}`);
      this.take(session);
      return this.#known.get(id);
    } catch (failure) {
      if (failure.status === 404 || failure.status === 403) this.forget(id);
      else this.#failed(failure);
      return null;
    }
  }
}
