// Pages of one run, of two runs, of one cell of the table.

function runName(run) {
  return rowName({...data.rows[run.row], origin: ""});
}

function placeText(run) {
  const {data: set, labels, arch} = data.columns[run.column];
  return `${set}, ${labelsText(labels)} per class, ${arch}`;
}

function runLink(run, text) {
  return h("a", {href: `#run/${encodeURIComponent(run.id)}`}, text || `${runName(run)}, seed ${run.seed}`);
}

function argumentsOf(run) {
  const unset = new Set(data.unset[run.unset]), defaults = data.defaults[data.rows[run.row].method] || {}, found = {};
  for (const [name, value] of Object.entries(defaults)) if (!unset.has(name)) found[name] = value;
  return {...found, ...run.args};
}

function literal(value) {
  if (value === undefined) return "–";
  if (typeof value === "string") return value === "" ? "''" : value;
  return Array.isArray(value) ? `[${value.map(literal).join(", ")}]` : JSON.stringify(value);
}

function table(head, body, attributes) {
  return h("div", {class: "box small", tabindex: 0, role: "region", "aria-label": attributes?.label || head.filter(Boolean).join(", ")},
    h("table", {class: attributes?.class}, head.length > 0 && h("thead", null, h("tr", null, head.map(text => h("th", {scope: "col"}, text)))),
      h("tbody", null, body.map(([first, ...cells]) => h("tr", {class: attributes?.marked && "marked"},
        h("th", {scope: "row"}, first), cells.map(cell => h("td", null, cell)))))));
}

