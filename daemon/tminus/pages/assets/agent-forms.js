// The forms that create and reschedule sessions.

import { call, isTemporary } from "./agent-api.js";
import { errorText } from "./agent-errors.js";
import { nextHour } from "./agent-time.js";
import { When } from "./agent-when.js";
import { announce, fault, fill } from "./view.js";
import { text } from "./words.js";

const DRAFT = "tminus:draft";
const PAUSES = [1, 2, 4, 8]; // seconds between attempts whose answer was lost
const PREFERENCES = ["record", "knock", "audio", "prerequestrc", "prerequestadmin"];
const TEXTS = ["label", "userDescription", "externalMapping", "parent-name", "parent-id", "parent-app", "parent-type"];

// Field of an error -> the input at which it is shown.
const INPUT_OF = {
  label: "label", userDescription: "userDescription", externalMapping: "externalMapping",
  parentObject: "externalMapping", "parentObject.id": "parent-id", "parentObject.name": "parent-name",
  "parentObject.app": "parent-app", "parentObject.type": "parent-type",
};

const pause = (seconds) => new Promise((settle) => setTimeout(settle, seconds * 1000));

/** Return a key that no other request has. `randomUUID` is missing without TLS. */
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Call the API until it answers. Only for calls that may be repeated. `again()` is called before each repetition. */
async function persist(again, ...request) {
  for (const seconds of PAUSES) {
    try {
      return await call(...request);
    } catch (failure) {
      if (!isTemporary(failure)) throw failure;
      again();
      await pause(Math.max(seconds, Math.min(failure.retryAfter, 10)));
    }
  }
  return call(...request);
}

/** A form in a dialog. However often the button is pressed, only one call of `send()` runs at a time. */
class Form {
  #isSending = false;

  constructor(name) {
    this.name = name;
    this.dialog = document.getElementById(`${name}-dialog`);
    this.form = this.dialog.querySelector("form");
    this.submit = this.form.querySelector('[type="submit"]');
    this.when = new When(name);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run();
    });
  }

  get isSending() {
    return this.#isSending;
  }

  input(field) {
    return document.getElementById(`${this.name}-${field}`);
  }

  problem(sentence) {
    const field = this.input("error");
    field.textContent = sentence;
    field.hidden = !sentence;
    if (sentence) field.scrollIntoView({ block: "nearest" });
  }

  async #run() {
    if (this.#isSending) return;
    this.#isSending = true;
    this.submit.setAttribute("aria-disabled", "true");
    this.problem("");
    try {
      await this.send();
    } finally {
      this.#isSending = false;
      this.submit.removeAttribute("aria-disabled");
      fill(`${this.name}-progress`, "");
    }
  }

  /** Show that an attempt got no answer, and that the next one follows. */
  again = () => {
    fill(`${this.name}-progress`, text("again"));
    announce(text("again"));
  };
}

/** The form for a new session. `done(session)` is called with it, `failed(failure)` if the agent is no longer signed in. */
export class CreateForm extends Form {
  #key = newKey();
  #products = {};
  #owner = null;
  #done;
  #failed;

  constructor(done, failed) {
    super("create");
    this.#done = done;
    this.#failed = failed;
    this.form.addEventListener("input", () => {
      this.#shape();
      this.#keep();
    });
    // Escape drops the draft, as the button does. While the form is being sent, the draft stays: the request may fail.
    this.dialog.addEventListener("cancel", () => this.isSending || this.drop());
  }

  /** Set the preferences that the policy leaves to the agent, by type of session, and open this agent's draft. */
  allow(products, owner) {
    this.#products = products;
    this.#owner = owner;
    const draft = this.#draft();
    if (!draft) this.drop(); // of another agent, who has signed out elsewhere
    else this.open(draft);
  }

  open(draft = null) {
    if (this.dialog.open) return;
    this.form.reset();
    this.problem("");
    for (const name of [...TEXTS, "date", "time"]) fault(this.input(name), "");
    this.when.set(nextHour());
    fill("create-kept", draft ? text("draft_kept") : "");
    if (draft) {
      this.#key = draft.key;
      for (const name of TEXTS) this.input(name).value = draft.texts[name] ?? "";
      for (const name of PREFERENCES) this.input(name).checked = draft.prefs.includes(name);
      this.input("type").value = draft.type;
      this.input(draft.isLater ? "later" : "now").checked = true;
      this.when.values = draft.when;
      this.input("record-details").open = TEXTS.slice(2).some((name) => draft.texts[name]);
    } else this.#key = newKey();
    this.#shape();
    this.dialog.showModal();
  }

  drop() {
    try {
      sessionStorage.removeItem(DRAFT);
    } catch {
      // Storage is switched off: there is no draft.
    }
  }

