// A day at a glance: the sessions of one day on an axis of hours, as SVG. All positions are attributes, since the content
// security policy forbids inline styles.

import { call } from "./agent-api.js";
import { statusOf } from "./agent-rows.js";
import { clockOf, dayOf, inputs } from "./agent-time.js";
import { text } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HOUR = 3_600_000;
const PAGE = 200;
const MOST_PAGES = 5; // of a day with more sessions, only these are shown, with a note

const PLANNED = HOUR / 2; // the length of the bar of a session that has not begun, whose real length is unknown
const FIRST_HOUR = 8;
const LAST_HOUR = 18;

const TOP = 24; // pixels of the axis
const LANE = 34;
const MOST_LANES = 12;
const LONGEST_LABEL = 220;
const GAP = 10;

const ELLIPSIS = "…";

const pen = document.createElement("canvas").getContext("2d");
const fitted = new Map(); // a text and its font -> the text as it fits, and its width
const MOST_FITTED = 5000;

/** Return a text in at most `width` pixels, cut with an ellipsis, and how wide it is. */
function fit(words, font, width) {
  const key = `${font} ${width} ${words}`;
  let found = fitted.get(key);
  if (found) return found;
  pen.font = font;
  const wide = (one) => pen.measureText(one).width;
  found = { words, width: wide(words) };
  if (found.width > width) {
    const characters = [...words];
    let [low, high] = [0, characters.length];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (wide(characters.slice(0, middle).join("") + ELLIPSIS) <= width) low = middle;
      else high = middle - 1;
    }
    const cut = characters.slice(0, low).join("").trimEnd() + ELLIPSIS;
    found = { words: cut, width: wide(cut) };
  }
  if (fitted.size > MOST_FITTED) fitted.clear();
  fitted.set(key, found);
  return found;
}

