// The page on which agents keep their sessions. It uses the public API and nothing else.

import { Failure, call } from "./agent-api.js";
import { Feed } from "./agent-feed.js";
import { errorText } from "./agent-errors.js";
import { CreateForm, MoveForm } from "./agent-forms.js";
import { pinOf, point, reasonOf, recordOf, settingsOf, showRows, statusOf, typeOf } from "./agent-rows.js";
import { giveKeys, hostLink } from "./host-key.js";
import { lookUp, matches, searchTexts, wordsOf } from "./agent-search.js";
import { NAMES, Sessions, listOf } from "./agent-sessions.js";
import { full } from "./agent-time.js";
import { Timeline } from "./agent-timeline.js";
import { announce, ask, banner, fill, one } from "./view.js";
import { duration, text } from "./words.js";

// Events keep the lists current. This is for changes without an event, such as sessions that retention has removed.
const READ_AGAIN_EVERY = 5 * 60_000;
const SEARCH_AFTER = 500;
const ANNOUNCED = { "session.ready": "news_ready", "session.active": "news_active", "session.closed": "news_closed" };

const detail = document.getElementById("detail");
const searchInput = document.getElementById("search");

let me = null;
let feed = null;
let hasRead = false;
let shown = null; // the id of the session in the dialog
let search = null; // {words, rows, next, note}
let searching = 0;
let typing = 0; // the timer that searches after a pause
let isOver = false; // whether the agent is no longer signed in

const sessions = new Sessions(render, failed);
const timeline = new Timeline(sessions, { open: openDetail, failed });
const createForm = new CreateForm((session) => done(session, "created"), failed);
const moveForm = new MoveForm((session) => done(session, "moved"), failed);

// --- Start, and the connection -----------------------------------------------------------------------------------------

async function start() {
  try {
    me = await call("GET", "me");
    if (!me.user || !me.roles) throw new Failure("lost"); // something between the page and the daemon answers
  } catch (failure) {
    failed(failure);
    if (failure.kind !== "ended") setTimeout(start, 3000);
    return;
  }
  banner("notice", "", "notice");
  fill("agent", me.user.name);
  const { agent, supervisor, group_admin: admin } = me.roles;
  document.getElementById("scope").hidden = !(supervisor || admin);
  if (!agent && !admin) {
    if (!supervisor) {
      document.getElementById("reading").hidden = true;
      one(".tools").hidden = true;
      return banner("notice", text("no_rights"), "notice");
    }
    sessions.scope = "all";
    document.getElementById("scope").hidden = true;
  }
  follow();
  if (agent || admin) {
    document.getElementById("new").hidden = false;
    createForm.allow(me.products, me.user.id);
  } else createForm.drop();
}

/** Read everything, and keep it current. */
function follow() {
  feed?.close();
  const current = (feed = new Feed(sessions.scope, {
    connected(fresh) {
      if (!document.getElementById("lost").hidden) announce(text("back"));
      banner("lost", "", "retry");
      if (fresh || !hasRead) read();
      if (fresh && search) find(search.words, false);
    },
    heard(event) {
      if (sessions.get(event.id) && ANNOUNCED[event.type] && document.visibilityState === "visible") {
        announce(text(ANNOUNCED[event.type], { label: event.label }));
      }
      sessions.touch(event.id);
      if (search?.rows.has(event.id)) refreshFound(event.id);
    },
    lost() {
      showLost();
    },
    ended(failure) {
      failed(failure);
    },
  }));
  // Read the lists even if a proxy holds the stream back.
  setTimeout(() => current === feed && !hasRead && read(), 1500);
}

async function read() {
  if (!(await sessions.load()) || isOver) return;
  hasRead = true;
  timeline.load();
  document.getElementById("reading").hidden = true;
  document.getElementById("lists").hidden = Boolean(search);
}

function showLost() {
  if (!feed || !feed.retryAt || isOver) return;
  const seconds = Math.max(0, Math.ceil((feed.retryAt - Date.now()) / 1000));
  banner("lost", seconds ? text("lost_wait", { time: duration(seconds) }) : text("lost_now"), "retry");
}

/** Show why something failed. The end of the agent session replaces the whole page, since only a new sign-in helps. */
function failed(failure) {
  if (isOver) return;
  if (failure.kind === "ended") return end();
  if (failure.kind === "lost" && !document.getElementById("lost").hidden) return;
  banner("notice", errorText(failure), "notice");
}

