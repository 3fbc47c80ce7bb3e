// Dates and times in the agent's own time zone.

const page = document.documentElement.lang;
const locale = navigator.languages?.find((one) => one.toLowerCase().startsWith(page)) ?? page;

/** The name of the time zone of this computer. */
export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat(locale, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const withYear = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(locale, {
  weekday: "long", day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
});

/** Return a moment as briefly as is clear: the time alone if it is today, otherwise with the day. */
export function brief(iso, now = new Date()) {
  const then = new Date(iso);
  if (then.toDateString() === now.toDateString()) return clock.format(then);
  return (then.getFullYear() === now.getFullYear() ? dayAndClock : withYear).format(then);
}

/** Return a moment with date and time zone. */
export function full(iso) {
  return whole.format(new Date(iso));
}

const longDay = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

/** Return the time of a moment. */
export const clockOf = (at) => clock.format(at);

/** Return the day of a moment. */
export const dayOf = (at) => longDay.format(at);

const DAY = 86_400_000;
const minutes = (at) => -new Date(at).getTimezoneOffset();

/** Return an offset from UTC, such as UTC+2 or UTC+5:30. */
function offsetText(at) {
  const offset = minutes(at);
  const [hours, rest] = [Math.floor(Math.abs(offset) / 60), Math.abs(offset) % 60];
  return `UTC${offset < 0 ? "−" : "+"}${hours}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
}

/** Return the time zone of this computer at a moment, with its offset. */
export function zoneAt(at) {
  return `${ZONE}, ${offsetText(at)}`;
}

/** Return a moment as time with its offset, to tell two moments with the same clock time apart. */
export function clockWithOffset(at) {
  return `${clock.format(at)} (${offsetText(at)})`;
}

/** Return what a date and a time, as inputs have them, mean on this computer's clock.
 *
 * `moments`: the moments at which the clock shows them: one; two in the hour that is repeated when clocks go back; none
 * in the hour that is skipped when clocks go forward. Then `gap` has the times before and after the skip.
 */
export function moments(date, time) {
  const [year, month, day] = date.split("-").map(Number);
  const [hour, minute] = time.split(":").map(Number);
  const shown = new Date(0);
  shown.setUTCFullYear(year, month - 1, day);
  shown.setUTCHours(hour, minute, 0, 0);
  const local = shown.getTime();
  const offsets = [...new Set([minutes(local - DAY), minutes(local + DAY)])];
  const found = offsets.map((offset) => [local - offset * 60_000, offset]);
  const real = found.filter(([at, offset]) => minutes(at) === offset).map(([at]) => at);
  return { moments: real.sort((one, two) => one - two), gap: real.length ? null : gapAround(local) };
}

function gapAround(local) {
  let [before, after] = [local - DAY, local + DAY];
  const old = minutes(before);
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2);
    if (minutes(middle) === old) before = middle;
    else after = middle;
  }
  const utcClock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
  return { from: utcClock.format(after + old * 60_000), to: utcClock.format(after + minutes(after) * 60_000) };
}

/** Return the date and the time of a moment, as inputs have them. */
export function inputs(at) {
  const then = new Date(at);
  const two = (number) => String(number).padStart(2, "0");
  const date = `${String(then.getFullYear()).padStart(4, "0")}-${two(then.getMonth() + 1)}-${two(then.getDate())}`;
  return { date, time: `${two(then.getHours())}:${two(then.getMinutes())}` };
}

/** Return the next full hour that is at least half an hour ahead. */
export function nextHour(now = Date.now()) {
  const then = new Date(now + 30 * 60_000);
  then.setMinutes(60, 0, 0);
  return then.getTime();
}