function facts(pairs) {
  return h("dl", {class: "facts"}, pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

function unit(value, name, digits = 1) {
  return value == null ? null : `${value.toLocaleString("en", {maximumFractionDigits: digits})} ${name}`.trim();
}

function describe(run) {
  const split = [run.split_labeled, run.split_unlabeled].filter(Boolean).join(" / ");
  return facts([
    ["Labelled images", unit(run.num_labeled, "", 0)], ["Unlabelled images", unit(run.num_unlabeled, "", 0)],
    ["Test images", unit(run.num_test, "", 0)], ["Classes", unit(run.num_classes, "", 0)], ["Validation images", unit(run.num_val, "", 0)],
    ["Steps", unit(run.step, "", 0)], ["Evaluations", unit(run.evaluations, "", 0)], ["Time", unit(run.minutes, "min", 2)],
    ["Speed", unit(run.images_per_second, "images/s", 0)], ["Peak memory", unit(run.peak_memory_mib, "MiB", 0)],
    ["Energy", unit(run.joules, "J", 0)], ["Devices", run.processes], ["Device", run.device], ["Initial weights", run.pretrained],
    ["Recipe", run.recipe], ["Split (labelled / unlabelled)", split && h("code", null, split)],
    ["Commit", run.commit && h("code", null, run.commit)], ["Folder", h("code", null, run.folder || "")],
  ]);
}

function scoresTable(run) {
  const metrics = Object.keys(run.scores);
  if (!metrics.length) return null;
  const rules = Object.keys(data.selections).filter((_, k) => metrics.some(metric => run.scores[metric][k] != null));
  const at = rule => Object.keys(data.selections).indexOf(rule);
  return table(["", ...rules], metrics.map(metric => [data.metrics[metric], ...rules.map(rule => scoreText(run.scores[metric][at(rule)]))]),
    {class: "numbers", label: "Results by selection rule"});
}

function scoreText(value) {
  return value == null ? "–" : shown(value);
}

function progressText(run) {
  const at = run.progress;
  if (!at) return run.state;
  const share = at.total ? `step ${brief(at.step)} of ${brief(at.total)}` : `step ${brief(at.step)}`;
  return `${run.state}, ${share}${at.top1 == null ? "" : `, ${shown(at.top1)} %`}`;
}

// Groups of curves that share an axis: what is in percent, losses, shares of 1, and the rest one by one.
function curveGroups(runs) {
  const groups = new Map(), order = ["Test accuracy (%)", "Test loss", "Training loss", "Shares in training"];
  for (const [i, run] of runs.entries()) for (const [name, [steps, y]] of Object.entries(run.curves || {})) {
    const [kind, metric] = [name.slice(0, name.indexOf(" ")), name.slice(name.indexOf(" ") + 1)];
    const group = metric.endsWith("loss") ? (kind === "test" ? order[1] : order[2]) : kind === "test" ? order[0]
      : y.every(v => v >= 0 && v <= 1) ? order[3] : `In training: ${metric}`;
    const label = runs.length > 1 ? `${metric} (${"AB"[i]})` : metric;
    if (!groups.has(group)) groups.set(group, []);
    const twin = groups.get(group).find(each => each.metric === metric);
    const color = twin ? twin.color : new Set(groups.get(group).map(each => each.color)).size;
    groups.get(group).push({name: label, metric, color, x: data.steps[steps], y, dash: i === 1});
  }
  return [...groups].sort(([a], [b]) => (order.indexOf(a) + 5) % 5 - (order.indexOf(b) + 5) % 5);
}

function curveCharts(runs) {
  const groups = curveGroups(runs);
  if (!groups.length) return h("p", {class: "muted"}, data.omitted || "No curves: there is no metrics.jsonl beside the run's record.");
  const hint = h("p", {class: "muted"}, "The numbers are the last ones; point at a curve for others.");
  return [h("div", {class: "charts"}, groups.map(([name, series]) => chart(name, series, name === "Shares in training" ? {limits: [0, 1]} : {}))), hint];
}

function predictionPart(found) {
  if (!found) return null;
  const {classes, per_class: each, num_classes: all, matrix, confused, bins, ece} = found, percent = share => (share == null ? "–" : shown(share * 100));
  const images = bins.reduce((sum, bin) => sum + bin[2], 0);
  return [
    h("h2", null, "Predictions on the test set"),
    h("p", {class: "muted"}, "Reliability: accuracy by confidence, a dot for each fifteenth of its range, as large as it has images; on the dashed line the two are equal."),
    h("div", {class: "charts"},
      chart(`Reliability: expected calibration error ${(ece * 100).toFixed(1)} % of ${images.toLocaleString("en")} images`,
        [{name: "accuracy by confidence", x: bins.map(bin => bin[0]), y: bins.map(bin => bin[1]), counts: bins.map(bin => bin[2])}],
        {limits: [0, 1], xName: "confidence", diagonal: true}),
      h("figure", {class: "chart"}, h("figcaption", null, all > each.length ? `Accuracy by class, the least right ${each.length.toLocaleString("en")} of ${all.toLocaleString("en")}` : "Accuracy by class"),
        h("div", {class: "bars", tabindex: 0, role: "region", "aria-label": "Accuracy by class"}, each.map(([share, count], k) => h("div", null,
          h("span", null, classes[k]), svg("svg", {viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true"},
            svg("rect", {class: "track", width: 100, height: 8}), svg("rect", {class: "bar", width: (share || 0) * 100, height: 8})),
          h("span", {class: "value"}, share == null ? "no images" : `${percent(share)} % (${Math.round(share * count)} of ${count})`)))))),
    matrix ? [h("h3", null, "Confusion matrix"), h("p", {class: "muted"}, "Rows: true class; columns: predicted class; images."), confusionTable(classes, matrix)]
      : [h("h3", null, "Most frequent confusions"), table(["True class", "Predicted", "Images"], confused.map(([t, p, n]) => [classes[t], classes[p], n]))],
  ];
}

function confusionTable(classes, matrix) {
  const shade = (n, row) => Math.ceil(4 * n / Math.max(1, row.reduce((a, b) => a + b, 0)));
  return h("div", {class: "box", tabindex: 0, role: "region", "aria-label": "Confusion matrix"}, h("table", {class: "confusion"},
    h("thead", null, h("tr", null, h("td"), classes.map(name => h("th", {scope: "col"}, name)))),
    h("tbody", null, matrix.map((row, t) => h("tr", null, h("th", {scope: "row"}, classes[t]),
      row.map((n, p) => h("td", {class: `${n ? `heat${shade(n, row)}` : "zero"}${p === t ? " right" : ""}`}, n)))))));
}

function argumentTables(run) {
  const all = argumentsOf(run), defaults = data.defaults[data.rows[run.row].method] || {};
  const differing = Object.entries(all).filter(([name, value]) => literal(value) !== literal(defaults[name]));
  const known = Object.keys(defaults).length > 0, unset = data.unset[run.unset];
  return [
    h("h2", null, "Arguments"),
    known && h("p", {class: "muted"}, `${differing.length} of ${Object.keys(all).length} differ from the method's defaults.`),
    known ? table(["Argument", "This run", "Default"], differing.map(([name, value]) => [h("code", null, name), literal(value), literal(defaults[name])]))
      : h("p", {class: "muted"}, "The defaults of this method are not known here: its script is not one of ssl-bench's."),
    h("details", {open: !known}, h("summary", null, `All ${Object.keys(all).length} arguments`),
      table(["Argument", "Value"], Object.entries(all).sort().map(([name, value]) => [h("code", null, name), literal(value)])),
      unset.length > 0 && h("p", {class: "muted"}, `Not recorded, the run being older than these flags: ${unset.join(", ")}.`)),
  ];
}

function commandPart(run) {
  if (!run.command) return null;
  const button = h("button", {type: "button", onclick: () => copy(run.command, button)}, "Copy");
  return [h("h2", null, "The same run again"), h("div", {class: "command"}, h("pre", {tabindex: 0}, h("code", null, run.command)), button),
    h("p", {class: "muted"}, "Every argument that is not a default stands in it, so that recipes may change.",
      run.commit && [" It ran at commit ", h("code", null, run.commit), "."])];
}

// On file:// a browser may refuse the clipboard; the command is then selected for the reader to copy.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = "Selected: press Ctrl+C";
  }
  say(button.textContent);
}

function environmentPart(run) {
  const found = data.environments[run.environment], packages = Object.entries(found.packages || {});
  return [h("h2", null, "Environment"), facts([["Python", found.python], ["Platform", found.platform], ...packages]),
    !Object.keys(found).length && h("p", {class: "muted"}, "Not recorded here.")];
}

function runPage(run) {
  const others = data.runs.filter(other => other !== run && other.column === run.column).slice(0, 300);
  const choice = h("select", {id: "other", onchange: event => { location.hash = compareHash([run.id, event.target.value]); }},
    h("option", {value: ""}, "choose a run"), others.map(other => h("option", {value: other.id}, `${runName(other)}, seed ${other.seed}`)));
  return [
    h("p", {class: "back"}, h("a", {href: "#runs"}, "All runs"), " · ", cellLink(run.row, run.column, "the seeds beside it")),
    h("h1", null, `${runName(run)}, seed ${run.seed}`),
    h("p", {class: "lead"}, placeText(run), " · ", h("span", {class: `state ${stateClass(run)}`}, progressText(run))),
    run.message && (run.state === "failed" ? h("p", {class: "note"}, `It failed: ${run.message}`) : h("p", {class: "muted"}, `Trained by ${run.message}.`)),
    (run.warnings || []).length > 0 && h("div", {class: "note"}, h("strong", null, "Warnings in training"),
      h("ul", null, run.warnings.map(([step, text]) => h("li", null, `step ${step}: ${text}`)))),
    scoresTable(run),
    others.length > 0 && h("p", {class: "controls"}, h("label", {for: "other"}, "Compare with"), choice),
    h("h2", null, "Curves"), curveCharts([run]), predictionPart(run.predictions), h("h2", null, "About"), describe(run),
    commandPart(run), argumentTables(run), environmentPart(run),
  ];
}

function comparePage(a, b) {
  const [first, second] = [argumentsOf(a), argumentsOf(b)], names = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
  const differing = names.filter(name => literal(first[name]) !== literal(second[name])), rules = Object.keys(data.selections);
  const pairs = Object.keys(data.metrics).flatMap(metric => rules.map((rule, k) => [metric, rule, a.scores[metric]?.[k], b.scores[metric]?.[k]]))
    .filter(([, , x, y]) => x != null || y != null);
  const costs = [["Time, min", "minutes"], ["Images/s", "images_per_second"], ["Peak memory, MiB", "peak_memory_mib"], ["Labelled split", "split_labeled"],
    ["Device", "device"], ["Commit", "commit"]].filter(([, name]) => a[name] != null || b[name] != null);
  return [
    h("p", {class: "back"}, h("a", {href: "#runs"}, "All runs")),
    h("h1", null, "Two runs"),
    h("div", {class: "pair"}, [a, b].map((run, i) => h("div", null, h("p", {class: "letter"}, "AB"[i]), h("h2", null, runLink(run)),
      h("p", null, placeText(run), " · ", h("span", {class: `state ${stateClass(run)}`}, progressText(run)))))),
    h("h2", null, "Results"),
    h("div", {class: "pair"}, table(["", "A", "B", "B − A"], pairs.map(([metric, rule, x, y]) => [`${data.metrics[metric]}, ${rule}`, scoreText(x), scoreText(y),
      x == null || y == null ? "–" : (y - x >= 0 ? "+" : "−") + shown(Math.abs(y - x))]), {class: "numbers", label: "Results"}),
    table(["", "A", "B"], costs.map(([label, name]) => [label, literal(a[name]), literal(b[name])]), {label: "Cost and origin"})),
    h("h2", null, "Arguments that differ"),
    differing.length ? table(["Argument", "A", "B"], differing.map(name => [h("code", null, name), literal(first[name]), literal(second[name])]),
      {marked: true, label: "Arguments that differ"})
      : h("p", null, "None."),
    h("details", null, h("summary", null, `${names.length - differing.length} arguments are the same`), table(["Argument", "Both"],
      names.filter(name => !differing.includes(name)).map(name => [h("code", null, name), literal(first[name])]))),
    h("h2", null, "Curves"), curveCharts([a, b]),
  ];
}

function cellLink(r, c, text) {
  return h("a", {href: `#cell/${[data.rows[r].method, data.rows[r].variant, data.columns[c].data, data.columns[c].labels, data.columns[c].arch]
    .map(encodeURIComponent).join("/")}`}, text);
}

function cellPage(runs, view) {
  const cell = summarize(view).get(`${runs[0].row},${runs[0].column}`);
  const tops = runs.filter(run => run.curves?.["test top1"]).map(run => {
    const [steps, y] = run.curves["test top1"];
    return {name: `seed ${run.seed}`, x: data.steps[steps], y};
  });
  return [
    h("p", {class: "back"}, h("a", {href: "#results"}, "All results")),
    h("h1", null, runName(runs[0])),
    h("p", {class: "lead"}, placeText(runs[0]), cell.n > 0 && [" · ", h("strong", null, numberText(cell))]),
    h("p", {class: "caption"}, captionText(view)), cell.note && h("p", {class: "note"}, `Missing: ${cell.note}.`),
    table(["Seed", data.metrics[view.metric], "State", "Time"], runs.map(run => [runLink(run, `seed ${run.seed}`), scoreText(valueOf(run, view)),
      h("span", {class: `state ${stateClass(run)}`}, progressText(run)), unit(run.minutes, "min", 2) || "–"]), {label: "Seeds"}),
    tops.length > 0 && [h("h2", null, "Curves"), h("div", {class: "charts"}, chart("Test top-1 accuracy (%)", tops))],
  ];
}

function stateClass(run) {
  return ["done", "running", "failed"].includes(run.state) ? run.state : "waiting";
}