/** Show only that the agent is no longer signed in, since the next person at this screen may be somebody else. */
function end() {
  isOver = true;
  feed?.close();
  sessions.close();
  timeline.close();
  endSearch();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close("no");
  const ended = document.getElementById("ended");
  for (const part of document.querySelectorAll("main > :not(h1, #ended), header button")) part.remove();
  fill("agent", "");
  document.getElementById("announcement").textContent = "";
  ended.hidden = false;
  one("button", ended).focus();
}

// A browser may show a page again from its cache, even after a sign-out.
addEventListener("pageshow", ({ persisted }) => {
  if (!persisted) return;
  document.documentElement.hidden = true;
  location.reload();
});

setInterval(() => {
  if (!isOver && !document.getElementById("lost").hidden) showLost();
}, 1000);
setInterval(() => {
  if (hasRead && document.visibilityState === "visible" && !isOver) read();
}, READ_AGAIN_EVERY);

// --- Lists -------------------------------------------------------------------------------------------------------------

function render() {
  if (isOver) return;
  const showsHost = sessions.scope === "all";
  for (const name of NAMES) {
    const rows = sessions.rows(name);
    showRows(one(`[data-rows="${name}"]`), rows, showsHost, hasRead);
    for (const field of document.querySelectorAll(`[data-count="${name}"]`)) field.textContent = String(sessions.count(name));
    one(`[data-empty="${name}"]`).hidden = rows.length > 0;
    one(`[data-more="${name}"]`).hidden = sessions.count(name) <= rows.length;
  }
  if (search) renderFound();
  if (detail.open) showDetail();
  timeline.render();
}

/** Return the session with this id, from the lists, what was found, or the day that is shown. */
const known = (id) => sessions.get(id) ?? search?.rows.get(id) ?? timeline.get(id);

// --- Search ------------------------------------------------------------------------------------------------------------

function renderFound() {
  const local = sessions.all().filter((each) => matches(each, search.words));
  const rows = new Map(search.rows);
  for (const each of local) rows.set(each.id, each);
  for (const id of rows.keys()) if (sessions.get(id)) rows.set(id, sessions.get(id));
  const order = (each) => NAMES.indexOf(listOf(each));
  const sorted = [...rows.values()].sort((a, b) => order(a) - order(b) || b.updatedAt.localeCompare(a.updatedAt));
  showRows(one('[data-rows="found"]'), sorted, sessions.scope === "all", false);
  one('[data-count="found"]').textContent = String(sorted.length);
  one('[data-action="further"]').hidden = search.next === null;
  const note = search.busy ? text("searching") : sorted.length ? search.note : search.note || text("found_none");
  fill("search-note", note);
  return sorted;
}

async function find(words, isSubmitted) {
  const wanted = wordsOf(words);
  const number = ++searching;
  if (!wanted) return endSearch();
  if (search?.words !== wanted) search = { words: wanted, rows: new Map(), next: null, note: "", busy: true };
  search.busy = true;
  document.getElementById("found").hidden = false;
  document.getElementById("lists").hidden = true;
  renderFound();
  const current = search;
  try {
    // The server limits look-ups of PINs, so only a whole PIN is looked up, and only if the page does not have it.
    const has = sessions.all().some((each) => each.id === wanted || matches(each, wanted));
    if (!has || isSubmitted) {
      const { session, foreign } = await lookUp(wanted);
      if (session) current.rows.set(session.id, session);
      if (foreign) current.note = text("found_foreign");
    }
    await further(current);
  } catch (failure) {
    if (number === searching) failed(failure);
  }
  if (number !== searching) return;
  current.busy = false;
  const sorted = renderFound();
  announce(sorted.length ? text("found_count", { count: sorted.length }) : one('[data-field="search-note"]').textContent);
}

async function further(current) {
  const { rows, next } = await searchTexts(current.words, sessions.scope, current.next ?? 0);
  for (const each of rows) current.rows.set(each.id, each);
  current.next = next;
}

async function refreshFound(id) {
  try {
    const session = await call("GET", `supportsession/${encodeURIComponent(id)}`);
    search?.rows.set(id, session);
  } catch (failure) {
    if (failure.status === 404) search?.rows.delete(id);
  }
  if (search) renderFound();
}

function endSearch() {
  clearTimeout(typing);
  searching += 1;
  search = null;
  fill("search-note", "");
  document.getElementById("found").hidden = true;
  document.getElementById("lists").hidden = !hasRead;
}

searchInput.addEventListener("input", () => {
  clearTimeout(typing);
  const words = searchInput.value;
  typing = setTimeout(() => find(words, false), words.trim() ? SEARCH_AFTER : 0);
});
document.getElementById("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  find(searchInput.value, true);
});

// --- One session -------------------------------------------------------------------------------------------------------

