// How the page for agents gives the key of a host to a page of a session that it has opened.
//
// Browsers keep the address with which a page was opened in their history, and a script cannot remove it. Therefore that
// address has a ticket in place of the key. The page of the session shows the ticket to the page for agents, which must be
// open in the same browser, and gets the key. Only pages of this origin are reached.

import { readLink } from "./link.js";

const CHANNEL = "tminus:host-key";
const LONGEST = 1500; // milliseconds

/** The ticket of this page for agents. It is worth nothing when the page is closed. */
const ticket = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Return the link with which this page opens a session as host: with a ticket, or as it is if pages of another origin serve it. */
export function hostLink({ urls }) {
  const url = new URL(urls.host);
  if (url.origin !== location.origin || !globalThis.BroadcastChannel) return urls.host;
  url.hash = `from=${ticket}`;
  return url.href;
}

/** Give keys to pages that show the ticket. `find(id)` returns a session, or nothing if this page shows none with this id. */
export function giveKeys(find) {
  const channel = open();
  channel?.addEventListener("message", ({ data }) => {
    if (data?.ticket !== ticket || data.key !== undefined) return;
    const session = find(data.id);
    if (session?.urls.host) channel.postMessage({ ticket, id: data.id, key: readLink(session.urls.host).key });
  });
}

/** Return the key of a session from the page for agents with this ticket; null if it does not answer. */
export function getKey(id, shown) {
  return new Promise((settle) => {
    const channel = open();
    const done = (key) => {
      clearTimeout(timer);
      channel?.close();
      settle(key);
    };
    const timer = setTimeout(done, channel ? LONGEST : 0, null);
    channel?.addEventListener("message", ({ data }) => {
      if (data?.ticket === shown && data.id === id && data.key) done(data.key);
    });
    channel?.postMessage({ ticket: shown, id });
  });
}

function open() {
  try {
    return new BroadcastChannel(CHANNEL);
  } catch {
    return null;
  }
}
