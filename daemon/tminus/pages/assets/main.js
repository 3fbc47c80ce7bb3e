// The page for people who were invited: from the link to the end of the session.

import { dropFragment, pinOf, readLink, showId, showNone } from "./link.js";
import { getKey } from "./host-key.js";
import { claim, forgetSecrets, inUseElsewhere, recall, remember } from "./memory.js";
import { Room } from "./room.js";
import { announce, ask, banner, button, element, fault, fill, list, one, retitle, reveal, section, show, showCards, shown } from "./view.js";
import { countdown, duration, moment, stay, text } from "./words.js";

const MAX_PAUSE = 60; // seconds
const FREE_GUESSES = 2; // wrong PINs that cause no pause
const LOOK_FOR = 2000; // milliseconds to wait for the session's data before the page asks for the name

// Why the session was closed, if no person has closed it -> the text.
const REASONS = {
  cancelled: "over_cancelled",
  expired: "over_expired",
  empty: "over_empty",
  time_limit: "over_time_limit",
};

// Who has closed the session, if a person has -> the text.
const CLOSERS = {
  host: "over_host",
  agent: "over_agent",
  operator: "over_operator",
};

// Refcodes and close codes of the server, which docs/api.md explains.
const WRONG_KEY = 112403;
const WRONG_RESUME_KEY = 112404;
const AGENT_REVOKED = 113403;
const OTHER_ROOM = 112409;
const SESSION_FULL = 102429;
const NOBODY = [102404, 102409]; // the participant whom the host admits, denies or removes has left, or waits no longer
const CLOSED = 4410;
const REPLACED = 4409;
const UNKNOWN = 4404;
const FORBIDDEN = 4403;
const CROWDED = 4429;
const SILENT = 4408;
const CHALLENGE_NEEDED = 169400;

const pinInput = document.getElementById("pin");
const digitsInput = document.getElementById("digits");
const picture = document.getElementById("picture");
const nameInput = document.getElementById("name");

let link = readLink(location.href);
dropFragment();

let id = null;
let room = null;
let session = null;
let me = null;
let people = null;
let knocking = [];
let lastError = null;
let crowded = false;
let ends = false; // whether this visitor, as host, has ended the session
let skew = 0; // milliseconds by which the server's clock is ahead of this one
let wrongPins = 0;
let pausedUntil = 0;
let challenge = null; // the id of the challenge whose picture is shown

// --- PIN ---------------------------------------------------------------------------------------------------------------

function askForPin(sentence = "") {
  leaveRoom();
  show("pin", pinInput);
  fault(pinInput, sentence);
}

/** Look up a PIN and enter its session. `solved` has the answer to a challenge, if the visitor has given one. */
async function lookUp(pin, fallback = null, solved = null) {
  show(shown() === "pin" ? "pin" : "loading");
  if (shown() === "pin") announce(text("pin_searching"));
  let answer;
  let found;
  try {
    answer = await request(`v3/support/${pin}/meta${solved ? `?${new URLSearchParams(solved)}` : ""}`);
    found = await answer.json().catch(() => null);
  } catch {
    pinInput.value = pin;
    return askForPin(text("offline"));
  }
  if (answer.ok && found?.id) {
    wrongPins = 0;
    hideChallenge();
    showId(found.id);
    return enter(found.id);
  }
  if (answer.status === 404 && fallback) return enter(fallback);
  pinInput.value = pin;
  if (answer.status === 404) wrongPins += 1;
  // The server limits guesses; the page's own pause keeps a person from running into that limit.
  const own = wrongPins > FREE_GUESSES ? Math.min(MAX_PAUSE, 2 ** (wrongPins - FREE_GUESSES)) : 0;
  const asked = answer.status === 404 ? 0 : Number(answer.headers.get("retry-after")) || 5;
  if (found?.refcode === CHALLENGE_NEEDED) {
    askForPin(text(solved ? "challenge_wrong" : "challenge_needed"));
    pause(asked);
    return showChallenge();
  }
  hideChallenge();
  askForPin(answer.status === 404 ? text("pin_wrong") : "");
  pause(Math.max(own, asked));
}

