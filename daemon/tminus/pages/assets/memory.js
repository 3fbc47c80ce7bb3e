// What a tab remembers about a session, so that a reload changes nothing. Other tabs and later visits do not see it.

const PREFIX = "tminus:";

/** Return what this tab remembers about a session: name, host key, resume key. */
export function recall(id) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + id)) ?? {};
  } catch {
    return {};
  }
}

/** Change what this tab remembers about a session. A value of undefined is forgotten. */
export function remember(id, change) {
  try {
    sessionStorage.setItem(PREFIX + id, JSON.stringify({ ...recall(id), ...change }));
  } catch {
    // Storage is switched off: a reload asks for the name again.
  }
}

/** Forget all secrets of a session. The name stays. */
export function forgetSecrets(id) {
  remember(id, { key: undefined, resume: undefined });
}

/** Find out whether another tab uses the same resume key: duplicating a tab copies its memory.
 *
 * Without this, both tabs would take the connection from each other, again and again.
 */
export function inUseElsewhere(id, resume) {
  return new Promise((settle) => {
    const channel = open(id);
    if (!channel || !resume) return settle(false);
    channel.onmessage = ({ data }) => data?.mine === resume && done(true);
    channel.postMessage({ whose: resume });
    const timer = setTimeout(() => done(false), 150);
    function done(answer) {
      clearTimeout(timer);
      channel.close();
      settle(answer);
    }
  });
}

/** Answer other tabs that this one uses the resume key that `current` returns. */
export function claim(id, current) {
  const channel = open(id);
  if (!channel) return;
  channel.onmessage = ({ data }) => {
    if (data?.whose && data.whose === current()) channel.postMessage({ mine: data.whose });
  };
}

function open(id) {
  try {
    return new BroadcastChannel(PREFIX + id);
  } catch {
    return null;
  }
}
