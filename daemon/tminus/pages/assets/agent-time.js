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

/** Return a moment as briefly as it is clear: the time for today, else with the day. */
export function brief(iso, now = new Date()) {
  const then = new Date(iso);
  if (then.toDateString() === now.toDateString()) return clock.format(then);
  return (then.getFullYear() === now.getFullYear() ? dayAndClock : withYear).format(then);
}

/** Return a moment with date and time zone. */
export function full(iso) {
  return whole.format(new Date(iso));
}
