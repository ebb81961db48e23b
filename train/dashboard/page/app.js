"use strict";
// Shows the runs that the server lists. A run's lines come as server-sent
// events; what a line holds is only ever shown as text.

const $ = id => document.getElementById(id);
const maxShown = 5; // runs at once: so many colours can be told apart
const runs = new Map(); // by path
let chosen = []; // paths of the runs that are shown; the first is the one the page is about

// ---- a run

class Run {
  constructor(info) {
    this.info = info;
    this.clear();
  }
  clear() {
    this.offset = 0; // in the file, of what was heard
    this.whole = false; // it was heard to its end
    this.steps = { step: [], tokens: [], time: [], loss: [], lr: [], norm: [], rate: [], mfu: [] };
    this.vals = { step: [], tokens: [], time: [], loss: [] };
    this.norms = [];
    this.samples = [];
    this.events = [];
    this.start = null;
    this.last = null; // record
    this.peak = 0;
    this.spent = 0; // seconds, without interruptions
    this.session = null; // when this process began, and what had been spent
  }
  // add takes a line of metrics.jsonl.
  add(line) {
    let r;
    try { r = JSON.parse(line); } catch { return; }
    if (!r || typeof r.type !== "string") return;
    if (r.type === "start") {
      this.session = { began: r.time, spent: this.spent };
      this.start = r;
    }
    if (this.session) this.spent = this.session.spent + Math.max(0, r.time - this.session.began);
    if (r.type === "start" || r.type === "rollback") this.forget(r.step);
    this.last = r;
    if (r.peak_mem) this.peak = r.peak_mem;
    const at = to => { to.step.push(r.step); to.tokens.push(r.tokens); to.time.push(this.spent); };
    switch (r.type) {
    case "step":
      at(this.steps);
      this.steps.loss.push(number(r["train/loss"]));
      this.steps.lr.push(number(r.lr));
      this.steps.norm.push(number(r.grad_norm));
      this.steps.rate.push(number(r.tok_per_sec));
      this.steps.mfu.push(number(r.mfu) == null ? null : 100 * number(r.mfu));
      if (Array.isArray(r.norms) && r.norms.length) this.norms.push({ step: r.step, parts: r.norms });
      break;
    case "eval":
      at(this.vals);
      this.vals.loss.push(number(r["val/loss"]));
      break;
    case "sample":
      this.samples.push({ step: r.step, text: String(r.text ?? "") });
      break;
    case "save": case "save_failed": case "skip": case "rollback": case "warning": case "end":
      this.events.push(r);
      if (this.events.length > 500) this.events.shift();
    }
  }
  // forget drops the steps that are taken again.
  forget(step) {
    for (const table of [this.steps, this.vals]) {
      let n = table.step.length;
      while (n > 0 && table.step[n - 1] > step) n--;
      for (const column of Object.values(table)) column.length = n;
    }
    this.norms = this.norms.filter(n => n.step <= step);
    this.samples = this.samples.filter(s => s.step <= step);
  }
  bytesPerToken() { return this.start?.bytes_per_token || 0; }
  // listen gets what there is to get, from where it left off. The run that the
  // page is about stays connected until it ends; from the others it hangs up when
  // it has everything, and calls again when the list says that there is more: a
  // browser has six connections to a server, for all its tabs.
  listen() {
    this.wanted = true;
    if (this.source || this.again || this.whole && this.info.size <= this.offset) return;
    const source = this.source = new EventSource(`events?run=${encodeURIComponent(this.info.path)}&from=${this.offset}`);
    const heard = () => { this.lost = false; redraw(); };
    source.onopen = heard;
    source.onmessage = e => {
      for (const line of e.data.split("\n")) this.add(line);
      this.offset = Number(e.lastEventId);
      heard();
    };
    source.addEventListener("reset", () => { this.clear(); heard(); });
    source.addEventListener("idle", () => {
      this.whole = true;
      if (this.info.path !== chosen[0] || this.last?.type === "end") this.hangUp();
      heard();
    });
    source.onerror = () => { // the browser itself would not try again if it was told 503
      this.hangUp();
      this.lost = true;
      this.again = setTimeout(() => { this.again = null; if (this.wanted) this.listen(); }, 1000);
      redraw();
    };
  }
  hangUp() {
    this.source?.close();
    this.source = null;
  }
  // hush forgets the run: when it is wanted again, it may be another.
  hush() {
    this.wanted = this.lost = false;
    this.hangUp();
    this.clear();
  }
  // pace is the seconds of a step lately, with all that is between steps.
  pace() {
    const { step, time } = this.steps, n = step.length, from = Math.max(0, n - 50);
    return n - from < 2 ? 0 : (time[n - 1] - time[from]) / (step[n - 1] - step[from]);
  }
}

