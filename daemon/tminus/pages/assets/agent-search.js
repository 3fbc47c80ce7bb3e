// Search: what the page has read is filtered at once; then the server is asked.

import { call } from "./agent-api.js";
import { pinOf as digitsOf, readLink } from "./link.js";
import { recordOf } from "./agent-rows.js";

// Ids have 12 characters for live sessions, and 6 for the other types.
const ID = /^(?:[A-Za-z0-9]{6}|[A-Za-z0-9]{12})$/;

const STEPS = 5; // requests, each of which searches 5,000 sessions, after which the agent decides whether to go on

/** Return what to search for: for a link of a session, its PIN or id. The key of a host never leaves the page. */
export function wordsOf(typed) {
  const words = typed.trim();
  const bare = words.replace(/[#&](?:host|token)=.*$/s, "");
  if (bare === words && !/^https?:\/\/\S+$/i.test(words)) return words;
  try {
    const { pin, id } = readLink(words.includes("://") ? words : `https://${words}`);
    return pin ?? id ?? bare;
  } catch {
    return bare;
  }
}

/** Return whether a session, as far as the page has it, contains the words. */
export function matches(session, words) {
  const wanted = words.toLowerCase();
  const pin = digitsOf(words);
  if (pin && String(session.pin) === pin) return true;
  if (session.id === words) return true;
  return [session.label, session.externalMapping ?? "", recordOf(session), session.userDescription ?? ""].some((one) =>
    one.toLowerCase().includes(wanted),
  );
}

/** Look a session up by its exact PIN or id. Returns `{session}`, `{foreign: true}` if it is another agent's, or `{}`. */
export async function lookUp(words) {
  const pin = digitsOf(words);
  if (pin) {
    const found = await orNone(call("GET", `support/${pin}/meta`));
    if (found) return show(found.id);
  }
  return ID.test(words) ? show(words) : {};
}

async function show(id) {
  try {
    return { session: await call("GET", `supportsession/${encodeURIComponent(id)}`) };
  } catch (failure) {
    if (failure.status === 403) return { foreign: true };
    if (failure.status === 404) return {};
    throw failure;
  }
}

async function orNone(asked) {
  try {
    return await asked;
  } catch (failure) {
    if (failure.status === 404) return null;
    throw failure;
  }
}

/** Search texts on the server from an offset. Returns `{rows, next}`; `next` is null at the end. */
export async function searchTexts(words, scope, offset = 0) {
  const rows = [];
  for (let step = 0; step < STEPS && offset !== null; step += 1) {
    const answer = await call("GET", "supportsessions", {
      parameters: { search: words, scope, offset, limit: 100, status: ["scheduled", "new", "active", "closed"] },
    });
    rows.push(...answer.rows);
    offset = answer.next;
    if (rows.length >= 100) break;
  }
  return { rows, next: offset };
}