function request(path) {
  return fetch(new URL(path, location.href), { cache: "no-store", credentials: "omit" });
}

/** Show a new picture, so that the visitor can continue without waiting. If there is none, the visitor waits. */
async function showChallenge() {
  hideChallenge();
  try {
    const answer = await request("v3/support/challenge");
    if (!answer.ok) return;
    const made = await answer.json();
    if (!pausedUntil || shown() !== "pin") return;
    challenge = made.uuid;
    picture.src = URL.createObjectURL(new Blob([made.challengeDisplay], { type: "image/svg+xml" }));
  } catch {
    return;
  }
  document.getElementById("challenge").hidden = false;
  one("#pin-form [type=submit]").disabled = false;
  digitsInput.focus();
}

function hideChallenge() {
  challenge = null;
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.removeAttribute("src");
  digitsInput.value = "";
  fault(digitsInput, "");
  document.getElementById("challenge").hidden = true;
  one("#pin-form [type=submit]").disabled = Boolean(pausedUntil);
}

function pause(seconds) {
  if (seconds <= 0) return;
  pausedUntil = Date.now() + seconds * 1000;
  const sentence = text("pin_wait", { time: duration(seconds) });
  const before = document.getElementById("pin-error").textContent;
  fault(pinInput, before ? `${before} ${sentence}` : sentence);
  one("#pin-form [type=submit]").disabled = true;
}

function endPause() {
  if (!pausedUntil || Date.now() < pausedUntil) return;
  pausedUntil = 0;
  const hadFocus = document.getElementById("challenge").contains(document.activeElement);
  hideChallenge();
  if (hadFocus) pinInput.focus();
  if (shown() === "pin") {
    fault(pinInput, "");
    announce(text("pin_ready"));
  }
}

document.getElementById("pin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (pausedUntil && !challenge) return;
  const pin = pinOf(pinInput.value);
  if (!pin) {
    fault(pinInput, text("pin_short"));
    return pinInput.focus();
  }
  if (!challenge) {
    fault(pinInput, "");
    return lookUp(pin);
  }
  const answer = digitsInput.value.trim();
  if (!answer) {
    fault(digitsInput, text("challenge_missing"));
    return digitsInput.focus();
  }
  lookUp(pin, null, { challenge, answer });
});

// --- The way in --------------------------------------------------------------------------------------------------------

async function enter(sessionId) {
  leaveRoom();
  id = sessionId;
  session = me = people = null;
  show("loading");
  const asks = link.ticket && !recall(id).key;
  const key = asks ? await getKey(id, link.ticket) : link.key;
  if (id !== sessionId) return; // another link was opened meanwhile
  if (key && key !== recall(id).key) remember(id, { key, resume: undefined });
  reveal("foreign-key", link.foreign && !recall(id).key);
  reveal("no-key", Boolean(asks && !key));
  link = { pin: null, id: null, key: null, ticket: null, foreign: link.foreign };
  if (await inUseElsewhere(id, recall(id).resume)) remember(id, { resume: undefined, inside: false });
  claim(id, () => (room ? recall(id).resume : null));
  if (recall(id).name && recall(id).inside) join();
  else look();
}

/** Read the session before the visitor gives a name. */
function look() {
  const timer = setTimeout(askForName, LOOK_FOR);
  let done = false;
  const settle = (next) => {
    if (done) return;
    done = true;
    clearTimeout(timer);
    next();
  };
  const looking = new Room(id, {
    opened() {},
    heard(message) {
      if (message.type === "session") {
        take(message);
        if (session.status !== "closed") settle(() => (looking.close(), askForName()));
      } else if (message.type === "closed") settle(() => (looking.close(), over(message)));
      else if (message.type === "error") lastError = message;
    },
    ended(code) {
      if (isCrowd(code)) return true;
      settle(() => final(code));
      return false;
    },
    lost(isCrowded) {
      if (isCrowded) {
        crowded = true;
        clearTimeout(timer);
        show("busy");
      }
    },
  });
  room = looking;
}

