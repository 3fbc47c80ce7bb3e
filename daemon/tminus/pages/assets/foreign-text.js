// Text from other people, as it arrives in JSON.

// Marks that embed, override or isolate a direction. A mark without its end would also affect what follows the text. Not
// even `<bdi>` stops an isolate, which swallows the end of that element. U+2028 and U+2029 end a paragraph.
const STRAY = /[\u202a-\u202e\u2066-\u2069\u2028\u2029]/g;

// Hebrew, Arabic and the other scripts of these blocks, and the marks that make their direction explicit.
const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1eeff}]/u;

/** Return the value of a JSON text. Its strings have no marks that change the direction of the text around them. */
export function parse(json) {
  return JSON.parse(json, (_, value) => (typeof value === "string" ? value.replace(STRAY, "") : value));
}

/** Return a text as it can stand in a sentence: one that is written from right to left does not reorder the rest. */
export function isolated(text) {
  return RIGHT_TO_LEFT.test(text) ? `\u2068${text}\u2069` : text;
}
