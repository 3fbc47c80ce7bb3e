// The texts that scripts show, and dates and durations in the page's language.

import { isolated } from "./foreign-text.js";

const texts = JSON.parse(document.getElementById("texts").textContent);
const page = document.documentElement.lang;

// The visitor's region decides how dates look, if their language is the page's.
const locale = navigator.languages?.find((one) => one.toLowerCase().startsWith(page)) ?? page;

/** Return a text of the catalogue. `{name}` is replaced by the value of that name. */
export function text(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => isolated(String(values[name])));
}

const dateTime = new Intl.DateTimeFormat(locale, {
  weekday: "long", day: "numeric", month: "long", year: "numeric", hour: "numeric", minute: "2-digit",
  timeZoneName: "short",
});

/** Return a moment in the visitor's own time zone, with the zone. */
export function moment(iso) {
  return dateTime.format(new Date(iso));
}

const units = Object.fromEntries(
  ["second", "minute", "hour", "day"].map((unit) => [
    unit,
    new Intl.NumberFormat(locale, { style: "unit", unit, unitDisplay: "long" }),
  ]),
);

/** Return a duration as a person says it, in one or two units. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    ["day", Math.floor(whole / 86400)],
    ["hour", Math.floor(whole / 3600) % 24],
    ["minute", Math.floor(whole / 60) % 60],
    ["second", whole % 60],
  ];
  const first = parts.findIndex(([, count]) => count > 0);
  if (first < 0) return units.second.format(0);
  return parts
    .slice(first, first + 2)
    .filter(([, count]) => count > 0)
    .map(([unit, count]) => units[unit].format(count))
    .join(", ");
}

/** Return how long somebody has been here: in minutes, since seconds would distract. */
export function stay(seconds) {
  if (seconds < 60) return text("since_now");
  return text("since", { time: duration(Math.floor(seconds / 60) * 60) });
}

/** Return a countdown such as 1:02:03. */
export function countdown(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole >= 86400) return duration(whole);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}
