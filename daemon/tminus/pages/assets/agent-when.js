// A date and a time in the agent's own zone. Each form has the fields once, with a prefix in their ids.

import { clockWithOffset, inputs, moments, zoneAt } from "./agent-time.js";
import { fault } from "./view.js";
import { text } from "./words.js";

export class When {
  #date;
  #time;
  #zone;
  #which;

  constructor(prefix) {
    this.#date = document.getElementById(`${prefix}-date`);
    this.#time = document.getElementById(`${prefix}-time`);
    this.#zone = document.getElementById(`${prefix}-zone`);
    this.#which = document.getElementById(`${prefix}-which`);
    for (const input of [this.#date, this.#time]) input.addEventListener("input", () => this.#show());
    this.#which.addEventListener("change", () => this.clear());
  }

  /** The values of the inputs, for a draft. */
  get values() {
    return { date: this.#date.value, time: this.#time.value, which: this.#chosen() };
  }

  set values({ date, time, which }) {
    this.#date.value = date ?? "";
    this.#time.value = time ?? "";
    this.#show();
    for (const choice of this.#choices()) choice.checked = choice.value === which;
  }

  /** Show a moment. */
  set(at) {
    this.values = { ...inputs(at), which: null };
    // Of two moments with the same clock time, select this one.
    moments(this.#date.value, this.#time.value).moments.forEach((each, index) => {
      if (Math.abs(each - at) < 60_000 && this.#choices()[index]) this.#choices()[index].checked = true;
    });
  }

  /** Return the moment as the API takes it; null if the fields do not name one: then an error is shown at the field. */
  read() {
    this.clear();
    if (!this.#date.value) return this.refuse(text("date_missing"), this.#date);
    if (!this.#time.value) return this.refuse(text("time_missing"), this.#time);
    const { moments: found, gap } = moments(this.#date.value, this.#time.value);
    if (gap) return this.refuse(text("time_gap", gap), this.#time);
    if (found.length === 1) return new Date(found[0]).toISOString();
    const chosen = this.#chosen();
    if (chosen === null) return this.refuse(text("time_twice"), this.#time, this.#choices()[0]);
    return new Date(found[Number(chosen)]).toISOString();
  }

  /** Show why the time is refused. Returns null. */
  refuse(sentence, input = this.#time, focus = input) {
    fault(this.#date, input === this.#date ? sentence : "");
    fault(this.#time, input === this.#time ? sentence : "");
    focus.focus();
    return null;
  }

  clear() {
    fault(this.#date, "");
    fault(this.#time, "");
  }

  #choices() {
    return [...this.#which.querySelectorAll("input")];
  }

  #chosen() {
    return this.#which.hidden ? null : (this.#choices().find(({ checked }) => checked)?.value ?? null);
  }

  /** Show the zone at this time, and ask which of two moments is meant, as soon as the fields name them. */
  #show() {
    this.clear();
    const isWhole = this.#date.value && this.#time.value;
    const { moments: found, gap } = isWhole ? moments(this.#date.value, this.#time.value) : { moments: [], gap: null };
    this.#zone.textContent = text("zone", { zone: zoneAt(found[0] ?? Date.now()) });
    const isTwice = found.length === 2;
    if (!isTwice || this.#which.hidden) for (const choice of this.#choices()) choice.checked = false;
    this.#which.hidden = !isTwice;
    if (isTwice) {
      this.#choices().forEach((choice, index) => {
        choice.nextElementSibling.textContent = text(index ? "time_second" : "time_first", { time: clockWithOffset(found[index]) });
      });
    }
    if (gap) fault(this.#time, text("time_gap", gap));
  }
}
