// The page: what is shown, and what the reader's clicks and keys change.

const PAGE_SIZE = 100, POLL = 3000, $ = id => document.getElementById(id);
let data = JSON.parse($("data").textContent), runById = new Map();
const view = {
  select: "last", metric: "top1", filter: {text: "", data: "", labels: "", arch: "", method: "", state: ""},
  sort: {results: null, runs: null}, limit: PAGE_SIZE, picked: [], opened: new Set(),
};

function say(text) {
  $("said").textContent = text;
}

// Replaces what is in `box`, leaving focus and scroll where they were: a sort button is made anew by the sort it asks for.
function fill(box, ...children) {
  const focused = box.contains(document.activeElement) ? document.activeElement : null;
  const name = focused?.dataset.key, place = [box.scrollLeft, box.scrollTop];
  box.replaceChildren(...children.flat(3).filter(child => child != null && child !== false));
  [box.scrollLeft, box.scrollTop] = place;
  if (name) [...box.querySelectorAll("[data-key]")].find(element => element.dataset.key === name)?.focus({preventScroll: true});
}

function choice(id, label, options, value, change) {
  return h("div", {class: "control"}, h("label", {for: id}, label), h("select", {id, "data-key": id, onchange: event => change(event.target.value)},
    options.map(([key, text]) => h("option", {value: key, selected: key === value}, text))));
}

function filterChoice(name, label, values) {
  const options = [["", "all"], ...values.map(value => (Array.isArray(value) ? value : [value, value]))];
  return options.length > 2 || view.filter[name] ? choice(`filter-${name}`, label, options, view.filter[name], value => filterBy(name, value)) : null;
}

function filterBy(name, value) {
  view.filter[name] = value;
  view.limit = PAGE_SIZE;
  showTables();
}

function drawControls() {
  const unique = values => [...new Set(values)], methods = unique(data.rows.map(row => row.method)), columns = data.columns;
  const having = Object.keys(data.metrics).filter(metric => data.runs.some(run => run.scores[metric]));
  const labels = unique(columns.map(column => column.labels)).sort((a, b) => (a || Infinity) - (b || Infinity));
  fill($("controls"),
    choice("select", "Selection rule", Object.entries(data.selections).filter(([rule], k) => rule === view.select
      || data.runs.some(run => Object.values(run.scores).some(each => each[k] != null))).map(([rule]) => [rule, rule]), view.select, value => {
      view.select = value;
      showTables();
    }),
    choice("metric", "Metric", (having.length ? having : ["top1"]).map(metric => [metric, data.metrics[metric]]), view.metric, value => {
      view.metric = value;
      showTables();
    }),
    filterChoice("data", "Data set", unique(columns.map(column => column.data))),
    filterChoice("labels", "Labels per class", labels.map(count => [String(count), count ? String(count) : "all of them"])),
    filterChoice("arch", "Network", unique(columns.map(column => column.arch))), filterChoice("method", "Method", methods),
    h("div", {class: "control grow"}, h("label", {for: "filter-text"}, "Filter"), h("input", {
      id: "filter-text", type: "search", "data-key": "filter-text", placeholder: "words in names", value: view.filter.text,
      oninput: event => filterBy("text", event.target.value),
    })));
  fill($("run-controls"), filterChoice("state", "State", unique(data.runs.map(run => run.state))),
    h("p", {class: "muted grow"}, "The filters above hold here too. Mark two runs to see them side by side."));
}

function captionText(view) {
  return `${data.metrics[view.metric]}, mean ± std (n seeds), ${data.selections[view.select]}`;
}

function caption(fixed, shownTable) {
  const [before, warning] = captionText(view).split(/(?=\(optimistic)/);
  const numbers = shownTable.rows.filter(row => row.origin).length ? data.published : [];
  const sources = [...new Set(numbers.map(line => `${line.published} from ${line.source}`))];
  const rules = [...new Set(numbers.map(line => line.select))].map(rule => `${rule} = ${data.selections[rule]}`);
  return [before, warning && h("strong", {class: "warning"}, warning), fixed.map(text => `; ${text}`).join(""), ".",
    data.rows.some(row => row.oracle) && " Oracle: trained with the true labels of all images, not ranked.",
    numbers.length > 0 && ` In [ ]: published numbers, not ranked: ${[...sources, ...rules].join("; ")}.`,
    data.published.length > 0 && view.metric !== "top1" && " Published numbers are top-1 accuracies, and left out here."];
}

// A click sorts largest first (names: a to z), a second one the other way round, a third one as at the start.
function sortHead(table, key, content, attributes, firstDown) {
  const sort = view.sort[table], mine = sort?.key === key ? sort : null, steps = firstDown ? [-1, 1, 0] : [1, -1, 0];
  const next = steps[mine ? steps.indexOf(mine.way) + 1 : 0];
  const click = () => {
    view.sort[table] = next ? {key, way: next} : null;
    showTables();
    say(next ? `sorted ${next > 0 ? "ascending" : "descending"}` : "original order");
  };
  return h("th", {scope: "col", "aria-sort": !mine ? "none" : mine.way > 0 ? "ascending" : "descending", ...attributes},
    h("button", {type: "button", class: "sort", "data-key": `${table}-${key}`, onclick: click}, typeof content === "string" ? h("span", null, content) : content));
}

// Rows without a value come last, whichever way.
function sorted(items, sort, valueFor) {
  if (!sort) return items;
  const values = new Map(items.map(item => [item, valueFor(item, sort.key)]));
  return [...items].sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    return sort.way * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y);
  });
}