// number reads a Float: NaN and infinities, which are strings, cannot be drawn.
function number(x) {
  const n = typeof x === "string" ? NaN : Number(x ?? NaN);
  return Number.isFinite(n) ? n : null;
}

// smooth is an exponential moving average that starts unbiased.
function smooth(values, weight) {
  let sum = 0, norm = 0;
  return values.map(v => {
    if (v == null) return null;
    sum = weight * sum + (1 - weight) * v;
    norm = weight * norm + (1 - weight);
    return norm > 0 ? sum / norm : v;
  });
}

// ---- words

const two = n => String(n).padStart(2, "0");
function duration(s) {
  s = Math.round(s);
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + two(s % 60) + " s";
  return Math.floor(s / 3600) + " h " + two(Math.floor(s % 3600 / 60)) + " min";
}
function count(n) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(n) >= size) return +(n / (size === 1e4 ? 1e3 : size)).toPrecision(3) + unit;
  }
  return String(+n.toPrecision(4));
}
const bytes = n => n >= 2 ** 30 ? (n / 2 ** 30).toFixed(2) + " GiB" : Math.round(n / 2 ** 20) + " MiB";

// text makes an element with a text, which is never taken for markup.
function text(tag, content, className) {
  const e = document.createElement(tag);
  e.textContent = content;
  if (className) e.className = className;
  return e;
}
function pairs(list, entries) {
  list.replaceChildren(...entries.map(([name, value]) => {
    const div = document.createElement("div");
    div.append(text("dt", name), text("dd", value));
    return div;
  }));
}

// ---- charts

const setting = name => document.querySelector(`input[name=${name}]:checked`)?.value;
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Map();
const heightOf = id => id === "loss" ? 290 : 165; // the legend comes below

// scale turns nats a token into the unit that is asked for.
function scale(run) {
  const b = run.bytesPerToken();
  return setting("unit") === "bits" && b ? 1 / Math.LN2 / b : 1;
}

const times = (v, k) => k === 1 ? v : v.map(y => y == null ? null : y * k);

// tables returns what a chart shows: series with a table [x, y] each.
function tables(id, shown) {
  const x = setting("x"), weight = +$("smoothing").value, all = [];
  shown.forEach((run, i) => {
    const c = color("--c" + i), name = shown.length > 1 ? run.info.name + " " : "";
    const k = id === "loss" ? scale(run) : 1, raw = times(run.steps[id], k);
    if (id === "loss") {
      all.push({ xy: [run.steps[x], raw], label: name + "step", stroke: c + "55", width: 1 });
      all.push({ xy: [run.steps[x], smooth(raw, weight)], label: name + "smoothed", stroke: c, width: 2 });
      all.push({ xy: [run.vals[x], times(run.vals.loss, k)], label: name + "held out", stroke: c, width: 1.5, dash: [6, 4],
        points: { show: true, size: 6, fill: c } });
    } else {
      all.push({ xy: [run.steps[x], raw], label: name || "value", stroke: c, width: 1.3 });
    }
  });
  return all;
}

