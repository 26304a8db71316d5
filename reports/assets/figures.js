// The panels beside the examples: values, masks, training, drift.

/** Measured while training: what a figure says, and its unit. */
const MEASURES = {
  target_loss: ["loss on the evaluation examples: what was to be learnt; lower is better", "nats per token"],
  margin_accuracy: ["share of the held-out pairs whose margin is positive; higher is better", "share"],
  dpo_loss: ["−log σ(margin) on the held-out pairs: what was to be learnt; lower is better", "nats per pair"],
  margin: ["mean margin of the held-out pairs; higher is better", "β · nats"],
  retention_loss: ["loss on the text the model knew: what was forgotten; lower is better", "nats per token"],
  train_loss: ["loss of each batch on what the mask keeps; arms keep different tokens, so their heights do not compare", "nats"],
  train_margin: ["mean margin of each batch, over all response tokens", "β · nats"],
  train_accuracy: ["share of each batch's pairs whose margin is positive", "share"],
};
const ENDS = ["target_loss", "margin_accuracy", "dpo_loss", "margin", "retention_loss"];
const measureName = (metric) => metric.replace("_", " ").replace("dpo", "DPO");

/** A measured value with the digits in which trainings differ. */
const measured = (value) => (Number.isInteger(value) || Math.abs(value) < 1e-3 ? numeral(value) : (value < 0 ? "−" : "") + Math.abs(value).toPrecision(5));

/** A text whose `names` stand between backticks. */
const withCode = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

function figure(column, bins, counted) {
  const signs = isComponent(column.name) || (column.low < 0 && column.high > 0) ? `${percent(column.positive_share)} above 0, ` : "";
  const text = `${signs}mean ${numeral(column.mean)}, deviation ${numeral(column.deviation)}, from ${numeral(column.lowest)} to ${numeral(column.highest)}; ` +
    `${count(column.num_values)} ${counted}` + (bins.num_outside ? `, ${count(bins.num_outside)} of them beyond the picture (in its outermost bars)` : "") +
    (column.num_null ? `, ${count(column.num_null)} more without a value` : "");
  return h("figure", {},
    h("h3", {}, LABELS[column.name], " ", h("code", {}, column.name.replace("pair_", "pairs."))),
    h("p", { class: "meaning" }, withCode(column.meaning)),
    histogram(column, bins, `Distribution of ${LABELS[column.name]}: ${text}`),
    column.unit ? h("p", { class: "axis-name" }, column.unit) : null,
    h("figcaption", {}, text));
}

function valuesPanel(content, state) {
  const policy = content.policies.find((one) => one.policy === state.policy);
  const histograms = policy ? policy.histograms : content.histograms;
  const marks = policy
    ? h("p", { class: "legend" }, h("span", {}, h("span", { class: "block solid" }), "kept"), h("span", {}, h("span", { class: "block hatched" }), "masked"), `by the policy ${state.policy}; height = number of tokens; the axis goes by square roots, as the colours do`)
    : h("p", { class: "legend" }, "No policy is chosen: all tokens are hatched; height = number of tokens.");
  return [
    h("p", {}, `All ${count(content.head.num_tokens)} response tokens, not the sample.`), marks,
    h("div", { class: "figures" }, content.columns.map((column) => figure(column, histograms[column.name], "tokens"))),
    ...(content.pairs ? pairsPart(content.pairs) : []),
  ];
}

/** How the scoring model stands to the pairs, which decides how much their values weigh. */
function pairsPart({ columns, histograms, margins_by_source: rows }) {
  return [
    h("h3", { class: "part" }, "Pairs"),
    h("p", {}, "A pair that the scoring model already has far on the right side weighs next to nothing, and so do the values of its tokens; a pair on the wrong side weighs up to β."),
    h("div", { class: "figures" }, columns.map((column) => figure(column, histograms[column.name], "pairs"))),
    table("By source", [
      ["source", (row) => row.source ?? "none named"], ["pairs", (row) => count(row.num_pairs), true], ["positive margin", (row) => percent(row.accuracy), true],
      ["mean margin", (row) => signed(row.mean_margin), true], ["mean weight", (row) => numeral(row.mean_weight), true],
      ["chosen is longer by, tokens", (row) => signed(row.mean_extra_tokens), true],
    ], rows),
  ];
}

