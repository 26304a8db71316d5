// Numbers and names in words.

const LABELS = {
  adapt_direct: "adaptation, direct", adapt_causal: "adaptation, causal", stab_direct: "stability, direct", stab_causal: "stability, causal",
  loss: "loss", ref_loss: "reference loss", entropy: "entropy", margin: "margin", el2n: "EL2N", grad_norm: "gradient norm",
  pair_margin: "margin of the pairs", pair_weight: "weight of the pairs",
};

const COMPONENTS = ["adapt_direct", "adapt_causal", "stab_direct", "stab_causal"];

const isComponent = (name) => COMPONENTS.includes(name);
const count = (number) => Number(number).toLocaleString("en-US");
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}%`);

/** Three digits that count, with a real minus sign. */
function numeral(value) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e5 || size < 1e-3 ? size.toExponential(2) : size.toPrecision(3);
  return (value < 0 ? "−" : "") + (text.includes("e") ? text : String(Number(text)));
}

const signed = (value) => (value > 0 ? "+" : "") + numeral(value);

/** The hue of a value: that of its sign where the sign says something. */
const hue = (name, value) => (!isComponent(name) ? "signal" : value < 0 ? "negative" : "positive");

/** What the sign of a value of a component says. */
function verdict(name, value) {
  if (value === null) return "no value";
  if (!isComponent(name)) return "";
  return value > 0 ? "helps" : value < 0 ? "hurts" : "neutral";
}

const VISIBLE = { "\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣", "\u00a0": "⍽" };
// Characters that show nothing, or move their neighbours: controls, zero widths, marks of direction, separators.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const codePoint = (character) => `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;

/** A token as it stands in its line: spaces stay spaces beside letters, everything else that cannot be seen is drawn. */
function shownText(text, tokenId, markSpaces) {
  if (text === null) return `⟨id ${tokenId}⟩`;
  if (text === "") return "∅";
  const drawn = text.replace(HIDDEN, codePoint).replace(/[\t\r\u00a0]/g, (character) => VISIBLE[character]).replace(/\n/g, "↵\n");
  return markSpaces || /^ +$/.test(text) ? drawn.replace(/ /g, "␣") : drawn;
}

/** A token in a sentence: nothing invisible is left. */
function quoted(text, tokenId) {
  if (text === null) return `⟨id ${tokenId}⟩`;
  if (text === "") return "∅";
  return text.replace(HIDDEN, codePoint).replace(/[\n\t\r \u00a0]/g, (character) => VISIBLE[character]);
}
