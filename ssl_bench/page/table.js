// The table: one record a run -> cells, as `ssl-bench table` makes them.

// As Python's math.fsum: the sum of the exact values, rounded once.
function exactSum(values) {
  const parts = [];
  for (let value of values) {
    let kept = 0;
    for (let part of parts) {
      if (Math.abs(value) < Math.abs(part)) [value, part] = [part, value];
      const high = value + part, low = part - (high - value);
      if (low) parts[kept++] = low;
      value = high;
    }
    parts.length = kept;
    parts.push(value);
  }
  return parts.reduceRight((sum, part) => sum + part, 0);
}

// As Python's f"{x:.1f}", which takes the even one of two equally near: only x.25 and x.75 are, and toFixed rounds up.
function shown(x) {
  return ((x * 4) % 4 === 1 ? x - 0.05 : x).toFixed(1);
}

function valueOf(run, view) {
  const values = run.scores[view.metric];
  return values ? values[Object.keys(data.selections).indexOf(view.select)] : null;
}

function spread(values, mean) {
  return values.length > 1 ? Math.sqrt(exactSum(values.map(v => (v - mean) ** 2)) / (values.length - 1)) : null;
}

// "row,column" -> {runs, values, mean, std, n, expected, note}; a column expects each seed that any of its runs has.
function summarize(view) {
  const cells = new Map(), seeds = data.columns.map(() => new Set());
  for (const run of data.runs) {
    const key = `${run.row},${run.column}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(run);
    seeds[run.column].add(run.seed);
  }
  const found = new Map();
  data.rows.forEach((row, r) => data.columns.forEach((column, c) => {
    const runs = cells.get(`${r},${c}`) || [];
    const values = runs.map(run => valueOf(run, view)).filter(value => value != null);
    const mean = values.length ? exactSum(values) / values.length : null;
    const note = missing(runs, [...seeds[c]].sort((a, b) => a - b), view);
    found.set(`${r},${c}`, {runs, values, mean, std: spread(values, mean), n: values.length, expected: seeds[c].size, note});
  }));
  return found;
}

function missing(runs, seeds, view) {
  if (!runs.length) return "not launched";
  const why = new Map(), bySeed = new Map(runs.map(run => [run.seed, run]));
  for (const seed of seeds) {
    const run = bySeed.get(seed);
    if (run && valueOf(run, view) != null) continue;
    const reason = !run ? "not launched" : run.state === "done" ? `without ${view.metric}` : run.state;
    why.set(reason, [...(why.get(reason) || []), seed]);
  }
  return [...why].map(([reason, each]) => `seed${each.length > 1 ? "s" : ""} ${each.join(", ")} ${reason}`).join(" and ");
}

// Published numbers stand in the column of their network, or else in each of their data set and labels.
function placePublished(cells, rows) {
  for (const line of data.published) {
    const origin = `${line.published}: ${line.arch}, ${line.pretrained}, ${line.select}`;
    let r = rows.findIndex(row => row.method === line.method && row.variant === line.variant && row.origin === origin);
    if (r < 0) r = rows.push({method: line.method, variant: line.variant, origin}) - 1;
    const fits = data.columns.map((column, c) => c)
      .filter(c => data.columns[c].data === line.data && data.columns[c].labels === line.labels_per_class);
    const own = fits.filter(c => data.columns[c].arch === line.arch);
    for (const c of own.length ? own : fits) cells.set(`${r},${c}`, {...line, runs: [], values: [], expected: line.n, note: ""});
  }
}

// A network that one method alone has trained is a line below: as a column it would leave every other row without an average.
function standingAlone(cells) {
  const trained = data.columns.map((_, c) => data.rows.map((_, r) => r).filter(r => cells.get(`${r},${c}`).n));
  const alone = new Map();
  data.columns.forEach((column, c) => {
    const others = trained.filter((_, o) => o !== c && data.columns[o].data === column.data && data.columns[o].labels === column.labels);
    if (trained[c].length === 1 && others.some(rows => rows.length > 1) && !others.some(rows => rows.includes(trained[c][0])))
      alone.set(c, trained[c][0]);
  });
  return alone;
}

function rowName(row) {
  return row.method + (row.variant ? ` (${row.variant})` : "") + (row.origin ? ` [${row.origin}]` : "");
}

function labelsText(labels) {
  return `${labels || "all"} label${labels === 1 ? "" : "s"}`;
}

// Heads of `columns`: [data set, what else tells it from its neighbours]; and what all of them share, for the caption.
function heads(columns) {
  const labels = new Set(columns.map(column => column.labels)), archs = new Set(columns.map(column => column.arch));
  const head = column => [column.data, [
    ...(labels.size > 1 ? [`${labelsText(column.labels)}/class`] : []), ...(archs.size > 1 ? [column.arch] : []),
  ].join(", ")];
  const [first] = columns;
  const fixed = first ? [...(labels.size === 1 ? [`${labelsText(first.labels)} per class`] : []),
                         ...(archs.size === 1 && first.arch ? [first.arch] : [])] : [];
  return {heads: columns.map(head), fixed};
}

// What the filters leave of the table: rows, columns (indices), cells, averages and the best printed mean of each column.
function tableOf(view) {
  const cells = summarize(view), rows = data.rows.map(row => ({...row, origin: ""}));
  if (view.metric === "top1") placePublished(cells, rows);
  const alone = standingAlone(cells);
  const fits = (r, c) => (!rows[r].origin || cells.has(`${r},${c}`)) && wordsIn(`${rowName(rows[r])} ${columnText(data.columns[c])}`, view);
  const possible = data.columns.map((_, c) => c).filter(c => !alone.has(c) && columnFits(data.columns[c], view));
  const kept = rows.map((_, r) => r).filter(r => ![...alone.values()].includes(r)
    && (!view.filter.method || rows[r].method === view.filter.method) && possible.some(c => fits(r, c)));
  const columns = possible.filter(c => kept.some(r => fits(r, c)));
  if (narrowed(view)) kept.splice(0, kept.length, ...kept.filter(r => columns.some(c => cells.get(`${r},${c}`)?.runs.length || rows[r].origin)));
  const cell = (r, c) => cells.get(`${r},${c}`);
  const average = new Map(kept.map(r => {
    const means = columns.map(c => cell(r, c)?.mean ?? null);
    return [r, columns.length > 1 && !means.includes(null) ? exactSum(means) / means.length : null];
  }));
  const ranked = kept.filter(r => !rows[r].oracle && !rows[r].origin);
  const best = values => { const some = values.filter(v => v != null).map(v => +shown(v)); return some.length ? Math.max(...some) : null; };
  return {
    rows, columns, kept, cell, average, alone, ranked: new Set(ranked),
    best: new Map([...columns.map(c => [c, best(ranked.map(r => cell(r, c).mean))]), ["average", best(ranked.map(r => average.get(r)))]]),
  };
}

// Asked for a part, the reader gets the rows that have runs there; the whole table also shows what was never launched.
function narrowed(view) {
  return Object.values(view.filter).some(Boolean);
}

function columnFits(column, view) {
  const {data: set, labels, arch} = view.filter;
  return (!set || column.data === set) && (!labels || String(column.labels) === labels) && (!arch || column.arch === arch);
}

function columnText(column) {
  return `${column.data} ${labelsText(column.labels)} ${column.arch}`;
}

function wordsIn(text, view) {
  const lower = text.toLowerCase();
  return view.filter.text.toLowerCase().split(/\s+/).every(word => lower.includes(word));
}

function countText(cell) {
  return cell.n === cell.expected ? `(${cell.n})` : `(${cell.n}/${cell.expected})`;
}

function numberText(cell) {
  return shown(cell.mean) + (cell.std == null ? "" : ` ± ${shown(cell.std)}`) + ` ${countText(cell)}`;
}