function drawTable() {
  const shownTable = tableOf(view), {rows, columns, kept, cell, average, best, ranked} = shownTable;
  const named = heads(columns.map(c => data.columns[c])), wide = columns.length > 1;
  fill($("caption"), caption(named.fixed, shownTable));
  const order = sorted(kept, view.sort.results, (r, key) => key === "name" ? rowName(rows[r]) : key === "average" ? average.get(r) : cell(r, +key)?.mean ?? null);
  const scale = new Map(columns.map(c => [c, kept.flatMap(r => cell(r, c)?.values || [])].map(v => v)).map(([c, v]) => [c, [Math.min(...v), Math.max(...v)]]));
  const mean = (r, c, value) => h(ranked.has(r) && shown(value) === (best.get(c) ?? NaN).toFixed(1) ? "strong" : "span", {class: "mean"}, shown(value));
  const cellOf = (r, c) => {
    const found = cell(r, c);
    if (found?.mean == null) return h("td", {class: "none"}, found?.runs.length ? cellLink(r, c, "–") : "–");
    const inside = [mean(r, c, found.mean), h("span", {class: "spread"}, numberText(found).slice(shown(found.mean).length))];
    return h("td", {class: found.n < found.expected ? "partial" : null}, found.runs.length ? cellLink(r, c, inside) : inside,
      found.values.length > 1 && strip(found.values, ...scale.get(c)));
  };
  const head = (set, rest) => [h("span", null, set), rest && h("span", {class: "visually-hidden"}, ", "), rest && h("span", {class: "sub"}, rest)];
  const body = order.map(r => h("tr", {class: rows[r].oracle ? "oracle" : rows[r].origin ? "published" : null},
    h("th", {scope: "row"}, rowName(rows[r])), columns.map(c => cellOf(r, c)),
    wide && h("td", {class: "average"}, average.get(r) == null ? "–" : mean(r, "average", average.get(r)))));
  fill($("table"), kept.length && columns.length ? h("table", {class: "results"},
    h("thead", null, h("tr", null, sortHead("results", "name", "Method", {}, false),
      columns.map((c, i) => sortHead("results", String(c), head(...named.heads[i]), {class: "number"}, true)),
      wide && sortHead("results", "average", "Average", {class: "number"}, true))), h("tbody", null, body))
    : h("p", {class: "empty"}, "Nothing fits the filters."));
  drawTableNotes(shownTable, named);
}

function drawTableNotes({rows, columns, kept, cell, alone}, named) {
  const names = columns.map((_, i) => named.heads[i].filter(Boolean).join(", "));
  const notes = kept.flatMap(r => columns.map((c, i) => (cell(r, c)?.note ? `${rowName(rows[r])}, ${names[i]}: ${cell(r, c).note}` : null))).filter(Boolean);
  const apart = [...alone].filter(([c]) => columnFits(data.columns[c], view)).map(([c, r]) => h("p", null,
    `On a network of its own, ${data.columns[c].arch} (${data.columns[c].data}): ${rows[r].method} `, cellLink(r, c, numberText(cell(r, c))), "."));
  fill($("table-notes"), apart, notes.length > 0 && (notes.length < 4 ? h("p", {id: "missing"}, `Missing: ${notes.join("; ")}.`)
    : h("details", {id: "missing"}, h("summary", null, `${notes.length} cells with missing runs`), h("ul", null, notes.map(note => h("li", null, note))))));
}

function runFits(run) {
  const column = data.columns[run.column], {state, method} = view.filter;
  return columnFits(column, view) && (!state || run.state === state) && (!method || data.rows[run.row].method === method)
    && wordsIn(`${runName(run)} ${columnText(column)} seed ${run.seed} ${run.state} ${run.folder || ""}`, view);
}

