// Reads the address of the page once, and removes every secret from it.

const PIN = /^[0-9](?:[ -]*[0-9]){5}$/;
const ID = /^[A-Za-z0-9]{4,32}$/;

/** Return the six digits of a text, or null if it is not a PIN. Spaces, dashes and dots between digits are ignored. */
export function pinOf(text) {
  const digits = text.replace(/[\s.\u00a0\u2010-\u2015\u2212-]/g, "");
  return /^[0-9]{6}$/.test(digits) ? digits : null;
}

/** Return what an address asks for.
 *
 * `pin`: digits of a PIN, from the path, the query (if the configured page is a file) or `#cobrowse_pin=`.
 * `id`: the id of a session, from the query. `key`: the host key. `ticket`: a ticket for which the page for agents gives
 * the host key. `foreign`: whether the fragment had a secret of another system, which is dropped.
 */
export function readLink(address) {
  const url = new URL(address);
  const found = { pin: null, id: null, key: null, ticket: null, foreign: false };
  const last = decoded(url.pathname.slice(url.pathname.lastIndexOf("/") + 1));
  if (PIN.test(last)) found.pin = pinOf(last);
  // Mail programs append a `=`, and trackers append parameters.
  const asked = decoded(url.search.slice(1).split("&")[0].replace(/=$/, ""));
  if (PIN.test(asked)) found.pin = pinOf(asked);
  if (ID.test(asked)) found.id = asked;
  for (const pair of url.hash.slice(1).split("&")) {
    const [name, value] = [pair.slice(0, pair.indexOf("=")), decoded(pair.slice(pair.indexOf("=") + 1))];
    if (name === "host" && value) found.key = value.slice(0, 128);
    if (name === "from" && value) found.ticket = value.slice(0, 64);
    if (name === "token") found.foreign = true;
    if (name === "cobrowse_pin") found.pin = pinOf(value) ?? found.pin;
  }
  return found;
}

/** Remove the fragment from the address bar and from the history. */
export function dropFragment() {
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
}

/** Put a session's id in the address in place of its PIN, which the browser's history should not keep. */
export function showId(id) {
  const path = location.pathname;
  const last = path.slice(path.lastIndexOf("/") + 1);
  const page = PIN.test(decoded(last)) ? path.slice(0, path.length - last.length) : path;
  history.replaceState(null, "", `${page}?${id}`);
}

/** Put the address of the page without a session in the address bar. */
export function showNone() {
  const path = location.pathname;
  const last = path.slice(path.lastIndexOf("/") + 1);
  const isFile = /\.[a-z]+$/i.test(last);
  history.replaceState(null, "", isFile ? path : path.slice(0, path.length - last.length));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}