  #draft() {
    try {
      const draft = JSON.parse(sessionStorage.getItem(DRAFT));
      return draft?.texts && draft.owner === this.#owner && Array.isArray(draft.prefs) && draft.when ? draft : null;
    } catch {
      return null;
    }
  }

  /** Keep the form in this tab, with its key: a reload does not lose it, and sending it twice creates one session. */
  #keep() {
    const texts = Object.fromEntries(TEXTS.map((name) => [name, this.input(name).value]));
    const prefs = PREFERENCES.filter((name) => this.input(name).checked);
    const draft = { owner: this.#owner, key: this.#key, texts, prefs, type: this.input("type").value, isLater: this.#isLater, when: this.when.values };
    try {
      sessionStorage.setItem(DRAFT, JSON.stringify(draft));
    } catch {
      // Storage is switched off.
    }
  }

  get #isLater() {
    return this.input("later").checked;
  }

  /** Show the fields that the choices need. */
  #shape() {
    this.input("at").hidden = !this.#isLater;
    const allowed = this.#products[this.input("type").value] ?? {};
    for (const name of PREFERENCES) this.input(name).closest("label").hidden = allowed[name] !== true;
    this.input("prefs").hidden = !PREFERENCES.some((name) => allowed[name] === true);
    this.submit.textContent = text(this.#isLater ? "schedule" : "create");
  }

  /** Return the body of the request; null if a field needs the agent. */
  #body() {
    for (const name of TEXTS) fault(this.input(name), "");
    const value = (name) => this.input(name).value.trim();
    if (!value("label")) {
      fault(this.input("label"), text("label_missing"));
      this.input("label").focus();
      return null;
    }
    const body = { type: value("type"), label: value("label") };
    if (value("userDescription")) body.userDescription = value("userDescription");
    const allowed = this.#products[body.type] ?? {};
    const chosen = PREFERENCES.filter((name) => allowed[name] && this.input(name).checked);
    if (chosen.length) body.agentPrefs = Object.fromEntries(chosen.map((name) => [name, true]));
    const key = value("externalMapping");
    const parent = Object.fromEntries(["name", "app", "type"].map((name) => [name, value(`parent-${name}`)]).filter(([, one]) => one));
    if (key) body.parentObject = { id: value("parent-id") || key, ...parent };
    if (key) body.externalMapping = key;
    else if (Object.keys(parent).length || value("parent-id")) {
      this.input("record-details").open = true;
      fault(this.input("externalMapping"), text("record_missing"));
      this.input("externalMapping").focus();
      return null;
    }
    if (this.#isLater) {
      body.startTime = this.when.read();
      if (!body.startTime) return null;
    }
    return body;
  }

  async send() {
    const body = this.#body();
    if (!body) return;
    this.#keep();
    try {
      const session = await persist(this.again, "POST", "supportsessions", { body, headers: { "Idempotency-Key": this.#key } });
      this.drop();
      this.#key = newKey();
      this.dialog.close();
      this.#done(session);
    } catch (failure) {
      if (failure.kind === "ended") return this.#failed(failure);
      // The daemon has created a session for this key. A further press is meant for another one.
      if (failure.refcode === 103409) this.#key = newKey();
      this.#keep();
      this.#refused(failure);
    }
  }

  #refused(failure) {
    if (failure.refcode === 101400) return this.when.refuse(errorText(failure));
    let first = null;
    const rest = [];
    for (const { field, message } of failure.errors) {
      if (field === "startTime") {
        this.when.refuse(message);
        continue;
      }
      const input = INPUT_OF[field] && this.input(INPUT_OF[field]);
      if (!input) rest.push(`${field}: ${message}`);
      else {
        fault(input, message);
        first ??= input;
      }
    }
    if (first?.closest("details")) first.closest("details").open = true;
    first?.focus();
    this.problem([errorText(failure), ...rest].join(" "));
  }
}

/** The form that moves a scheduled session. */
export class MoveForm extends Form {
  #session = null;
  #done;
  #failed;

  constructor(done, failed) {
    super("move");
    this.#done = done;
    this.#failed = failed;
  }

  open(session) {
    this.#session = session;
    this.problem("");
    fill("move-label", session.label);
    this.when.set(Date.parse(session.startTime));
    this.dialog.showModal();
  }

  async send() {
    const startTime = this.when.read();
    if (!startTime) return;
    const path = `supportsession/${encodeURIComponent(this.#session.id)}`;
    const headers = { "If-Match": `"${this.#session.version}"` };
    try {
      this.#finish(await persist(this.again, "PUT", path, { body: { startTime }, headers }));
    } catch (failure) {
      if (failure.kind === "ended") return this.#failed(failure);
      if (failure.refcode === 101400) return this.when.refuse(errorText(failure));
      if (failure.status === 412 || failure.status === 409) return this.#changed(failure, path, startTime);
      const [first] = failure.errors;
      if (first?.field === "startTime") return this.when.refuse(first.message);
      this.problem(errorText(failure));
    }
  }

  /** Find out whether an earlier attempt, whose answer was lost, has moved the session, or somebody else has. */
  async #changed(failure, path, startTime) {
    try {
      const now = await call("GET", path);
      if (now.startTime && Date.parse(now.startTime) === Date.parse(startTime)) return this.#finish(now);
      this.#session = now;
    } catch (other) {
      if (other.kind === "ended") return this.#failed(other);
    }
    this.problem(errorText(failure));
  }

  #finish(session) {
    this.dialog.close();
    this.#done(session);
  }
}