const RUN_COLUMNS = {
  name: ["Run", runName], data: ["Data set", run => data.columns[run.column].data], labels: ["Labels", run => data.columns[run.column].labels || Infinity],
  arch: ["Network", run => data.columns[run.column].arch], seed: ["Seed", run => run.seed], state: ["State", run => run.state],
  value: ["Value", run => valueOf(run, view)], step: ["Steps", run => run.step ?? run.progress?.step], minutes: ["Minutes", run => run.minutes],
  speed: ["Images/s", run => run.images_per_second],
};
const NUMERIC = new Set(["labels", "seed", "value", "step", "minutes", "speed"]);

function drawRuns() {
  const fitting = data.runs.filter(runFits), order = sorted(fitting, view.sort.runs, (run, key) => RUN_COLUMNS[key][1](run) ?? null);
  const seen = order.slice(0, view.limit), short = data.metrics[view.metric].replace(/ accuracy.*/, "");
  const row = run => {
    const column = data.columns[run.column];
    return h("tr", null,
      h("td", {class: "pick"}, h("input", {type: "checkbox", "data-key": `pick-${run.id}`, "aria-label": `compare ${runName(run)}, seed ${run.seed}, ${columnText(column)}`,
        checked: view.picked.includes(run.id), onchange: () => pick(run.id)})),
      h("th", {scope: "row"}, runLink(run, runName(run))), h("td", null, column.data), h("td", {class: "number"}, column.labels || "all"), h("td", null, column.arch),
      h("td", {class: "number"}, run.seed), h("td", null, h("span", {class: `state ${stateClass(run)}`}, run.state === "done" ? "done" : progressText(run))),
      h("td", {class: "number"}, scoreText(valueOf(run, view))), h("td", {class: "number"}, brief(run.step ?? run.progress?.step)),
      h("td", {class: "number"}, brief(run.minutes)), h("td", {class: "number"}, brief(run.images_per_second)));
  };
  fill($("run-table"), seen.length ? h("table", {class: "runs"}, h("thead", null, h("tr", null, h("td", {class: "pick"}, h("span", {class: "visually-hidden"}, "Compare")),
    Object.entries(RUN_COLUMNS).map(([key, [label]]) => sortHead("runs", key, key === "value" ? `${short}, ${view.select}` : label,
      {class: NUMERIC.has(key) ? "number" : null}, key === "value")))), h("tbody", null, seen.map(row))) : h("p", {class: "empty"}, "No run fits the filters."));
  const more = Math.min(PAGE_SIZE, order.length - seen.length);
  fill($("run-notes"), h("p", {class: "muted"}, `${seen.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} runs shown`
    + `${order.length < data.runs.length ? `, of ${data.runs.length.toLocaleString("en")} in all` : ""}.`),
    more > 0 && h("button", {type: "button", "data-key": "more", onclick: () => { view.limit += PAGE_SIZE; drawRuns(); }}, `Show ${more} more`),
    view.picked.length === 2 && h("a", {class: "action", id: "compare", href: compareHash(view.picked)}, "Compare the two marked runs"));
}

function pick(id) {
  view.picked = view.picked.includes(id) ? view.picked.filter(other => other !== id) : [...view.picked, id].slice(-2);
  drawRuns();
  say(`${view.picked.length} of 2 runs marked`);
}

function compareHash(ids) {
  return `#compare/${ids.map(encodeURIComponent).join("/")}`;
}

function showTables() {
  drawTable();
  drawStatistics();
  drawFigures();
  drawRuns();
}

// Blocks that fit the rule and metric; a block without select or metric fits any.
function fitting(blocks) {
  return blocks.filter(block => (!block.select || block.select === view.select) && (!block.metric || block.metric === view.metric));
}

function drawStatistics() {
  $("statistics").hidden = !data.statistics.length;
  const blocks = fitting(data.statistics);
  fill($("statistics-body"), blocks.map(block => (block.title ? opening(block) : statisticsPart(block))),
    !blocks.length && h("p", {class: "muted"}, "None for this metric: they compare top-1 accuracies."));
}

// {title, text, head, rows, names, foot}: with a title it is made when the reader opens it, and stays open under another rule.
function opening(block) {
  const details = h("details", {open: view.opened.has(block.title), ontoggle: () => {
    if (details.open && details.children.length === 1) details.append(...statisticsPart(block));
    view.opened[details.open ? "add" : "delete"](block.title);
  }}, h("summary", {"data-key": block.title}, block.title), view.opened.has(block.title) && statisticsPart(block));
  return details;
}

function statisticsPart({text, head, rows, names, foot}) {
  const cell = value => (Array.isArray(value) ? [h("strong", null, value[0]), value[1]] : value);
  return [h("p", {class: "caption"}, text), rows && table(head, rows.map(row => row.map(cell)), {class: `numbers names${names}`, label: head.join(", ")}),
    foot && h("p", {class: "muted"}, foot)].filter(Boolean);
}