function askForName(sentence = "") {
  room?.close();
  room = null;
  banner("lost", "", "retry");
  const remembered = recall(id);
  if (!nameInput.value) nameInput.value = remembered.name ?? (remembered.key ? nameOf(session?.userDescription ?? "") : "");
  show("name", nameInput);
  fault(nameInput, sentence);
}

/** Return a text as a name: not too long, and without invisible characters such as marks of text direction.
 *
 * Copied names often have such characters. The server would refuse them, and the visitor could not see why.
 */
function nameOf(typed) {
  const visible = typed.replace(/(?![\u200c\u200d])[\p{C}\p{Zl}\p{Zp}]/gu, "").trim();
  return [...visible].slice(0, nameInput.maxLength).join("").trim();
}

document.getElementById("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameOf(nameInput.value);
  if (!name) {
    fault(nameInput, text("name_missing"));
    return nameInput.focus();
  }
  remember(id, { name, inside: true });
  show("loading");
  join();
});

function join() {
  leaveRoom();
  lastError = null;
  room = new Room(id, {
    opened() {
      crowded = false;
      const { name, key, resume } = recall(id);
      room.send({ type: "join", role: key ? "host" : "guest", name, ...(key && { key }), ...(resume && { resume }) });
    },
    heard,
    ended(code) {
      if (isCrowd(code)) return true;
      final(code);
      return false;
    },
    lost(isCrowded) {
      crowded = isCrowded;
      if (crowded && shown() === "loading") show("busy");
      else showRetry();
    },
  });
}

function leaveRoom() {
  room?.close();
  room = null;
  knocking = [];
  banner("lost", "", "retry");
  banner("notice", "", "notice");
}

// --- Messages ----------------------------------------------------------------------------------------------------------

function heard(message) {
  if (!document.getElementById("lost").hidden) {
    banner("lost", "", "retry");
    announce(text("back_in"));
  }
  const act = {
    session: () => {
      const moved = take(message);
      if (session.status === "scheduled") early(moved);
      else if (shown() === "early") {
        show("loading");
        announce(text("opening"));
      }
    },
    joined: () => {
      me = { id: message.participant, role: message.role };
      people = null;
      remember(id, { resume: message.resume });
      fill("me", text("in_as", { name: recall(id).name }));
      for (const each of document.querySelectorAll("[data-host]")) each.hidden = me.role !== "host";
      showPeople();
      showKnocking();
      show("in");
    },
    waiting: () => {
      remember(id, { resume: message.resume });
      show("knock");
    },
    denied: () => {
      stop();
      show(message.reason === "timeout" ? "unanswered" : "denied");
    },
    participants: () => takePeople(message.participants ?? []),
    knocking: () => takeKnocking(message.participants ?? []),
    closed: () => over(message),
    removed: () => {
      stop();
      forgetSecrets(id);
      show(message.reason === "revoked" ? "revoked" : "removed");
    },
    replaced: () => {
      stop();
      show("elsewhere");
    },
    error: () => {
      lastError = message;
      if (me) banner("notice", NOBODY.includes(message.refcode) ? text("answered") : text("refused", { description: message.description }), "notice");
    },
  }[message.type];
  act?.(); // a newer server may send more kinds of messages
}

/** Show a session's data; return whether its start has changed. */
function take(message) {
  const now = message.session;
  const moved = session?.startTime && now.startTime && session.startTime !== now.startTime;
  session = now;
  skew = Date.parse(message.now) - Date.now() || 0;
  const isScheduled = session.status === "scheduled";
  fill("label", session.label);
  fill("host", session.userDescription);
  fill("starts", session.startTime ? moment(session.startTime) : "");
  fill("opens", isScheduled && session.opensAt ? moment(session.opensAt) : "");
  reveal("recorded", Boolean(session.settings?.recording));
  showCards();
  return moved;
}

