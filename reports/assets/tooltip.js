// What is known about one token, beside it: on hover and on keyboard focus alike.

class Tooltip {
  constructor(sample, columns, state) {
    Object.assign(this, { sample, columns, state, element: byId("tooltip"), token: null });
    addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    addEventListener("scroll", () => this.token && this.place(), { passive: true });
  }

  show(token, spot) {
    this.hide();
    this.token = token;
    this.element.replaceChildren(...this.content(spot));
    this.element.hidden = false;
    token.setAttribute("aria-describedby", "tooltip");
    token.classList.add("told");
    this.place();
  }

  hide() {
    this.element.hidden = true;
    this.token?.removeAttribute("aria-describedby");
    this.token?.classList.remove("told");
    this.token = null;
  }

  /** Below the token, above it where there is no room; always inside the window. */
  place() {
    const at = this.token.getClientRects()[0] ?? this.token.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const below = at.bottom + 8;
    const top = below + height <= innerHeight ? below : Math.max(4, at.top - height - 8);
    this.element.style.setProperty("left", `${Math.max(4, Math.min(at.left, innerWidth - width - 8))}px`);
    this.element.style.setProperty("top", `${top}px`);
  }

  content({ sequence, token, response }) {
    const { sample, state } = this;
    const tokenId = sample.tokenIds[sample.tokens[token]];
    const position = sequence.firstPosition + token - sequence.begin;
    return [
      h("p", { class: "tip-head" }, h("code", { class: "tip-token" }, quoted(sample.text(token), tokenId)), ` position ${position}, id ${tokenId}`),
      h("p", { class: "tip-keeps" }, Object.keys(sample.keeps).map((policy) => this.decision(policy, response, policy === state.policy))),
      h("table", {}, h("tbody", {}, this.columns.map((column) => this.row(column, sample.value(column.name, response))))),
    ];
  }

  decision(policy, response, isChosen) {
    const kept = this.sample.isKept(policy, response);
    return h("span", { class: isChosen ? "decision chosen" : "decision" }, `${kept ? "✓" : "✗"} ${policy}: ${kept ? "kept" : "masked"}`);
  }

  row(column, value) {
    return h("tr", { class: column.name === this.state.column ? "chosen" : null },
      h("th", { scope: "row" }, LABELS[column.name]),
      h("td", { class: "number" }, isComponent(column.name) && value !== null ? signed(value) : numeral(value)),
      h("td", {}, this.meter(column, value)),
      h("td", {}, verdict(column.name, value)));
  }

  /** The value in the column's range, which holds 98% of all tokens. */
  meter({ name, low, high }, value) {
    if (value === null) return null;
    const at = (x) => (100 * (Math.max(low, Math.min(high, x)) - low)) / (high - low);
    const [from, to] = [at(Math.min(0, value)), at(Math.max(0, value))];
    return s("svg", { class: "meter", viewBox: "0 0 100 10", "aria-hidden": "true", preserveAspectRatio: "none" },
      s("rect", { class: "meter-ground", x: 0, y: 3, width: 100, height: 4 }),
      s("rect", { class: `bar ${hue(name, value)}`, x: from, y: 1, width: Math.max(1, to - from), height: 8 }),
      s("rect", { class: "meter-zero", x: Math.min(99, at(0)), y: 0, width: 1, height: 10 }));
  }
}
