// Errors of the API in words: what happened, and what to do.

import { duration, text } from "./words.js";

const BY_REFCODE = {
  100400: "error_invalid",
  101400: "error_start",
  101404: "error_gone",
  101409: "error_status",
  101412: "error_changed",
  101429: "error_many",
  101503: "error_pins",
  103409: "error_key",
  104403: "error_forbidden",
  104429: "error_guesses",
  105503: "error_busy",
  107503: "error_database",
  108503: "error_stopping",
  110503: "error_stopping",
  169400: "error_guesses",
};

/** Return what an error means for the agent. */
export function errorText(failure) {
  if (failure.kind === "lost") return text("error_lost");
  if (failure.kind === "ended") return text("error_ended");
  const words = BY_REFCODE[failure.refcode] ?? "error_other";
  // A limit of open sessions does not pass with time.
  const wait = failure.retryAfter && words !== "error_many" ? duration(failure.retryAfter) : "";
  const sentence = text(words, { description: failure.description || `HTTP ${failure.status}` });
  return wait ? `${sentence} ${text("error_wait", { time: wait })}` : sentence;
}
