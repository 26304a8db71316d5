// One example: where it is from, its prompt, and its responses, those of a pair side by side.

const PROMPT_PREVIEW = 160;

class Cards {
  constructor(sample, state, columns) {
    Object.assign(this, { sample, state, columns });
  }

  card(example, sequences, found) {
    const column = this.columns.find(({ name }) => name === this.state.column);
    const texts = new TokenText(this.sample, this.state, column);
    return h("article", { class: "card", "aria-label": `Example ${example.id}` },
      h("header", {}, h("h3", {}, h("code", { title: example.id }, example.id.slice(0, 12))), this.facts(example)),
      this.prompt(sequences[0], texts, found),
      h("div", { class: sequences.length > 1 ? "pair" : "single" }, sequences.map((one) => this.response(one, texts, column, found))));
  }

  facts(example) {
    const told = [
      `source: ${example.source ?? "none named"}`, example.file && `${example.file}, line ${count(example.line)}`,
      example.multiplicity > 1 && `${count(example.multiplicity)} times in the data`,
      example.margin !== null && `margin ${signed(example.margin)}, weight ω ${numeral(example.weight)}`,
    ];
    return told.filter(Boolean).map((text) => h("span", { class: "fact" }, text));
  }

  /** Everything before the first response token. */
  prompt(sequence, texts, found) {
    const end = this.firstResponse(sequence);
    if (end === sequence.begin) return null;
    const hits = found?.get(sequence);
    const cut = sequence.firstPosition ? `… (${count(sequence.firstPosition)} tokens before) ` : "";
    const preview = this.sample.preview(sequence.begin, end, PROMPT_PREVIEW);
    const isHit = hits && [...hits].some((token) => token < end);
    return h("details", { class: "prompt", open: isHit },
      h("summary", {}, h("span", { class: "prompt-label" }, "Prompt "), cut, preview),
      h("div", { class: "text", dir: "auto" }, cut, texts.nodes(sequence, sequence.begin, end, hits)));
  }

  response(sequence, texts, column, found) {
    const share = this.sample.keptShare(this.state.policy, sequence);
    const mean = this.sample.mean(column.name, sequence);
    const id = `s${sequence.number}`;
    const nodes = texts.nodes(sequence, this.firstResponse(sequence), sequence.end, found?.get(sequence));
    nodes.find((node) => node.matches(".t"))?.setAttribute("tabindex", "0");
    return h("section", { class: "branch" },
      h("h4", { id },
        h("span", { class: `branch-name ${sequence.branch}` }, sequence.branch),
        h("span", { class: "fact" }, `${count(sequence.numResponse)} response tokens`),
        share === null ? null : h("span", { class: "fact" }, `${percent(share)} kept`),
        h("span", { class: "fact" }, `mean ${LABELS[column.name]}: ${isComponent(column.name) && mean !== null ? signed(mean) : numeral(mean)}`)),
      h("div", { class: "text response", dir: "auto", role: "group", "aria-labelledby": id, "aria-roledescription": "tokens" }, nodes));
  }

  firstResponse(sequence) {
    let at = sequence.begin;
    while (at < sequence.end && !this.sample.isResponse[at]) at++;
    return at;
  }
}
