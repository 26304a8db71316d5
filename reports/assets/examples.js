// The list of examples: search, filters, order, pages.

const PAGE_SIZE = 20;

const ORDERS = [
  ["sample", "as sampled"], ["high", "highest mean value first"], ["low", "lowest mean value first"], ["kept-low", "least kept first"],
  ["kept-high", "most kept first"], ["long", "longest response first"], ["source", "by source"],
];
const ORDERS_OF_PAIRS = [["margin-low", "smallest margin first"], ["margin-high", "largest margin first"]];

class Examples {
  constructor(content, sample, state, tooltip) {
    Object.assign(this, { content, sample, state, cards: new Cards(sample, state, content.columns), page: 0, tooltip });
    this.branches = [...new Set(sample.lists.branch_names)].sort();
    this.list = h("div", { id: "list" });
    this.walker = new Walker(this.list, tooltip);
    this.told = h("p", { id: "found", role: "status" });
    this.pagers = [this.pager("Pages, above the examples"), this.pager("Pages, below the examples")];
    this.legend = h("div", { class: "legend", role: "group", "aria-label": "Legend" });
    this.panel = [this.controls(), this.legend, this.told, this.pagers[0].element, this.list, this.pagers[1].element];
  }

  controls() {
    const again = () => this.restart();
    const control = (label, input) => h("label", {}, h("span", {}, label), input);
    this.search = h("input", { type: "search", id: "search", placeholder: "text, or the beginning of an id", oninput: debounce(150, again) });
    this.source = h("select", { id: "source", onchange: again });
    this.branch = h("select", { id: "branch", onchange: again });
    this.order = h("select", { id: "order", onchange: again });
    this.column = h("select", { id: "column", onchange: () => { this.state.column = this.column.value; again(); } });
    this.spaces = h("input", { type: "checkbox", id: "spaces", onchange: () => { this.state.markSpaces = this.spaces.checked; this.draw(); } });
    const names = this.sample.fields.source_names;
    choice(this.source, [["", "all"], ...names.map((name, i) => [String(i), name ?? "none named"])], "");
    choice(this.branch, [["", "all"], ...this.branches.map((name) => [name, name])], "");
    choice(this.order, this.content.pairs ? [...ORDERS, ...ORDERS_OF_PAIRS] : ORDERS, "sample");
    choice(this.column, this.content.columns.map(({ name }) => [name, LABELS[name]]), this.state.column);
    return h("form", { class: "controls", role: "search", "aria-label": "Examples", onsubmit: (event) => event.preventDefault() },
      control("Search", this.search), control("Colour by", this.column), control("Order", this.order), control("Source", this.source),
      control("Branch", this.branch), h("label", { class: "check" }, this.spaces, " mark every space"));
  }

  pager(label) {
    const turn = (by) => (event) => {
      this.page += by;
      this.draw();
      // At the last page this button cannot be pressed any more: the focus goes to its neighbour and is not lost.
      if (event.target.disabled) (by < 0 ? next : back).focus();
      scrollTo({ top: byId("panels").offsetTop - byId("tabs").offsetHeight - 20 });
    };
    const back = h("button", { type: "button", onclick: turn(-1) }, "← Previous");
    const next = h("button", { type: "button", onclick: turn(1) }, "Next →");
    const where = h("span", {});
    return { element: h("nav", { class: "pager", "aria-label": label }, back, where, next), back, next, where };
  }

  restart() {
    this.page = 0;
    this.find();
    this.draw();
  }

  /** Which examples are listed, in which order; each with the sequences that the filter of branches leaves. */
  find() {
    const words = this.search.value.trim().toLowerCase();
    this.hits = words ? new Map() : null;
    const source = this.source.value === "" ? null : this.sample.fields.source_names[Number(this.source.value)];
    this.found = [];
    for (const example of this.sample.examples) {
      if (this.source.value !== "" && example.source !== source) continue;
      const sequences = example.sequences.filter(({ branch }) => !this.branch.value || branch === this.branch.value);
      if (!sequences.length) continue;
      if (words && !this.matches(example, sequences, words)) continue;
      this.found.push({ example, sequences });
    }
    this.sort();
  }