function openDetail(id) {
  shown = id;
  problem("");
  showDetail();
  if (!detail.open) detail.showModal();
}

function showDetail() {
  const session = known(shown);
  if (!session) return detail.close();
  const isOpen = session.status !== "closed";
  const put = (name, value) => {
    const field = one(`[data-detail="${name}"]`, detail);
    if (field.textContent !== value) field.textContent = value;
    const row = field.closest(".card > div");
    if (row) row.hidden = !value;
  };
  const moment = (iso) => (iso ? full(iso) : "");
  put("label", session.label);
  put("status", [statusOf(session), reasonOf(session)].filter(Boolean).join(" – "));
  put("type", typeOf(session));
  put("starts", moment(session.startTime));
  put("opens", moment(session.opensAt));
  put("opened", moment(session.openedAt));
  put("expires", session.status === "new" ? moment(session.expiresAt) : "");
  put("closed", moment(session.closedAt));
  put("people", session.status === "active" ? text("people", { count: session.participants }) : "");
  put("host", session.userDescription);
  put("record", recordOf(session));
  put("settings", settingsOf(session));
  put("id", session.id);
  for (const [name, value] of [["pin", isOpen ? pinOf(session) : ""], ["link", isOpen ? session.urls.user : ""]]) {
    const field = document.getElementById(`detail-${name}`);
    field.value = value;
    field.closest(".card > div").hidden = !value;
  }
  const join = document.getElementById("detail-join");
  join.hidden = !isOpen || !session.urls.host;
  if (session.urls.host) join.href = hostLink(session);
  one('[data-action="close"]', detail).hidden = !isOpen;
  document.getElementById("detail-move").hidden = !mayMove(session);
}

/** Return whether the caller may reschedule a session, as the API decides it. */
function mayMove(session) {
  const { agent, group_admin: admin } = me.roles;
  return session.status === "scheduled" && (admin || (agent && session.ExternalUserId === me.user.id));
}

/** Show a session that a form has created or moved. */
function done(session, what) {
  if (isOver) return;
  sessions.take(session);
  search?.rows.set(session.id, session);
  openDetail(session.id);
  say(text(what));
}

function problem(sentence) {
  const field = document.getElementById("detail-error");
  field.textContent = sentence;
  field.hidden = !sentence;
}

async function close(id) {
  const session = known(id);
  if (!session || session.status === "closed") return;
  fill("close-label", session.label);
  fill("close-text", text({ scheduled: "close_scheduled", active: "close_active" }[session.status] ?? "close_new", { count: session.participants }));
  if (!(await ask("close-dialog"))) return;
  try {
    await call("DELETE", `supportsession/${encodeURIComponent(id)}`);
  } catch (failure) {
    if (failure.status === 404) sessions.forget(id);
    if (!detail.open || failure.kind === "ended") return failed(failure);
    return problem(errorText(failure));
  }
  announce(text("closed", { label: session.label }));
  if (detail.open) detail.close();
  if (sessions.get(id)) await sessions.read(id);
  else await refreshFound(id);
}

/** Copy a text, and say so. Without TLS browsers have no clipboard for scripts; then the text is selected. */
async function copy(value, done) {
  try {
    await navigator.clipboard.writeText(value);
  } catch {
    const field = document.createElement("input");
    field.value = value;
    field.readOnly = true;
    field.setAttribute("aria-hidden", "true");
    const before = document.activeElement;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    before?.focus();
    if (!isCopied) return say(text("copy_failed"));
  }
  say(done);
}

let hiding = 0;

/** Show a sentence for some seconds, where it is visible above a dialog too, and let it be read. */
function say(sentence) {
  const field = document.querySelector("dialog[open]") ? document.getElementById("detail-note") : document.getElementById("note");
  field.textContent = sentence;
  announce(sentence);
  clearTimeout(hiding);
  hiding = setTimeout(() => (field.textContent = ""), 4000);
}

const copyLink = (session) => copy(session.urls.user, text("link_copied", { label: session.label }));
const copyPin = (session) =>
  session.pin ? copy(String(session.pin), text("pin_copied", { pin: pinOf(session) })) : say(text("no_pin"));

// --- Buttons and keys --------------------------------------------------------------------------------------------------

const idOf = (element) => element.closest("li")?.dataset.id ?? shown;

