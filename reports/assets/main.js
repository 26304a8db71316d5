// Puts the page together.

const PANELS = [["examples", "Examples"], ["values", "Values"], ["masks", "Masks"], ["training", "Training"], ["drift", "Drift"]];

function facts(content) {
  const { head, embedded } = content;
  const told = [
    ["Warehouse", head.warehouse_name], ["Release", `${head.release_id}, ${head.released_at} UTC`],
    ["Scoring", `${head.scoring_id.slice(0, 12)}, ${head.scored_at} UTC; ${head.estimator ?? "estimator not told"}${head.dtype ? `, ${head.dtype}` : ""}`],
    ["Models", `${head.scoring_model ?? "not told"}; reference ${head.reference_model ?? "not told"}`],
    ["Valued", `${count(head.num_examples)} examples, ${count(head.num_sequences)} responses, ${count(head.num_tokens)} tokens`],
    ["Embedded here", `${embedded.num_examples === head.num_examples ? "all" : "a sample of"} ${count(embedded.num_examples)} examples`],
  ];
  return told.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)));
}

function warnings({ head, policies, policy }) {
  const told = [];
  if (head.stability_is_zero) told.push("Stability is zero: the scoring model is the reference itself, so stability values say nothing.");
  if (head.num_examples < head.num_examples_of_snapshot) told.push(`${count(head.num_examples_of_snapshot - head.num_examples)} examples of the data have no values.`);
  if (policies.length && !policies.some((one) => one.policy === policy)) told.push(`There is no current mask of the policy ${policy}; another is shown.`);
  return told.map((text) => h("p", { class: "warning" }, text));
}

function howToRead({ head, embedded, sample }) {
  const smaller = embedded.num_examples < Math.min(embedded.asked, head.num_examples) ? ` (${count(embedded.asked)} would not have fitted into 5 MB)` : "";
  return [
    h("p", {}, "Every token of a response has four values. Direct: what a training step on the token's own loss does. Causal: what the losses of later tokens draw from the computation at this token. " +
      "Adaptation is measured against the validation loss (what should be learnt), stability against forgetting."),
    h("p", {}, h("strong", {}, "Positive (blue) = helps: "), "a step on the token lowers that loss. ", h("strong", {}, "Negative (orange) = hurts. "),
      "The unit is nats per unit of the direction D, which is another one for adaptation than for stability: sizes compare within a column." +
      (sample.sequences.branch_names.includes("rejected") ? " Of a pair, values are times ω = β σ(−margin), the weight of the pair in DPO; those of a rejected response are of making it less likely." : "")),
    h("p", {}, "Colour grows with the square root of the value; its range holds 98% of all tokens, what lies beyond has the full colour. Loss, reference loss and entropy are in nats (purple: larger); they say how surprising a token is, not whether it is good."),
    h("p", {}, "Masked tokens are struck through: the policy gives them no gradient. ↵ is a line break, ␣ a space, ⟨U+…⟩ a character that would not show."),
    h("p", {}, "Point at a token for its values, or go to a response with the Tab key and from token to token with the arrow keys; Escape hides the values."),
    h("p", {}, `Examples: ${embedded.num_examples === head.num_examples ? "all that have values" : `a sample of ${count(embedded.num_examples)} of ${count(head.num_examples)}${smaller}, drawn by a digest of their ids; it is the same in every report on these data`}. ` +
      `Their values are rounded (within ${(50 * embedded.relative_step).toFixed(2)}%), prompts longer than ${count(embedded.max_prompt_tokens)} tokens are cut at their beginning; everything exact: alphatoken sql. Figures in the other parts are over all tokens.`),
  ];
}

class Tabs {
  constructor(build) {
    this.build = build;
    this.tabs = PANELS.map(([name, text]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => this.open(name) }, text));
    this.panels = PANELS.map(([name]) => h("section", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true }));
    byId("tabs").append(...this.tabs);
    byId("panels").append(...this.panels);
    byId("tabs").addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.open(this.wanted()));
  }

  wanted() {
    return PANELS.map(([name]) => name).find((name) => location.hash === `#${name}`) ?? this.name ?? "examples";
  }

  open(name) {
    this.name = name;
    PANELS.forEach(([one], i) => {
      this.tabs[i].setAttribute("aria-selected", String(one === name));
      this.tabs[i].setAttribute("tabindex", one === name ? "0" : "-1");
      this.panels[i].hidden = one !== name;
    });
    if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
    this.redraw();
  }

  redraw() {
    const at = PANELS.findIndex(([name]) => name === this.name);
    this.panels[at].replaceChildren(h("h2", { class: "unseen" }, PANELS[at][1]), ...this.build[this.name]());
  }

  key(event) {
    const at = PANELS.findIndex(([name]) => name === this.name);
    const goal = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: PANELS.length - 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    const next = (goal + PANELS.length) % PANELS.length;
    this.open(PANELS[next][0]);
    this.tabs[next].focus();
  }
}

async function main() {
  const content = JSON.parse(byId("data").textContent);
  const sample = await Sample.read(content.sample);
  const names = content.policies.map(({ policy }) => policy);
  const state = { column: content.columns[0].name, policy: names.includes(content.policy) ? content.policy : names[0] ?? "", markSpaces: false };
  byId("subtitle").textContent = `Which response tokens deserve a gradient: ${content.head.warehouse_name}, ${content.head.released_at} UTC`;
  byId("facts").append(...facts(content));
  byId("warnings").append(...warnings(content));
  byId("howto-text").append(...howToRead(content));
  byId("footer").textContent = "Written by alphatoken report. This file holds all it shows and asks no network for anything.";
  const examples = new Examples(content, sample, state, new Tooltip(sample, content.columns, state));
  examples.find();
  const tabs = new Tabs({
    examples: () => { examples.draw(); return examples.panel; }, values: () => valuesPanel(content, state), masks: () => masksPanel(content, state),
    training: () => trainingPanel(content), drift: () => driftPanel(content),
  });
  choice(byId("policy"), [...names.map((name) => [name, name]), ["", "none: show no mask"]], state.policy);
  byId("policy").addEventListener("change", () => { state.policy = byId("policy").value; examples.find(); tabs.redraw(); });
  byId("theme").addEventListener("change", () => { document.documentElement.dataset.theme = byId("theme").value; });
  tabs.open(tabs.wanted());
  document.documentElement.dataset.ready = "true";
}

main().catch((error) => {
  byId("fault").hidden = false;
  byId("fault").textContent = `This page could not be drawn: ${error}. It needs a browser of 2024 or newer.`;
  throw error;
});