function early(moved) {
  if (moved) {
    fill("moved", text("moved", { when: moment(session.startTime) }));
    announce(text("moved", { when: moment(session.startTime) }));
  }
  if (shown() !== "early") {
    if (!moved) fill("moved", "");
    show("early");
  }
  tick();
}

/** End the visit: nothing is sent any more, and a reload does not enter again. */
function stop() {
  const left = room;
  room = null;
  me = null;
  ends = false;
  left?.close();
  retitle("");
  banner("lost", "", "retry");
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close("no");
  remember(id, { inside: false, resume: undefined });
}

function over({ reason, by } = {}) {
  const words = by === "host" && ends ? "over_you" : reason === "closed" ? CLOSERS[by] : REASONS[reason];
  stop();
  forgetSecrets(id);
  fill("reason", text(words ?? "over_unknown"));
  fill("opens", "");
  reveal("recorded", false);
  show("over");
}

/** Return whether the server refused this connection only because of many others. */
function isCrowd(code) {
  return code === CROWDED && lastError?.refcode !== SESSION_FULL;
}

/** Show why the server has refused or ended the visit, by its error and the code with which it closed the connection. */
function final(code) {
  const error = lastError;
  const { name, resume } = recall(id);
  stop();
  if (error?.refcode === WRONG_RESUME_KEY && resume) {
    // The visitor was away too long, and has left. They enter as if for the first time.
    remember(id, { inside: true });
    return join();
  }
  if (code === CLOSED) return over();
  if (code === UNKNOWN) {
    forgetSecrets(id);
    return show("missing");
  }
  if (error?.refcode === WRONG_KEY) {
    remember(id, { key: undefined });
    return show("hostkey");
  }
  if (error?.refcode === AGENT_REVOKED) {
    forgetSecrets(id);
    return show("revoked");
  }
  if (error?.refcode === SESSION_FULL) return show("full");
  if (error?.refcode === OTHER_ROOM) return show("otherroom");
  if (code === REPLACED) return show("elsewhere");
  if (code === FORBIDDEN && !error) return show("removed");
  if (code === SILENT) return askForName();
  if (code === 4400 && error && name) return askForName(text("name_refused", { length: nameInput.maxLength }));
  fill("reference", error?.refcode ? text("reference", { refcode: error.refcode }) : "");
  show("failed");
}

// --- Inside ------------------------------------------------------------------------------------------------------------

function takePeople(now) {
  const before = people;
  people = now;
  if (before && shown() === "in") {
    const names = (some, others) => some.filter(({ id: each }) => each !== me?.id && !others.some((one) => one.id === each));
    const news = [
      ...names(now, before).map(({ name }) => text("joined", { name })),
      ...names(before, now).map(({ name }) => text("left", { name })),
    ];
    if (news.length) announce(news.slice(0, 5).join(" "));
  }
  showPeople();
}

function takeKnocking(now) {
  const news = now.filter(({ id: each }) => !knocking.some((one) => one.id === each));
  knocking = now;
  if (news.length) announce(news.slice(0, 5).map(({ name }) => text("someone_knocks", { name })).join(" "));
  showKnocking();
}

function showPeople() {
  const block = one('[data-list="people"]');
  const rows = people ?? [];
  list(one("ul", block), rows, makeRow, updateRow);
  fill("count", rows.length ? String(rows.length) : "");
  fill("alone", rows.length > 1 || !me ? "" : text(me.role === "host" ? "alone_host" : "alone_guest"));
}

function makeRow(row) {
  const item = element("li", "");
  item.append(element("bdi", "name", row.name));
  if (row.id === me?.id) item.append(element("span", "tag", text("you")));
  if (row.role === "host") item.append(element("span", "tag", text("host")));
  item.append(element("span", "time"));
  if (me?.role === "host" && row.id !== me.id) {
    const buttons = element("span", "buttons");
    buttons.append(button("danger", text("remove"), text("remove_name", { name: row.name }), () => removePerson(row)));
    item.append(buttons);
  }
  return item;
}

