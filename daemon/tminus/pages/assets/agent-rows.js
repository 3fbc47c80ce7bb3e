// Rows of sessions. Text from others is set as text, never as markup.

import { brief, full } from "./agent-time.js";
import { hostLink } from "./host-key.js";
import { element } from "./view.js";
import { text } from "./words.js";

const STATUS = { scheduled: "status_scheduled", new: "status_new", active: "status_active", closed: "status_closed" };
const TYPE = { support: "type_support", cobrowse: "type_cobrowse", live: "type_live", replay: "type_replay" };
const REASON = {
  closed: "reason_closed", cancelled: "reason_cancelled", expired: "reason_expired", empty: "reason_empty",
  time_limit: "reason_time_limit",
};
const SETTING = {
  recording: "pref_record", startwithadmin: "pref_prerequestadmin", startwithrc: "pref_prerequestrc", knock: "pref_knock",
  audio: "pref_audio",
};

export const statusOf = ({ status }) => text(STATUS[status]);
export const typeOf = ({ type }) => text(TYPE[type]);
export const reasonOf = ({ closeReason }) => (REASON[closeReason] ? text(REASON[closeReason]) : "");

/** Return the PIN as people read it, or "". */
export function pinOf({ pin }) {
  return pin ? String(pin).replace(/^(\d{3})(\d{3})$/, "$1 $2") : "";
}

/** Return the name of the record to which a session belongs, or "". */
export function recordOf({ externalMapping, parentObject }) {
  const name = parentObject?.name ?? "";
  return name && name !== externalMapping ? `${name} (${externalMapping})` : (externalMapping ?? "");
}

/** Return the settings that are on, in words. */
export function settingsOf({ settings }) {
  return Object.keys(SETTING).filter((name) => settings[name] === true).map((name) => text(SETTING[name])).join(", ");
}

function when(session) {
  if (session.status === "closed") return text("ended_at", { time: brief(session.closedAt) });
  if (session.status === "scheduled") return brief(session.startTime);
  return text("since", { time: brief(session.activatedAt ?? session.openedAt ?? session.createdAt) });
}

/** Show rows in a list. Rows that stay keep their elements, and with them the focus. */
export function showRows(ul, sessions, showsHost, fresh) {
  const before = new Map([...ul.children].map((item) => [item.dataset.id, item]));
  const focused = ul.contains(document.activeElement) ? document.activeElement : null;
  const position = focused ? [...ul.children].indexOf(focused.closest("li")) : -1;
  sessions.forEach((session, index) => {
    const item = before.get(session.id) ?? make(session.id);
    if (!before.delete(session.id) && fresh) item.classList.add("fresh");
    update(item, session, showsHost);
    if (ul.children[index] !== item) ul.insertBefore(item, ul.children[index] ?? null);
  });
  for (const gone of before.values()) gone.remove();
  const rows = [...ul.querySelectorAll(".row")];
  // Moving an element takes the focus away from it; a row that is gone gives it to its successor.
  if (focused && document.activeElement !== focused) {
    if (ul.contains(focused)) focused.focus();
    else rows[Math.min(position, rows.length - 1)]?.focus();
  }
  // One stop of the Tab key for each list; arrow keys move within it.
  if (!rows.some((row) => row.tabIndex === 0)) point(rows[0]);
}

/** Make this row the one that the Tab key reaches. */
export function point(row) {
  if (!row) return;
  for (const each of row.closest("ul").querySelectorAll("li")) {
    const isChosen = each.contains(row);
    for (const control of each.querySelectorAll("button, a")) control.tabIndex = isChosen ? 0 : -1;
  }
}

function make(id) {
  const item = element("li", "");
  item.dataset.id = id;
  const row = element("button", "row");
  row.type = "button";
  row.dataset.action = "detail";
  row.setAttribute("aria-haspopup", "dialog");
  const state = element("span", "state");
  const what = element("span", "what");
  state.append(element("span", "chip"));
  what.append(element("bdi", "label"), " ", element("bdi", "aside"));
  row.append(state, what, element("span", "kind"), element("span", "when"), element("span", "pin"), element("span", "people"));
  const quick = element("span", "quick");
  const join = element("a", "button join", text("join"));
  join.target = "_blank";
  join.rel = "noopener noreferrer";
  const copy = element("button", "quiet copy", text("copy_link"));
  copy.type = "button";
  copy.dataset.action = "copy-link";
  quick.append(join, copy);
  item.append(row, quick);
  for (const control of [row, join, copy]) control.tabIndex = -1;
  return item;
}

function update(item, session, showsHost) {
  const set = (name, value) => {
    const field = item.querySelector(`.${name}`);
    if (field.textContent !== value) field.textContent = value;
  };
  item.querySelector(".chip").dataset.status = session.status;
  set("chip", statusOf(session));
  set("label", session.label);
  set("aside", [recordOf(session), showsHost ? session.userDescription : ""].filter(Boolean).join(" · "));
  set("kind", typeOf(session));
  set("when", when(session));
  item.querySelector(".when").title = session.startTime ? full(session.startTime) : "";
  set("pin", pinOf(session));
  set("people", session.status === "active" ? text("people", { count: session.participants }) : session.status === "closed" ? reasonOf(session) : "");
  const isOpen = session.status !== "closed";
  const join = item.querySelector(".join");
  join.hidden = !isOpen || !session.urls.host;
  if (session.urls.host) join.href = hostLink(session);
  join.setAttribute("aria-label", text("join_label", { label: session.label }));
  const copy = item.querySelector(".copy");
  copy.hidden = !isOpen;
  copy.setAttribute("aria-label", text("copy_link_label", { label: session.label }));
}
