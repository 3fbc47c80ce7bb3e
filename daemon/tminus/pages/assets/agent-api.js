// Calls of the public API. The cookie authenticates them, together with the key that only this page contains.

import { parse } from "./foreign-text.js";

const KEY = document.querySelector('meta[name="csrf"]').content;
const LONGEST = 20_000; // milliseconds after which a call counts as lost

/** Why a call failed.
 *
 * `kind`: `lost` – no answer arrived, and the call may have been carried out or not; `ended` – the caller is no longer
 * signed in; `refused` – the server gave a reason: `status`, `refcode`, `description`, `errors`, `retryAfter` (seconds).
 */
export class Failure extends Error {
  constructor(kind, status = 0, body = {}, retryAfter = 0) {
    super(body.description ?? kind);
    Object.assign(this, { kind, status, refcode: body.refcode ?? 0, description: body.description ?? "", retryAfter });
    this.errors = Array.isArray(body.errors) ? body.errors : [];
  }
}

/** Return the address of a path of the API, with parameters. An array repeats its parameter. */
export function address(path, parameters = {}) {
  const url = new URL(`v3/${path}`, location.href);
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) if (each !== undefined && each !== "") url.searchParams.append(name, each);
  }
  return url;
}

/** Make a request; return the response once its head has arrived. Throws `Failure`. */
export async function request(method, url, { headers = {}, body, signal } = {}) {
  let response;
  try {
    response = await fetch(url, {
      method, body, signal, cache: "no-store", credentials: "same-origin", redirect: "error",
      headers: { "X-CSRF-Token": KEY, ...headers },
    });
  } catch {
    throw new Failure("lost");
  }
  if (response.ok) return response;
  let answer = {};
  try {
    answer = parse(await response.text()) ?? {};
  } catch {
    // A proxy answers in HTML.
  }
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  throw new Failure(response.status === 401 ? "ended" : "refused", response.status, answer, retryAfter);
}

/** Call the API; return the answer. Throws `Failure`. */
export async function call(method, path, { parameters, body, headers = {} } = {}) {
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const response = await request(method, address(path, parameters), {
    body: sent,
    headers: sent === undefined ? headers : { "Content-Type": "application/json", ...headers },
    signal: AbortSignal.timeout(LONGEST),
  });
  let answer = null;
  try {
    answer = parse(await response.text());
  } catch {
    // The connection was lost, or this is the page of a proxy.
  }
  // Every answer of the API is an object.
  if (answer === null || typeof answer !== "object") throw new Failure("lost");
  return answer;
}

/** Return whether a call may succeed if it is repeated as it is. */
export function isTemporary(failure) {
  return failure.kind === "lost" || (failure.kind === "refused" && failure.status >= 500);
}