function updateRow(item, row) {
  const seconds = row.joinedAt ? (Date.now() + skew - Date.parse(row.joinedAt)) / 1000 : 0;
  const since = stay(seconds);
  if (one(".time", item).textContent !== since) one(".time", item).textContent = since;
}

function showKnocking() {
  const block = one('[data-list="knocking"]');
  const rows = me?.role === "host" ? knocking : [];
  list(one("ul", block), rows, makeKnock, () => {});
  block.hidden = !rows.length;
  retitle(rows.length ? text("waiting_title", { count: rows.length, title: "" }) : "");
}

function makeKnock(row) {
  const item = element("li", "");
  const buttons = element("span", "buttons");
  buttons.append(
    button("", text("admit"), text("admit_name", { name: row.name }), () => tell({ type: "admit", participant: row.id })),
    button("danger", text("deny"), text("deny_name", { name: row.name }), () => tell({ type: "deny", participant: row.id })),
  );
  item.append(element("bdi", "name", row.name), buttons);
  return item;
}

function tell(message) {
  if (!room?.send(message)) banner("notice", text("offline"), "notice");
}

async function removePerson(row) {
  fill("remove-question", text("remove_question", { name: row.name }));
  if (await ask("remove-dialog")) tell({ type: "remove", participant: row.id });
}

// --- Buttons -----------------------------------------------------------------------------------------------------------

const ACTIONS = {
  picture: () => showChallenge(),
  pin: () => {
    if (id) stop();
    showNone();
    pinInput.value = "";
    askForPin();
  },
  again: () => {
    if (!id) return location.reload();
    remember(id, { inside: true });
    show("loading");
    if (recall(id).name) join();
    else look();
  },
  guest: () => {
    show("loading");
    look();
  },
  leave: () => {
    const left = room;
    room = null;
    left?.leave();
    stop();
    show("left");
  },
  end: async () => {
    if (!(await ask("end-dialog"))) return;
    ends = true;
    tell({ type: "end" });
  },
  retry: () => room?.retry(),
  dismiss: () => banner("notice", "", "notice"),
};

document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("[data-action]");
  if (pressed) ACTIONS[pressed.dataset.action]();
});

addEventListener("hashchange", () => {
  const again = readLink(location.href);
  dropFragment();
  link = again;
  if (again.pin) lookUp(again.pin);
  else if ((again.key || again.ticket) && again.id) enter(again.id);
});

// --- Time --------------------------------------------------------------------------------------------------------------

function showRetry() {
  if (!room || room.open) return;
  const seconds = Math.max(0, Math.ceil((room.retryAt - Date.now()) / 1000));
  const sentence = seconds ? text("lost", { time: duration(seconds) }) : text("lost_now");
  if (shown() === "busy") one('[data-field="retry"]', section("busy")).textContent = text("busy_wait", { time: duration(seconds) });
  else if (!["name", "pin"].includes(shown())) banner("lost", sentence, "retry");
}

function tick() {
  endPause();
  if (shown() === "early" && session?.opensAt) {
    fill("countdown", countdown((Date.parse(session.opensAt) - Date.now() - skew) / 1000));
  }
  if (shown() === "in" && people) {
    const items = new Map([...one('[data-list="people"] ul').children].map((item) => [item.dataset.id, item]));
    for (const row of people) updateRow(items.get(row.id), row);
  }
  if (room && !room.open && room.retryAt) showRetry();
}

setInterval(tick, 1000);

// --- Start -------------------------------------------------------------------------------------------------------------

if (document.body.dataset.start === "link") {
  if (link.pin) lookUp(link.pin, link.id);
  else if (link.id) enter(link.id);
  else askForPin();
}
