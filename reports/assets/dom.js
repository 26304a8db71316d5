// Elements. Texts always go in as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

/** A table with a caption; the first cell of a row is its head. Columns: [title, value of a row → text or element, is it a number]. */
function table(caption, columns, rows, attributes) {
  const head = h("tr", {}, columns.map(([title, , number]) => h("th", { scope: "col", class: number ? "number" : null }, title)));
  const cell = (row) => ([, value, number], place) =>
    h(place ? "td" : "th", { scope: place ? null : "row", class: number ? "number" : null }, value(row));
  const body = rows.map((row) => h("tr", {}, columns.map(cell(row))));
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": caption },
    h("table", attributes, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, body)));
}

function choice(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
}

function debounce(wait, action) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}