function masksPanel(content, state) {
  const policy = content.policies.find((one) => one.policy === state.policy);
  const overview = table("Policies", [
    ["policy", (row) => row.policy], ["tokens kept", (row) => shareBar(row.kept_share ?? 0, null), true], ["kept", (row) => count(row.num_kept), true],
    ["of", (row) => count(row.num_tokens), true], ["rule", (row) => h("span", { class: "rule" }, rule(JSON.parse(row.settings)))],
  ], content.policies);
  if (!content.policies.length) return [h("p", {}, "There are no masks yet; alphatoken mask writes them.")];
  if (!policy) return [overview, h("p", {}, "Choose a policy to see what it keeps of what.")];
  const by = (caption, title, name, rows) => table(caption, [
    [title, name], ["kept share", (row) => shareBar(row.kept_share ?? 0, policy.kept_share), true], ["tokens", (row) => count(row.num_tokens), true],
  ], rows);
  const branches = policy.kept_by_branch;
  const inPairs = branches.reduce((sum, row) => sum + row.num_tokens, 0);
  const shared = inPairs > policy.num_tokens ? ` A response that several pairs share has one mask, and counts once above; below it counts in each pair: ${count(inPairs)} tokens.` : "";
  return [
    overview,
    h("p", {}, `What ${state.policy} keeps. The thin line is its share over all tokens, ${percent(policy.kept_share)}.${shared}`),
    h("div", { class: "tables" },
      h("div", {},
        branches.length > 1 ? by("By branch", "branch", (row) => row.branch, branches) : null,
        by("By source", "source", (row) => row.source ?? "none named", policy.kept_by_source)),
      by("By tenth of the response", "tenth", (row) => String(row.decile), policy.kept_by_position_decile),
      by("By class of token", "class", (row) => row.token_class, policy.kept_by_token_class)),
  ];
}

/** A policy's settings in a line; of pairs (their masks know β) branch by branch where a branch has settings of its own. */
function rule(settings) {
  if (settings.select === undefined) return JSON.stringify(settings);
  if (settings.select === "all") return "every token";
  const branches = settings.beta === undefined ? [] : Object.entries(settings.branches ?? {});
  if (!branches.length) return ruleOfOne(settings);
  const rules = ["chosen", "rejected"].map((name) => [name, ruleOfOne({ ...settings, ...settings.branches[name] })]);
  return rules[0][1] === rules[1][1] ? rules[0][1] : rules.map(([name, one]) => `${name}: ${one}`).join("; ");
}

function ruleOfOne(settings) {
  const random = settings.select === "random";
  const weights = Object.entries(settings.weights).filter(([, weight]) => weight).map(([name, weight]) => (weight === 1 ? name : `${weight} · ${name}`));
  const score = random ? "at random" : `by ${settings.expression ?? weights.join(" + ")}`;
  const normal = settings.expression || random || settings.normalization === "none" ? "" : `, ${settings.normalization === "zscore" ? "z-scores" : "ranks"} over the ${settings.normalize_over === "dataset" ? "data set" : settings.normalize_over}`;
  const soft = settings.soft === "none" ? "" : `, weights by ${settings.soft}`;
  const scope = settings.scope === "dataset" ? "the data set" : `each ${settings.scope}`;
  if (settings.threshold === null && settings.keep === "auto") return `${compared(settings, random, scope)} ${score}${normal}${soft}`;
  const rate = settings.threshold === null ? `${random ? "" : "the best "}${percent(settings.keep)}` : `score at least ${settings.threshold}`;
  return `${rate} of ${scope} ${score}${normal}${soft}`;
}