  matches(example, sequences, words) {
    const inText = sequences.filter((sequence) => this.matchTokens(sequence, words));
    return inText.length > 0 || example.id.startsWith(words);
  }

  matchTokens(sequence, words) {
    const { text, starts } = this.sample.plain(sequence);
    const tokens = new Set();
    let token = 0;
    for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
      while (starts[token + 1] <= at) token++;
      for (let i = token; starts[i] < at + words.length && sequence.begin + i < sequence.end; i++) tokens.add(sequence.begin + i);
    }
    if (tokens.size) this.hits.set(sequence, tokens);
    return tokens.size > 0;
  }

  sort() {
    const { column, policy } = this.state;
    const mean = (of) => ({ sequences }) => {
      const known = sequences.map(of).filter((value) => value !== null);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    };
    const value = mean((sequence) => this.sample.mean(column, sequence));
    const share = mean((sequence) => this.sample.keptShare(policy, sequence));
    const length = ({ sequences }) => Math.max(...sequences.map(({ numResponse }) => numResponse));
    const rising = { low: value, high: (one) => negative(value(one)), "kept-low": share, "kept-high": (one) => negative(share(one)), long: (one) => -length(one),
      "margin-low": ({ example }) => example.margin, "margin-high": ({ example }) => negative(example.margin) };
    const key = rising[this.order.value];
    if (this.order.value === "source") this.found.sort((a, b) => (a.example.source ?? "").localeCompare(b.example.source ?? ""));
    if (!key) return;
    const keys = new Map(this.found.map((one) => [one, key(one)]));
    this.found.sort((a, b) => (keys.get(a) ?? Infinity) - (keys.get(b) ?? Infinity) || a.example.number - b.example.number);
  }

  draw() {
    const numPages = Math.max(1, Math.ceil(this.found.length / PAGE_SIZE));
    this.page = Math.max(0, Math.min(this.page, numPages - 1));
    this.tooltip.hide();
    const shown = this.found.slice(this.page * PAGE_SIZE, (this.page + 1) * PAGE_SIZE);
    this.list.replaceChildren(...shown.map(({ example, sequences }) => this.cards.card(example, sequences, this.hits)));
    this.told.textContent = `${count(this.found.length)} of ${count(this.sample.examples.length)} embedded examples`;
    for (const { element, back, next, where } of this.pagers) {
      element.hidden = numPages === 1;
      back.disabled = this.page === 0;
      next.disabled = this.page === numPages - 1;
      where.textContent = `page ${this.page + 1} of ${numPages}`;
    }
    this.legend.replaceChildren(...legend(this.content.columns.find(({ name }) => name === this.state.column)).filter(Boolean));
  }
}

const negative = (value) => (value === null ? null : -value);

/** What colours and marks say. */
function legend(column) {
  const swatch = (kind) => h("span", { class: `swatch ${kind}` });
  const levels = Array.from({ length: NUM_LEVELS }, (_, i) => i + 1);
  const [low, high] = isComponent(column.name) ? ["n", "p"] : ["q", "q"];
  const [left, right] = isComponent(column.name) ? [" hurts", " helps"] : ["", ""];
  return [
    h("span", { class: "scale" },
      column.low < 0 ? [h("span", {}, `${numeral(column.low)}${left}`), h("span", { class: "swatches" }, [...levels].reverse().map((i) => swatch(`${low}${i}`)))] : null,
      h("span", {}, "0"),
      column.high > 0 ? [h("span", { class: "swatches" }, levels.map((i) => swatch(`${high}${i}`))), h("span", {}, `${column.low < 0 ? "+" : ""}${numeral(column.high)}${right}`)] : null),
    h("span", { class: "unit" }, column.unit),
    h("span", {}, h("span", { class: "t z masked" }, "masked"), " by the policy"),
    h("span", {}, h("span", { class: "t z" }, "kept")),
    column.num_null ? h("span", {}, h("span", { class: "t none" }, "no value")) : null,
    h("span", { class: "context" }, "not a response token"),
  ];
}