function drawFigures() {
  const blocks = fitting(data.figures);
  $("figures").hidden = !data.figures.length && !data.figures_missing;
  fill($("figures-body"), h("div", {class: "figures"}, blocks.map(block => h("figure", null, h("figcaption", null, block.title),
    h("img", {src: `data:image/svg+xml;base64,${block.svg}`, alt: block.title, loading: "lazy"})))),
    data.figures_missing && h("p", {class: "muted"}, data.figures_missing));
}

function drawAround() {
  const count = state => data.runs.filter(run => run.state === state).length, done = count("done");
  const others = [...new Set(data.runs.map(run => run.state))].filter(state => state !== "done").map(state => `${count(state)} ${state}`);
  const several = (n, name) => `${n} ${name}${n === 1 ? "" : "s"}`;
  $("lead").textContent = [`${done.toLocaleString("en")} of ${data.runs.length.toLocaleString("en")} runs done`, ...others,
    several(new Set(data.rows.map(row => row.method)).size, "method"), several(new Set(data.columns.map(column => column.data)).size, "data set")].join(" · ");
  $("left-out").hidden = !data.left_out.length;
  fill($("left-out-body"), h("p", {class: "muted"}, "Files and folders that count in nothing above, and why."), h("ul", null, data.left_out.map(line => h("li", null, line))));
  $("foot").textContent = `ssl-bench ${data.version} · ${data.made}${data.omitted ? ` · ${data.omitted}` : ""}`;
  fill($("sections"), [["results", "Results"], ["statistics", "Statistics"], ["figures", "Figures"], ["runs", "Runs"], ["left-out", "Left out"]]
    .filter(([id]) => !$(id).hidden).map(([id, text]) => h("a", {href: `#${id}`, "data-key": id}, text)));
}

// #run/ID, #compare/ID/ID, #cell/METHOD/VARIANT/DATA/LABELS/ARCH; anything else is a place on the first page.
function detailOf(hash) {
  const [kind, ...parts] = hash.slice(1).split("/").map(decoded), runs = parts.map(id => runById.get(id));
  if (kind === "run" && parts.length === 1) return runs[0] ? runPage(runs[0]) : gone();
  if (kind === "compare" && parts.length === 2) return runs[0] && runs[1] ? comparePage(...runs) : gone();
  if (kind !== "cell") return null;
  const [method, variant, set, labels, arch] = parts;
  const found = data.runs.filter(run => data.rows[run.row].method === method && data.rows[run.row].variant === variant && data.columns[run.column].data === set
    && String(data.columns[run.column].labels) === labels && data.columns[run.column].arch === arch);
  return found.length ? cellPage(found, view) : gone();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function gone() {
  return [h("h1", null, "Not here"), h("p", null, "This page holds no such run. ", h("a", {href: "#results"}, "All results"))];
}

function route(moved) {
  const detail = detailOf(location.hash);
  $("home").hidden = detail !== null;
  $("detail").hidden = detail === null;
  if (detail) fill($("detail"), detail);
  else $("detail").replaceChildren();
  if (!moved) return;
  document.title = [detail && $("detail").querySelector("h1").textContent, $("results-head").textContent].filter(Boolean).join(" - ");
  if (detail) scrollTo(0, 0);
  else document.getElementById(location.hash.slice(1) || "results")?.scrollIntoView();
  if (detail) $("main").focus({preventScroll: true});
}

function show(fresh) {
  data = fresh;
  runById = new Map(data.runs.map(run => [run.id, run]));
  view.picked = view.picked.filter(id => runById.has(id));
  drawControls();
  showTables();
  drawAround();
}

// Asks the server that gave this page what is new; what the reader has sorted, filtered, opened and scrolled to stays.
async function poll(tag) {
  let next = tag;
  try {
    const answer = await fetch("data.json", {headers: tag ? {"If-None-Match": tag} : {}, cache: "no-store"});
    if (answer.status === 200) {
      const fresh = await answer.json(), place = [scrollX, scrollY];
      show(fresh);
      route(false);
      scrollTo(...place);
      next = answer.headers.get("ETag");
    }
    if (answer.ok || answer.status === 304) $("live").textContent = `live · ${data.made}`;
    else $("live").textContent = `the server says ${answer.status}`;
  } catch {
    $("live").textContent = `no longer live · ${data.made}`;
  }
  setTimeout(poll, POLL, next);
}

show(data);
addEventListener("hashchange", () => route(true));
route(Boolean(location.hash));
if (document.documentElement.dataset.mode === "live") setTimeout(poll, POLL, `"${data.tag}"`);