// endsOf returns the first and the last x. uPlot keeps the arrays, which grow.
const endsOf = ([xs]) => [xs[0], xs[xs.length - 1]];

function draw(id, shown) {
  const box = $(id), all = tables(id, shown), x = setting("x");
  const data = uPlot.join(all.map(s => s.xy));
  const key = JSON.stringify([all.map(s => [s.label, s.stroke]), x, $("log").checked, document.documentElement.className]);
  let chart = charts.get(id);
  if (chart?.key === key) {
    const { plot, ends } = chart, { min, max } = plot.scales.x;
    chart.ends = endsOf(data);
    if (min > ends[0] || max < ends[1]) { // somebody looks closely
      plot.setData(data, false);
      plot.redraw();
    } else plot.setData(data);
    return;
  }
  chart?.plot.destroy();
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const plot = new uPlot({
    width: box.clientWidth, height: heightOf(id),
    cursor: { sync: { key: "runs" }, points: { size: 6 } },
    scales: { x: { time: false }, y: { distr: $("log").checked && id !== "mfu" ? 3 : 1 } },
    axes: [{ ...axis, values: (u, v) => v.map(n => x === "time" ? duration(n) : count(n)), space: 80 },
      { ...axis, size: 62, values: (u, v) => v.map(n => n == null ? "" : Math.abs(n) < 1e-2 && n !== 0 ? n.toExponential(0) : count(n)) }],
    series: [{ label: x, value: (u, n) => n == null ? "–" : x === "time" ? duration(n) : count(n) },
      ...all.map(s => ({ points: { show: false }, ...s, xy: undefined, spanGaps: false,
        value: (u, n) => n == null ? "–" : Math.abs(n) < 1e-2 && n !== 0 ? n.toExponential(2) : n < 1e4 ? n.toPrecision(4) : count(n) }))],
  }, data, box);
  charts.set(id, { key, plot, ends: endsOf(data) });
}

addEventListener("resize", () => {
  for (const [id, { plot }] of charts) plot.setSize({ width: $(id).clientWidth, height: heightOf(id) });
  redraw();
});

// ---- heat map

// heatColor goes from dark blue over green to yellow, evenly in brightness.
function heatColor(t) {
  const stops = [[46, 38, 98], [38, 98, 140], [34, 145, 129], [110, 190, 82], [244, 226, 60]];
  const at = Math.max(0, Math.min(1, t)) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2), f = at - i;
  return `rgb(${stops[i].map((a, j) => Math.round(a + (stops[i + 1][j] - a) * f)).join(",")})`;
}

const rowHeight = 16;
let heat = null; // what is drawn: {columns, names, what}

function drawHeat(run) {
  $("heat-figure").hidden = !run.norms.length;
  if (!run.norms.length) return;
  const canvas = $("heat"), what = setting("heat"), names = run.norms[0].parts.map(p => String(p.name));
  const width = Math.max(50, canvas.parentElement.clientWidth - $("heat-names").clientWidth - 8), ratio = devicePixelRatio || 1;
  const n = Math.min(run.norms.length, Math.floor(width));
  const columns = Array.from({ length: n }, (_, i) => run.norms[Math.floor((i + 1) * run.norms.length / n) - 1]);
  let low = Infinity, high = -Infinity;
  for (const c of columns) {
    for (const p of c.parts) {
      const v = number(p[what]);
      if (v > 0) { low = Math.min(low, v); high = Math.max(high, v); }
    }
  }
  if ($("heat-names").dataset.names !== names.join()) {
    $("heat-names").dataset.names = names.join();
    $("heat-names").replaceChildren(...names.map(s => text("li", s)));
  }
  canvas.width = width * ratio;
  canvas.height = names.length * rowHeight * ratio;
  const g = canvas.getContext("2d"), span = Math.log(high / low) || 1;
  columns.forEach((c, i) => {
    const x0 = Math.round(i * canvas.width / n), x1 = Math.round((i + 1) * canvas.width / n);
    c.parts.forEach((p, j) => {
      const v = number(p[what]);
      g.fillStyle = v == null ? color("--bad") : v > 0 ? heatColor(Math.log(v / low) / span) : color("--line");
      g.fillRect(x0, j * rowHeight * ratio, x1 - x0, (rowHeight - 1) * ratio);
    });
  });
  heat = { columns, names, what };
  $("heat-low").textContent = Number.isFinite(low) ? low.toPrecision(3) : "";
  $("heat-high").textContent = Number.isFinite(high) ? high.toPrecision(3) + " (logarithmic)" : "";
}