/** What `keep: auto` keeps. */
function compared(settings, random, scope) {
  if (random) return `as many of ${scope} as the comparison with the validation set keeps,`;
  if (!settings.auto) return "what the comparison with the validation set keeps,";
  const { threshold } = settings.auto;
  return threshold === null ? "everything, as in the validation set," : `score at least ${numeral(threshold)}, found by comparison with the validation set,`;
}

function trainingPanel(content) {
  if (!content.trainings.length) return [h("p", {}, "There is no training in this release; alphatoken train makes one, with --policy full the one to compare with.")];
  const newest = content.trainings.filter((one, i, all) => all.findIndex(({ policy }) => policy === one.policy) === i);
  const ordered = newest.sort((a, b) => a.policy.localeCompare(b.policy));
  const { training_id: ids, metric: metrics, step: steps, value: values } = content.curves;
  const points = (id, metric) => steps.map((step, i) => [step, values[i], i]).filter(([, , i]) => ids[i] === id && metrics[i] === metric).map(([step, value]) => [step, value]);
  const chart = ([metric, [meaning, unit]]) => {
    const series = ordered.map(({ training_id: id, policy }, style) => [policy, points(id, metric), style]).filter(([, one]) => one.length);
    if (!series.length) return null;
    const ends = series.map(([policy, one]) => `${policy} ${measured(one[0][1])} to ${measured(one.at(-1)[1])}`).join(", ");
    return h("figure", {}, h("h3", {}, measureName(metric)), h("p", { class: "meaning" }, meaning),
      lines(series, `${measureName(metric)} by step: ${ends}`), h("p", { class: "axis-name" }, `optimizer steps; ${unit}`));
  };
  const ends = (metric) => (row) => {
    const found = points(row.training_id, metric);
    return found.length ? `${measured(found[0][1])} → ${measured(found.at(-1)[1])}` : "–";
  };
  const told = ENDS.filter((metric) => metrics.includes(metric));
  return [
    h("p", { class: "legend" }, ordered.map(({ policy }, style) => key(policy, style))),
    h("p", {}, "The newest training of each policy. They compare only where learning rate, epochs, start and seed are the same."),
    h("div", { class: "figures" }, Object.entries(MEASURES).map(chart)),
    table("All trainings, the newest first", [
      ["policy", (row) => row.policy], ...told.map((metric) => [measureName(metric), ends(metric), true]),
      ["learning rate", (row) => row.learning_rate ?? "–", true], ["epochs", (row) => row.epochs ?? "–", true], ["start", (row) => row.start ?? "–"],
      ["seed", (row) => row.seed ?? "–", true], ["mask", (row) => (row.on_current_mask ? "current" : "an earlier one")], ["made (UTC)", (row) => row.trained_at],
    ], content.trainings),
  ];
}

function driftPanel(content) {
  if (!content.drift) return [h("p", {}, "There is one scoring only, so nothing can have drifted.")];
  const { scoring_before: before, rows } = content.drift;
  if (!rows.length) return [h("p", {}, `The earlier scoring ${before.slice(0, 12)} shares no valued token with the current one.`)];
  return [
    h("p", {}, `From the scoring before (${before.slice(0, 12)}) to the current one (${content.head.scoring_id.slice(0, 12)}), over the tokens that both valued. ` +
      "Masks follow ranks: a rank correlation near 1 means that they hardly change."),
    table("Drift by column", [
      ["column", (row) => LABELS[row.column]], ["tokens", (row) => count(row.num_tokens), true],
      ["rank correlation", (row) => (row.spearman === null ? "constant" : row.spearman.toFixed(3)), true], ["correlation", (row) => (row.pearson === null ? "constant" : row.pearson.toFixed(3)), true],
      ["mean change", (row) => numeral(row.mean_change), true], ["beside a mean size of", (row) => numeral(row.mean_size), true],
      ["sign changed", (row) => percent(row.changed_sign_share), true],
    ], rows),
  ];
}
