// What the page shows. All text from others is set as text, never as markup.

const announcement = document.getElementById("announcement");
const title = document.title;

let current = document.body.dataset.start === "link" ? "loading" : document.body.dataset.start;
let prefix = "";

export const one = (selector, within = document) => within.querySelector(selector);
export const section = (state) => one(`main > [data-state="${state}"]`);

/** The state that is shown. */
export const shown = () => current;

/** Show a state, move the focus to its heading or to `focus`, and announce the paragraph after the heading. */
export function show(state, focus = null) {
  const changes = state !== current;
  for (const each of document.querySelectorAll("main > [data-state]")) each.hidden = each.dataset.state !== state;
  current = state;
  const heading = one("h1", section(state));
  if (changes) {
    (focus ?? heading).focus();
    const lead = one("h1 + p:not([aria-hidden]):not([hidden]), .lead", section(state));
    if (lead) announce(lead.textContent);
  }
  retitle(prefix);
}

/** Set the beginning of the page's title, such as the number of people who wait. */
export function retitle(before) {
  prefix = before;
  const heading = one("h1", section(current)).textContent.trim();
  document.title = `${prefix}${current === "pin" || !heading ? title : `${heading} – ${title}`}`;
}

/** Let screen readers read a sentence, without moving the focus. */
export function announce(sentence) {
  // The same text again would not be read.
  announcement.textContent = "";
  setTimeout(() => (announcement.textContent = sentence), 50);
}

/** Set a field in each element that shows it. An empty value hides the field, and its row in a card. */
export function fill(name, value) {
  for (const field of document.querySelectorAll(`[data-field="${name}"]`)) {
    if (field.textContent !== value) field.textContent = value;
    const row = field.closest(".card > div") ?? field;
    row.hidden = !value;
  }
}

/** Show or hide everything with a field's name, whose text is fixed. */
export function reveal(name, visible) {
  for (const field of document.querySelectorAll(`[data-field="${name}"]`)) field.hidden = !visible;
}

/** Show the cards once they have content. */
export function showCards() {
  for (const card of document.querySelectorAll(".card")) card.hidden = false;
}

/** Show or hide a banner; it is read at once. */
export function banner(id, sentence, field) {
  const element = document.getElementById(id);
  const was = element.hidden;
  one(`[data-field="${field}"]`, element).textContent = sentence;
  element.hidden = !sentence;
  if (sentence && was) announce(element.querySelector("p").textContent);
}

/** Show an error below an input, or remove it. */
export function fault(input, sentence) {
  document.getElementById(`${input.id}-error`).textContent = sentence;
  if (sentence) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** Show rows in a list. Rows that stay keep their elements, so that the focus stays on their buttons. */
export function list(ul, rows, make, update) {
  const before = new Map([...ul.children].map((item) => [item.dataset.id, item]));
  const hadFocus = ul.contains(document.activeElement);
  rows.forEach((row, index) => {
    let item = before.get(row.id);
    if (!item) {
      item = make(row);
      item.dataset.id = row.id;
    }
    before.delete(row.id);
    update(item, row);
    if (ul.children[index] !== item) ul.insertBefore(item, ul.children[index] ?? null);
  });
  for (const gone of before.values()) gone.remove();
  if (hadFocus && !ul.contains(document.activeElement)) (one("button", ul) ?? one("h1", section(current))).focus();
}

/** Return an element with a class and a text. */
export function element(name, className, content = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  return made;
}

/** Return a button that ignores presses for a second once it is pressed, so that a double click acts once. */
export function button(className, content, label, pressed) {
  const made = element("button", className, content);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => {
    if (made.getAttribute("aria-disabled") === "true") return;
    made.setAttribute("aria-disabled", "true"); // not `disabled`, which would lose the focus
    setTimeout(() => made.removeAttribute("aria-disabled"), 1000);
    pressed();
  });
  return made;
}

/** Ask in a dialog; return whether the answer is yes. */
export function ask(id) {
  const dialog = document.getElementById(id);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((settle) => {
    dialog.addEventListener("close", () => settle(dialog.returnValue === "yes"), { once: true });
  });
}