/** Return an SVG element with attributes. */
function shape(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  set(made, attributes);
  return made;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

/** Return the times at which the bar of a session begins and ends. */
function spanOf(session, now) {
  const at = (iso) => (iso ? Date.parse(iso) : null);
  const start = at(session.startTime);
  const opened = at(session.openedAt);
  if (session.status === "scheduled") return [start, start + PLANNED];
  if (session.status === "closed") {
    const from = opened ?? start ?? at(session.createdAt);
    return [from, opened ? Math.max(at(session.closedAt), from) : from + PLANNED];
  }
  const from = opened ?? at(session.createdAt);
  return [from, Math.max(now, from, session.status === "new" && start > now ? start + PLANNED : 0)];
}

export class Timeline {
  #sessions;
  #failed;
  #rows = new Map();
  #day = new Date();
  #isToday = true;
  #isPartial = false;
  #showsAll = false;
  #reading = 0;
  #items = new Map();
  #root = document.getElementById("day");
  #svg = document.getElementById("day-chart");
  #date = document.getElementById("day-date");
  #observer = new ResizeObserver(() => this.render());
  #timer;
  #chosen = null; // the id of the session that the Tab key reaches

  /** `open(id)` is called to show a session, `failed(failure)` if a read failed. */
  constructor(sessions, { open, failed }) {
    this.#sessions = sessions;
    this.#failed = failed;
    this.#observer.observe(this.#svg);
    this.#svg.addEventListener("click", ({ target }) => {
      const item = target.closest("[data-id]");
      if (item) open(item.dataset.id);
    });
    this.#svg.addEventListener("keydown", (event) => this.#press(event, open));
    this.#svg.addEventListener("focusin", ({ target }) => {
      if (target.dataset.id) this.#choose(target.dataset.id);
    });
    this.#date.addEventListener("change", () => this.#date.value && this.go(this.#date.value));
    // Move the line of the present, and change to the new day at midnight.
    this.#timer = setInterval(() => {
      if (this.#isToday && new Date().toDateString() !== this.#day.toDateString()) this.today();
      else this.render();
    }, 30_000);
  }

  get(id) {
    return this.#rows.get(id);
  }

  /** Forget the sessions of the day for good. What is still being read is dropped. */
  close() {
    this.#reading += 1;
    this.#rows.clear();
    this.#items.clear();
    this.#observer.disconnect();
    clearInterval(this.#timer);
  }

  /** Show today, and follow the day at midnight. */
  today() {
    return this.#show(new Date());
  }

  /** Show the day of a date as an input has it. */
  go(date) {
    const [year, month, day] = date.split("-").map(Number);
    return this.#show(new Date(year, month - 1, day));
  }

  /** Show the next day, or the one before. */
  step(days) {
    return this.#show(new Date(this.#day.getFullYear(), this.#day.getMonth(), this.#day.getDate() + days));
  }

  #show(day) {
    if (Number.isNaN(day.getTime())) return;
    this.#day = day;
    this.#isToday = day.toDateString() === new Date().toDateString();
    this.#rows = new Map();
    this.#showsAll = false;
    return this.load();
  }

  #bounds() {
    const [year, month, day] = [this.#day.getFullYear(), this.#day.getMonth(), this.#day.getDate()];
    return [new Date(year, month, day).getTime(), new Date(year, month, day + 1).getTime()];
  }

  /** Read the sessions of the day. */
  async load() {
    const reading = ++this.#reading;
    const [from, to] = this.#bounds();
    this.render();
    try {
      const scheduled = await this.#pages({
        status: ["scheduled", "new", "active", "closed"], startFrom: new Date(from).toISOString(),
        startTo: new Date(to).toISOString(), orderby: "startTime", orderdir: "ASC",
      });
      // Those that began at once have no start; they are found by the time of their creation, the newest first.
      const until = new Date(from - 24 * HOUR).toISOString();
      const others = await this.#pages({ status: ["closed"] }, (row) => row.createdAt < until);
      if (reading !== this.#reading) return;
      this.#rows = new Map([...scheduled.rows, ...others.rows].map((row) => [row.id, row]));
      this.#isPartial = scheduled.isPartial || others.isPartial;
    } catch (failure) {
      if (reading === this.#reading) this.#failed(failure);
    }
    this.render();
  }

  async #pages(parameters, isPast = () => false) {
    const rows = [];
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const answer = await call("GET", "supportsessions", {
        parameters: { ...parameters, scope: this.#sessions.scope, limit: PAGE, offset: rows.length },
      });
      rows.push(...answer.rows);
      if (rows.length >= answer.count || !answer.rows.length || isPast(rows.at(-1))) return { rows, isPartial: false };
    }
    return { rows, isPartial: true };
  }

  /** Return what is drawn, in the order of time. */
  #drawn(now) {
    const [from, to] = this.#bounds();
    const all = new Map(this.#rows);
    for (const session of this.#sessions.all()) all.set(session.id, session);
    return [...all.values()]
      .filter(({ id }) => !this.#sessions.isGone(id))
      .map((session) => ({ session, span: spanOf(session, now) }))
      .filter(({ span: [start, end] }) => start < to && end > from)
      .sort((one, two) => one.span[0] - two.span[0] || one.session.id.localeCompare(two.session.id));
  }

  render() {
    const width = this.#svg.clientWidth;
    if (!width) return;
    const now = Date.now();
    const [from, to] = this.#bounds();
    const drawn = this.#drawn(now);
    const isNow = now >= from && now < to;
    const { date } = inputs(from);
    if (this.#date.value !== date && document.activeElement !== this.#date) this.#date.value = date;
    document.getElementById("day-name").textContent = dayOf(from);
    document.getElementById("day-empty").hidden = drawn.length > 0;
    document.getElementById("day-partial").hidden = !this.#isPartial;
    this.#svg.setAttribute("aria-label", text("timeline", { day: dayOf(from) }));

    // The axis: office hours, and as much more as the sessions need.
    const starts = drawn.map(({ span }) => Math.max(span[0], from));
    const ends = drawn.map(({ span }) => Math.min(span[1], to));
    const present = isNow ? [now] : [];
    const first = Math.min(from + FIRST_HOUR * HOUR, ...starts, ...present);
    const last = Math.max(from + LAST_HOUR * HOUR, ...ends, ...present);
    const left = from + Math.floor((first - from) / HOUR) * HOUR;
    const right = Math.min(to, from + Math.ceil((last - from) / HOUR) * HOUR);
    const x = (at) => ((Math.min(Math.max(at, left), right) - left) / (right - left)) * width;

    const lanes = this.#arrange(drawn, x, width);
    const shown = this.#showsAll ? lanes : Math.min(lanes, MOST_LANES);
    const height = TOP + Math.max(shown, 1) * LANE + 6;
    set(this.#svg, { height });
    this.#drawAxis(left, right, x, height, width);
    this.#drawItems(drawn.filter(({ lane }) => lane < shown), x);
    set(document.getElementById("day-now"), { x1: x(now), x2: x(now), y1: TOP - 6, y2: height, visibility: isNow ? "visible" : "hidden" });
    const hidden = drawn.filter(({ lane }) => lane >= shown).length;
    const more = document.getElementById("day-more");
    more.hidden = !hidden && !this.#showsAll;
    more.textContent = hidden ? text("timeline_more", { count: hidden }) : text("timeline_less");
    more.setAttribute("aria-expanded", String(this.#showsAll));
  }

  /** Show all lanes, or only the first ones. */
  toggle() {
    this.#showsAll = !this.#showsAll;
    this.render();
  }

  /** Give each session the first lane in which its bar and its label have room; return the number of lanes. */
  #arrange(drawn, x, width) {
    const ends = [];
    const { fontSize, fontFamily } = getComputedStyle(this.#svg);
    for (const item of drawn) {
      const weight = item.session.status === "active" ? 600 : 400;
      const most = Math.min(LONGEST_LABEL, width) - GAP;
      const { words, width: wide } = fit(`${clockOf(item.span[0])} ${item.session.label}`, `${weight} ${fontSize} ${fontFamily}`, most);
      const label = wide + GAP;
      const [start, end] = [x(item.span[0]), x(item.span[1])];
      item.words = words;
      item.length = label;
      item.at = Math.max(0, Math.min(start, width - label)); // a label at the right edge begins before its bar
      const place = Math.min(start, item.at);
      let lane = ends.findIndex((one) => one <= place);
      if (lane < 0) lane = ends.length;
      ends[lane] = Math.max(end, item.at + label) + GAP;
      item.lane = lane;
    }
    return ends.length;
  }

  #drawAxis(left, right, x, height, width) {
    const axis = document.getElementById("day-axis");
    const hours = Math.round((right - left) / HOUR);
    const every = [1, 2, 3, 4, 6, 12].find((count) => (width / hours) * count >= 52) ?? 24;
    const made = [];
    for (let hour = 0; hour <= hours; hour += 1) {
      const at = left + hour * HOUR;
      made.push(shape("line", { x1: x(at), x2: x(at), y1: TOP - 6, y2: height, class: "hour" }));
      if (hour % every || hour === hours) continue;
      const label = shape("text", { x: x(at) + 3, y: TOP - 10, class: "clock" });
      label.textContent = clockOf(at);
      made.push(label);
    }
    axis.replaceChildren(...made);
  }

  #drawItems(drawn, x) {
    const parent = document.getElementById("day-items");
    const ids = new Set(drawn.map(({ session }) => session.id));
    const focused = document.activeElement?.closest?.("#day-items [data-id]");
    for (const [id, item] of this.#items) {
      if (ids.has(id)) continue;
      item.remove();
      this.#items.delete(id);
    }
    drawn.forEach((each, index) => {
      const { session, span } = each;
      let item = this.#items.get(session.id);
      if (!item) {
        item = shape("g", { class: "item", role: "button", tabindex: -1, "data-id": session.id });
        const clip = shape("svg", { height: 20, class: "label" });
        clip.append(shape("text", { x: 2, y: 14 }));
        item.append(shape("rect", { class: "ring", rx: 5, height: LANE - 4 }), clip, shape("rect", { class: "bar", height: 7, rx: 3.5 }));
        this.#items.set(session.id, item);
      }
      const [ring, clip, bar] = item.children;
      const y = TOP + each.lane * LANE;
      const [start, end] = [x(span[0]), x(span[1])];
      const size = Math.max(end - start, 7);
      set(item, {
        "data-status": session.status,
        "aria-label": text("timeline_item", {
          label: session.label, status: statusOf(session), from: clockOf(span[0]), to: session.status === "closed" ? clockOf(span[1]) : "…",
        }),
      });
      set(clip, { x: each.at, y: y + 2, width: each.length });
      if (clip.firstChild.textContent !== each.words) clip.firstChild.textContent = each.words;
      set(bar, { x: start, y: y + 22, width: size });
      const from = Math.min(start, each.at);
      set(ring, { x: from, y, width: Math.max(start + size, each.at + each.length) - from });
      if (parent.children[index] !== item) parent.insertBefore(item, parent.children[index] ?? null);
    });
    if (focused && document.activeElement !== focused) {
      if (focused.isConnected) focused.focus();
      else this.#svg.querySelector("[data-id]")?.focus();
    }
    if (!ids.has(this.#chosen)) this.#chosen = drawn.find(({ span }) => span[1] >= Date.now())?.session.id ?? drawn.at(-1)?.session.id ?? null;
    this.#choose(this.#chosen);
  }

  #choose(id) {
    this.#chosen = id;
    for (const [each, item] of this.#items) set(item, { tabindex: each === id ? 0 : -1 });
  }

  /** Move the focus to the timeline. */
  focus() {
    this.#root.scrollIntoView({ block: "nearest" });
    (this.#items.get(this.#chosen) ?? document.getElementById("day-heading")).focus();
  }

  #press(event, open) {
    const item = event.target.closest("[data-id]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const items = [...document.getElementById("day-items").children];
    const at = items.indexOf(item);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items[Math.max(0, Math.min(items.length - 1, to))].focus();
    else if (event.key === "Enter" || event.key === " ") open(item.dataset.id);
    else return;
    event.preventDefault();
  }
}