const ACTIONS = {
  detail: (pressed) => openDetail(idOf(pressed)),
  "copy-link": (pressed) => copyLink(known(idOf(pressed))),
  copy: (pressed) => {
    const session = known(shown);
    if (session) (pressed.dataset.what === "pin" ? copyPin : copyLink)(session);
  },
  close: () => close(shown),
  "leave-detail": () => detail.close(),
  new: () => createForm.open(),
  "day-before": () => timeline.step(-1),
  "day-after": () => timeline.step(1),
  "day-today": () => timeline.today(),
  "day-more": () => timeline.toggle(),
  move: () => moveForm.open(known(shown)),
  "leave-create": () => {
    if (!createForm.isSending) createForm.drop();
    createForm.dialog.close();
  },
  "leave-move": () => moveForm.dialog.close(),
  more: (pressed) => sessions.more(pressed.dataset.of),
  further: async () => {
    try {
      await further(search);
    } catch (failure) {
      failed(failure);
    }
    if (search) renderFound();
  },
  clear: () => {
    searchInput.value = "";
    endSearch();
    searchInput.focus();
  },
  retry: () => feed?.retry(),
  dismiss: () => banner("notice", "", "notice"),
  shortcuts: () => document.getElementById("shortcuts").showModal(),
  signin: () => location.reload(),
  signout: async () => {
    try {
      await call("GET", "auth/signout");
    } catch (failure) {
      if (failure.kind !== "ended") return failed(failure);
    }
    createForm.drop();
    location.reload();
  },
};

document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("[data-action]");
  if (pressed) return ACTIONS[pressed.dataset.action]?.(pressed);
  const jump = event.target.closest?.("[data-jump]");
  if (jump) {
    event.preventDefault();
    jumpTo(jump.dataset.jump);
  }
});

function jumpTo(name) {
  if (search) ACTIONS.clear();
  const heading = document.getElementById(`${name}-heading`);
  document.getElementById(name).scrollIntoView();
  (one(`[data-rows="${name}"] .row[tabindex="0"]`) ?? heading).focus();
}

document.addEventListener("focusin", ({ target }) => {
  const row = target.closest?.(".rows li");
  if (row) point(row.querySelector(".row"));
});

/** Move the focus between the rows of all visible lists. */
function moveRow(from, key) {
  const rows = [...document.querySelectorAll(".rows .row")].filter((row) => row.offsetParent);
  const at = rows.indexOf(from);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[key];
  rows[Math.max(0, Math.min(rows.length - 1, to))]?.focus();
}

const useKeys = document.getElementById("use-keys");
try {
  useKeys.checked = localStorage.getItem("tminus:keys") !== "off";
} catch {
  // Storage is switched off: the keys stay on.
}
useKeys.addEventListener("change", () => {
  try {
    localStorage.setItem("tminus:keys", useKeys.checked ? "on" : "off");
  } catch {
    // As above.
  }
});

const KEYS = {
  n: () => !document.getElementById("new").hidden && createForm.open(),
  "/": () => searchInput.focus(),
  1: () => jumpTo("open"),
  2: () => jumpTo("coming"),
  3: () => jumpTo("past"),
  t: () => {
    if (search) ACTIONS.clear();
    timeline.focus();
  },
  "[": () => timeline.step(-1),
  "]": () => timeline.step(1),
  "?": () => ACTIONS.shortcuts(),
};
const ROW_KEYS = {
  j: (session) => session.urls.host && session.status !== "closed" && open(hostLink(session), "_blank", "noopener"),
  c: (session) => session.status !== "closed" && copyLink(session),
  p: (session) => copyPin(session),
  m: (session) => mayMove(session) && moveForm.open(session),
  x: (session) => close(session.id),
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (isOver || document.querySelector("dialog[open]")) return;
  if (target === searchInput) {
    if (key === "Escape" && searchInput.value) ACTIONS.clear();
    if (key === "ArrowDown") moveRow(null, "Home");
    return key === "ArrowDown" ? event.preventDefault() : undefined;
  }
  if (target.matches("input:not([type=radio]), select, textarea")) return;
  const row = target.closest(".rows li")?.querySelector(".row");
  if (row && ["ArrowDown", "ArrowUp", "Home", "End"].includes(key)) {
    event.preventDefault();
    return moveRow(row, key);
  }
  if (!useKeys.checked) return;
  const session = row && known(row.closest("li").dataset.id);
  const act = KEYS[key] ?? (session && ROW_KEYS[key]);
  if (!act) return;
  event.preventDefault();
  act(session);
});

for (const choice of document.querySelectorAll('[name="scope"]')) {
  choice.addEventListener("change", () => {
    sessions.scope = choice.value;
    hasRead = false;
    document.getElementById("reading").hidden = false;
    document.getElementById("lists").hidden = true;
    follow();
    if (search) find(searchInput.value, false);
  });
}

giveKeys((id) => (isOver ? null : known(id)));
start();