$("heat").addEventListener("mousemove", e => {
  if (!heat) return;
  const box = $("heat").getBoundingClientRect();
  const c = heat.columns[Math.floor((e.clientX - box.left) / box.width * heat.columns.length)];
  const j = Math.floor((e.clientY - box.top) / rowHeight);
  if (c?.parts[j]) $("heat-at").textContent = `step ${c.step}, ${heat.names[j]}: ${c.parts[j][heat.what]}`;
});

function drawHeatLegend() {
  const g = $("heat-legend").getContext("2d");
  for (let i = 0; i < 200; i++) {
    g.fillStyle = heatColor(i / 199);
    g.fillRect(i, 0, 1, 10);
  }
}

// ---- the page

function status(run) {
  const p = $("status"), last = run.last, steps = run.start?.steps || 0, n = run.steps.step.length;
  let words = "", kind = "";
  if (run.lost) words = "reconnecting …";
  else if (!last) words = "nothing has happened yet";
  else if (last.type === "end") {
    words = last.error ? "ended: " + last.error : "finished";
    kind = last.error ? "failed" : "";
  } else if (Date.now() / 1e3 - last.time > Math.max(60, 20 * run.pace())) {
    words = "no news since " + new Date(last.time * 1e3).toLocaleString();
  } else {
    kind = "live";
    const left = steps && run.pace() ? (steps - last.step) * run.pace() : 0;
    words = left > 0 ? `live, about ${duration(left)} left, until ${new Date(Date.now() + left * 1e3).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}` : "live";
  }
  p.textContent = words;
  p.className = kind;
  $("progress").hidden = !steps;
  if (steps) $("progress").value = Math.min(1, (last?.step || 0) / steps);
  const figures = [], k = scale(run), unit = k === 1 ? "nats a token" : "bits a byte";
  const best = Math.min(...run.vals.loss.filter(v => v != null));
  const final = a => a[a.length - 1];
  if (last) figures.push(["step" + (steps ? " of " + steps : ""), String(last.step)]);
  if (n && final(run.steps.loss) != null) figures.push(["loss of the step, " + unit, (final(run.steps.loss) * k).toFixed(3)]);
  if (run.vals.loss.length && final(run.vals.loss) != null) figures.push(["held out" + (best < final(run.vals.loss) ? `, best ${(best * k).toFixed(3)}` : ""), (final(run.vals.loss) * k).toFixed(3)]);
  if (n) figures.push(["tokens a second", count(final(run.steps.rate) ?? 0)], ["tokens", count(final(run.steps.tokens))], ["time", duration(run.spent)]);
  if (run.peak) figures.push(["memory", bytes(run.peak)]);
  pairs($("figures"), figures);
}

