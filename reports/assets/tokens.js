// A response as coloured tokens.

const NUM_LEVELS = 8;

/** How strong the colour of a value is: the square root of its share of the range, so that middling values can be told apart. */
function level(value, { low, high }) {
  const end = value < 0 ? -low : high;
  return end ? Math.min(NUM_LEVELS, Math.round(NUM_LEVELS * Math.sqrt(Math.abs(value) / end))) : 0;
}

/** Class of a token's colour: n8 … n1, z, p1 … p8, or `none` without a value. A signal is neither good nor bad: q1 … q8 for either sign. */
function colourClass(column, value) {
  if (value === null) return "none";
  const strength = level(value, column);
  if (!strength) return "z";
  return (isComponent(column.name) ? (value < 0 ? "n" : "p") : "q") + strength;
}

class TokenText {
  constructor(sample, state, column) {
    Object.assign(this, { sample, state, column });
  }

  /** The tokens [begin, end) of a sequence; `hits` says which of them a search found. */
  nodes(sequence, begin, end, hits) {
    const nodes = [];
    let response = sequence.responseBegin;
    for (let i = sequence.begin; i < begin; i++) response += this.sample.isResponse[i];
    for (let i = begin; i < end; i++) {
      const isHit = hits?.has(i);
      if (this.sample.isResponse[i]) nodes.push(this.response(sequence, i, response++, isHit));
      else this.addContext(nodes, this.shown(i), isHit);
    }
    return nodes;
  }

  shown(token) {
    return shownText(this.sample.text(token), this.sample.tokenIds[this.sample.tokens[token]], this.state.markSpaces);
  }

  response(sequence, token, response, isHit) {
    const classes = ["t", colourClass(this.column, this.sample.value(this.column.name, response))];
    if (this.sample.isKept(this.state.policy, response) === false) classes.push("masked");
    if (isHit) classes.push("hit");
    const element = h("span", { class: classes.join(" "), role: "button", tabindex: "-1" }, this.shown(token));
    element.spot = { sequence, token, response };
    return element;
  }

  /** Neighbouring tokens that no loss counts stand in one element. */
  addContext(nodes, text, isHit) {
    const last = nodes.at(-1);
    const kind = isHit ? "context hit" : "context";
    if (last?.className === kind) last.append(text);
    else nodes.push(h("span", { class: kind }, text));
  }
}

/** Arrow keys go from token to token; a response is one stop of the Tab key. */
class Walker {
  constructor(list, tooltip) {
    Object.assign(this, { list, tooltip });
    const tokenOf = (event) => event.target.closest?.(".t");
    list.addEventListener("pointerover", (event) => this.hover(tokenOf(event)));
    list.addEventListener("pointerleave", () => this.hover(null));
    list.addEventListener("focusin", (event) => this.focused(tokenOf(event)));
    list.addEventListener("focusout", () => this.tooltip.hide());
    list.addEventListener("click", (event) => tokenOf(event)?.focus());
    list.addEventListener("keydown", (event) => tokenOf(event) && this.key(event, tokenOf(event)));
  }

  /** Under the pointer a token is told; elsewhere the focused one is, if any. */
  hover(token) {
    const told = token ?? (document.activeElement?.matches(".t") ? document.activeElement : null);
    if (told === this.tooltip.token) return;
    if (told) this.tooltip.show(told, told.spot);
    else this.tooltip.hide();
  }

  focused(token) {
    if (!token) return;
    token.closest(".response").querySelector('.t[tabindex="0"]')?.setAttribute("tabindex", "-1");
    token.setAttribute("tabindex", "0");
    this.tooltip.show(token, token.spot);
  }

  key(event, token) {
    const tokens = [...token.closest(".response").querySelectorAll(".t")];
    const at = tokens.indexOf(token);
    const goal = {
      ArrowRight: () => tokens[at + 1], ArrowLeft: () => tokens[at - 1], Home: () => tokens[0], End: () => tokens.at(-1),
      ArrowDown: () => this.beside(tokens, token, 1), ArrowUp: () => this.beside(tokens, token, -1),
      Enter: () => token, " ": () => token,
    }[event.key];
    if (!goal || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (goal() === token) this.tooltip.show(token, token.spot);
    else goal()?.focus();
  }

  /** The token of the next line (sign 1) or the one before (sign −1) that is nearest to the column of this one. */
  beside(tokens, token, sign) {
    const place = (one) => {
      const at = one.getClientRects()[0];
      return { x: at.left, y: at.top + at.height / 2, height: at.height };
    };
    const here = place(token);
    const others = tokens.map((one) => ({ one, ...place(one) })).filter(({ y }) => sign * (y - here.y) > here.height / 2);
    const nextLine = Math.min(...others.map(({ y }) => sign * y));
    const onLine = others.filter(({ y }) => sign * y - nextLine < here.height / 2);
    return onLine.sort((a, b) => Math.abs(a.x - here.x) - Math.abs(b.x - here.x))[0]?.one;
  }
}