function details(run) {
  $("samples-figure").hidden = !run.samples.length;
  $("samples").replaceChildren(...run.samples.slice(-30).reverse().map(s => {
    const a = document.createElement("article");
    a.append(text("h3", "after step " + s.step), text("pre", s.text));
    return a;
  }));
  $("log-figure").hidden = !run.events.length;
  $("events").replaceChildren(...run.events.slice(-100).reverse().map(r => {
    const words = { save: "saved " + (r.path ?? ""), save_failed: "could not save", skip: "the step was bad and skipped",
      rollback: "went back to a checkpoint", warning: "warning", end: "ended" }[r.type];
    return text("li", `step ${r.step}: ${words}${r.error ? ": " + r.error : ""}`, r.error ? "bad" : "");
  }));
  const flat = [];
  const walk = (prefix, v) => {
    if (v && typeof v === "object" && !Array.isArray(v)) for (const [k, w] of Object.entries(v)) walk(prefix ? prefix + "." + k : k, w);
    else if (prefix) flat.push([prefix, typeof v === "string" ? v : JSON.stringify(v)]);
  };
  walk("", run.start?.config);
  $("config-figure").hidden = !flat.length;
  pairs($("config"), flat);
}

let due = false, busy = 0;
// redraw shows what has come, at most some five times a second.
function redraw() {
  if (due) return;
  due = true;
  setTimeout(() => requestAnimationFrame(() => {
    due = false;
    const began = performance.now();
    page();
    busy = performance.now() - began;
  }), Math.max(150, 3 * busy));
}

function page() {
  const shown = chosen.map(p => runs.get(p)).filter(Boolean);
  $("main").hidden = !shown.length;
  $("controls").hidden = !shown.length;
  $("empty").hidden = runs.size > 0;
  if (!shown.length) {
    $("status").textContent = runs.size ? "choose a run" : "";
    return;
  }
  $("title").textContent = document.title = shown[0].info.name;
  $("unit").hidden = !shown.some(r => r.bytesPerToken());
  status(shown[0]);
  for (const id of ["loss", "norm", "lr", "rate", "mfu"]) draw(id, shown);
  drawHeat(shown[0]);
  details(shown[0]);
}

function chips() {
  $("runs").replaceChildren(...[...runs.values()].map(run => {
    const i = chosen.indexOf(run.info.path), label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = i >= 0;
    box.disabled = i < 0 && chosen.length >= maxShown;
    label.title = box.disabled ? `at most ${maxShown} at once` : "last changed " + new Date(run.info.time).toLocaleString();
    if (i >= 0) label.className = "on c" + i;
    box.addEventListener("change", () => choose(run.info.path, box.checked));
    label.append(box, document.createElement("i"), text("span", run.info.name));
    return label;
  }));
}

function choose(path, on) {
  chosen = chosen.filter(p => p !== path);
  if (on) chosen.push(path);
  for (const [p, run] of runs) {
    if (chosen.includes(p)) run.listen();
    else if (run.wanted) run.hush();
  }
  chips();
  redraw();
}

// look asks which runs there are.
async function look() {
  try {
    const answer = await (await fetch("runs")).json();
    for (const info of answer.runs) {
      if (runs.has(info.path)) runs.get(info.path).info = info;
      else runs.set(info.path, new Run(info));
    }
    for (const [path, run] of runs) {
      if (!answer.runs.some(i => i.path === path)) {
        run.hush();
        runs.delete(path);
        chosen = chosen.filter(p => p !== path);
      }
    }
    if (!chosen.length && answer.runs.length) {
      const first = answer.runs.find(i => i.path === answer.first) ?? answer.runs[0];
      choose(first.path, true);
    }
    for (const p of chosen) runs.get(p).listen();
    if (!$("runs").contains(document.activeElement)) chips();
  } catch {
    $("status").textContent = "the program does not answer; reconnecting …";
    $("status").className = "";
    return;
  }
  redraw();
}

function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  redraw();
}
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
theme(prefersDark.matches);
prefersDark.addEventListener("change", e => theme(e.matches));
$("theme").addEventListener("click", () => theme(!document.documentElement.classList.contains("dark")));
document.querySelector("input[name=unit][value=bits]").checked = true;
document.addEventListener("input", redraw);
$("controls").addEventListener("submit", e => e.preventDefault());
drawHeatLegend();
look();
setInterval(look, 3000);
