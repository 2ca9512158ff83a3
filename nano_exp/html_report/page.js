"use strict";
(async () => {
  // ---- what the page is made of: a gzipped JSON document and a gzipped Plotly, both inside this file ----------------
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  const page = document.getElementById("page");
  const data = JSON.parse(await unpacked("data"));
  const library = document.createElement("script");
  library.textContent = await unpacked("library");
  document.head.append(library);

  const SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B6BB1"];  // Okabe and Ito's
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const colour = (i) => SERIES[i % SERIES.length];
  const dash = (i) => DASHES[Math.floor(i / SERIES.length) % DASHES.length];

  // ---- small helpers -------------------------------------------------------------------------------------------------
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  function number(value, digits = 4) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 2).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(+value.toPrecision(digits));
  }
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const remembered = JSON.parse(sessionStorage.getItem(`nano-exp ${data.title}`) || "{}");
  function remember(key, value) {
    remembered[key] = value;
    try { sessionStorage.setItem(`nano-exp ${data.title}`, JSON.stringify(remembered)); } catch (error) { /* private window */ }
  }
  const section = (title, ...children) => {
    const id = title.toLowerCase().replace(/[^a-z]+/g, "-");
    page.append(el("section", { "aria-labelledby": id }, el("h2", { id }, title), ...children));
  };

  // ---- tables: sortable by a column, filtered by words ---------------------------------------------------------------
  // columns: {title, numeric, get(row) -> value, show(row) -> text or node}; the first click sorts up, the second down.
  function table(caption, columns, rows, name) {
    const body = el("tbody");
    const heads = columns.map((column, at) => el("th", { scope: "col", class: column.numeric ? "number" : null },
      column.get ? el("button", { type: "button", onclick: () => sortBy(at) }, column.title) : column.title));
    let order = rows.map((_, i) => i), sorted = null, up = true, words = [];
    const lines = rows.map((row) => {
      const line = el("tr", {}, ...columns.map((column) => el("td", { class: column.numeric ? "number" : column.text ? "text" : null },
        column.show ? column.show(row) : number(column.get(row)))));
      line.dataset.words = columns.filter((c) => c.get).map((c) => `${c.title}=${c.get(row)}`).join(" ").toLowerCase();
      return line;
    });
    const count = el("span", { class: "soft", role: "status" });
    function draw() {
      const shown = order.filter((i) => words.every((word) => lines[i].dataset.words.includes(word)));
      body.replaceChildren(...shown.map((i) => lines[i]));
      count.textContent = shown.length === rows.length ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
    }
    function sortBy(at) {
      up = sorted === at ? !up : true;
      sorted = at;
      const get = columns[at].get, sign = up ? 1 : -1;
      const empty = (v) => v === null || v === undefined || v === "";
      order = [...order].sort((a, b) => {
        const x = get(rows[a]), y = get(rows[b]);
        if (empty(x) || empty(y)) return empty(x) - empty(y);
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
      });
      heads.forEach((head, i) => i === at ? head.setAttribute("aria-sort", up ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
      draw();
    }
    const filter = el("input", { type: "search", placeholder: "words, lr=5e-4", oninput: (event) => {
      words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      draw();
    } });
    draw();
    return el("div", { id: name },
      rows.length > 5 ? el("div", { class: "tools" }, el("label", {}, "Filter", filter), count) : null,
      el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
        el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads)), body)));
  }

  // ---- pictures: drawn when they come into view, and drawn again when the colours change ---------------------------
  const pictures = [];
  function look(extra = {}) {
    const ink = css("--ink"), line = css("--line");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const { xaxis = {}, yaxis = {}, ...rest } = extra;
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12, family: "system-ui, DejaVu Sans, sans-serif" },
      margin: { l: 52, r: 12, t: 26, b: 40 }, showlegend: false, hoverlabel: { font: { size: 12 } },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest };
  }
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    const picture = pictures.find((one) => one.place === entry.target);
    if (picture) { picture.visible = entry.isIntersecting; if (picture.visible && picture.stale) redraw(picture); }
  }), { rootMargin: "300px" });
  function redraw(picture) {
    picture.stale = false;
    const { traces, layout } = picture.draw(picture.place.clientWidth);
    Plotly.react(picture.place, traces, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  }
  function picture(caption, draw, broad = false, label = "") {
    const place = el("div", { class: "plot", role: "img", "aria-label": label || caption });
    const one = { place, draw, stale: true, visible: false };
    pictures.push(one);
    watcher.observe(place);
    return el("figure", { class: broad ? "broad" : null }, el("figcaption", {}, caption), place);
  }
  const stale = () => pictures.forEach((one) => { one.stale = true; if (one.visible) redraw(one); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", stale);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; stale(); } });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((one) => { one.open = true; });
    pictures.forEach((one) => { if (one.stale) redraw(one); });
  });

  // ---- the question --------------------------------------------------------------------------------------------------
  page.replaceChildren(
    el("header", {}, el("h1", {}, data.title),
      el("p", {}, data.question),
      el("p", { class: "soft" }, `${data.made}, nano-exp ${data.version}`, data.refresh_s ? `; made anew while runs go on, this page reloads every ${data.refresh_s} s` : "")),
    el("ul", { class: "tiles", "aria-label": "In short" }, ...data.tiles.map(([title, value]) => el("li", {}, el("b", {}, value), title))));
  if (data.verdict.length) page.append(el("ul", { class: "verdict" }, ...data.verdict.map((note) => el("li", {}, note))));
  if (data.held.length) page.append(el("details", {}, el("summary", {}, `Held the same in all runs: ${data.held.length} override${data.held.length === 1 ? "" : "s"}`), el("pre", {}, data.held.join("\n"))));

  // ---- the ranked table ----------------------------------------------------------------------------------------------
  const axisColumns = (values) => data.axes.map((axis, at) => ({ title: axis.name, numeric: axis.numeric, get: (row) => values(row)[at], show: (row) => shown(values(row)[at]) }));
  const shown = (value) => value === null || value === undefined ? "" : typeof value === "number" ? data.words[value] || number(value, 6) : String(value);
  const label = (point) => data.axes.map((axis, at) => `${axis.name}=${shown(point.values[at])}`).join("  ") || data.title;
  section("Ranking", table(data.ranking_caption, [
    { title: "rank", numeric: true, get: (p) => p.rank },
    ...axisColumns((p) => p.values),
    { title: data.by, numeric: true, get: (p) => p.mean },
    { title: "interval", get: (p) => p.low, show: (p) => p.low === null ? "" : `${number(p.low)} to ${number(p.high)}` },
    { title: "runs", numeric: true, get: (p) => p.counted },
    { title: "best", numeric: true, get: (p) => p.best },
    { title: "p", numeric: true, get: (p) => p.behind, show: (p) => p.behind === null ? "" : p.behind < 0.001 ? "<0.001" : number(p.behind, 2) },
    { title: data.unit, numeric: true, get: (p) => p.gpu_hours },
    { title: "state", text: true, get: (p) => p.state },
  ], data.points, "ranking"));

  // ---- the value over the axes ---------------------------------------------------------------------------------------
  const measured = data.points.filter((p) => p.mean !== null);
  const values = (at) => [...new Map(data.points.map((p) => [p.values[at], shown(p.values[at])])).entries()]
    .sort((a, b) => typeof a[0] === "number" && typeof b[0] === "number" ? a[0] - b[0] : 0).map((pair) => pair[1]);
  function lineOverAxis() {
    const at = 0, order = values(at);
    const rows = [...measured].sort((a, b) => order.indexOf(shown(a.values[at])) - order.indexOf(shown(b.values[at])));
    return { traces: [{ x: rows.map((p) => plain(shown(p.values[at]))), y: rows.map((p) => p.mean), mode: "lines+markers", marker: { size: 9 }, line: { color: colour(0) },
      error_y: { type: "data", symmetric: false, array: rows.map((p) => p.high === null ? 0 : p.high - p.mean), arrayminus: rows.map((p) => p.low === null ? 0 : p.mean - p.low) },
      hovertemplate: `${plain(data.axes[at].name)}=%{x}<br>${plain(data.by)} %{y:.4g}<extra></extra>` }],
      layout: look({ xaxis: { type: "category", title: { text: plain(data.axes[at].name) } }, yaxis: { title: { text: plain(data.by) } } }) };
  }
  let across = remembered.across ?? 1, down = remembered.down ?? 0;
  function heatMap(wide) {
    const xs = values(across), ys = values(down);
    const narrow = wide < 600, room = (wide - (narrow ? 80 : 160)) / xs.length;  // pixels of a cell
    const cells = ys.map((y) => xs.map((x) => measured.filter((p) => shown(p.values[across]) === x && shown(p.values[down]) === y)));
    const mean = (list) => list.length ? list.reduce((sum, p) => sum + p.mean, 0) / list.length : null;
    const z = cells.map((row) => row.map(mean));
    const all = z.flat().filter((value) => value !== null);
    const best = all.length ? (data.lower_is_better ? Math.min(...all) : Math.max(...all)) : null;
    const low = Math.min(...all), high = Math.max(...all);
    const shapes = [], annotations = [];
    z.forEach((row, j) => row.forEach((value, i) => {
      const light = value !== null && high > low && (value - low) / (high - low) > 0.55;
      const cell = cells[j][i];
      const half = room > 95 && cell.length === 1 && cell[0].low !== null ? `<br>${number(cell[0].low, 3)} to ${number(cell[0].high, 3)}` : "";
      annotations.push({ x: i, y: j, showarrow: false, text: value === null ? (room > 95 ? "not measured" : "-") : `${value === best ? "<b>best</b><br>" : ""}${number(value, room > 60 ? 3 : 2)}${half}`,
        font: { color: value === null ? css("--soft") : light ? "#1b1f24" : "#ffffff", size: 12 } });
      if (value !== null && value === best) shapes.push({ type: "rect", x0: i - 0.49, x1: i + 0.49, y0: j - 0.48, y1: j + 0.48, line: { color: "#D55E00", width: 3 } });
    }));
    const ticks = (list) => ({ tickvals: list.map((_, i) => i), ticktext: list.map(plain), showgrid: false, zeroline: false });
    return { traces: [{ type: "heatmap", z, colorscale: "Cividis", hoverongaps: false, showscale: !narrow, xgap: 2, ygap: 2, colorbar: { title: { text: plain(data.by), side: "right" }, thickness: 12 },
      customdata: cells.map((row) => row.map((cell) => plain(cell.map((p) => `${label(p)}: ${number(p.mean)}`).slice(0, 6).join("; ")))),
      hovertemplate: "%{customdata}<extra></extra>" }],
      layout: look({ shapes, annotations, margin: { l: 60, r: 10, t: 26, b: 46 }, xaxis: { title: { text: plain(data.axes[across].name) }, ...ticks(xs) }, yaxis: { title: { text: plain(data.axes[down].name) }, ...ticks(ys) } }) };
  }
  function parallel() {
    const dimensions = data.axes.map((axis, at) => {
      const list = values(at);
      return { label: plain(axis.name), values: measured.map((p) => list.indexOf(shown(p.values[at]))), tickvals: list.map((_, i) => i), ticktext: list.map(plain) };
    });
    dimensions.push({ label: plain(data.by), values: measured.map((p) => p.mean) });
    return { traces: [{ type: "parcoords", dimensions, labelfont: { size: 12 }, line: { color: measured.map((p) => p.mean), colorscale: "Cividis", showscale: false } }], layout: look({ margin: { l: 60, r: 40, t: 40, b: 20 } }) };
  }
  if (measured.length && data.axes.length === 1) section("Over the axis", picture(`${data.by}: mean${data.interval ? " and interval" : ""} at each ${data.axes[0].name}`, lineOverAxis, true));
  if (measured.length && data.axes.length >= 2) {
    const choose = (text, value, act) => el("label", {}, text, el("select", { onchange: (event) => { act(+event.target.value); stale(); } },
      ...data.axes.map((axis, at) => el("option", { value: at, selected: at === value }, axis.name))));
    const swap = (set) => (chosen) => { const before = [across, down]; set(chosen); if (across === down) [across, down] = [before[1], before[0]]; remember("across", across); remember("down", down); };
    section("Over the axes",
      data.axes.length > 2 ? el("div", { class: "tools" }, choose("Across", across, swap((v) => { across = v; })), choose("Down", down, swap((v) => { down = v; })), el("span", { class: "soft" }, "a cell is the mean over the other axes")) : null,
      picture(`${data.by}: ${data.axes.length > 2 ? "mean of the points of a cell" : "each point"}, the best one framed`, heatMap, true, `Heat map of ${data.by} over two axes; the table Ranking has the same numbers`),
      data.axes.length > 2 ? picture("Every point as a line; drag along an axis to choose", parallel, true) : null);
  }

  // ---- curves --------------------------------------------------------------------------------------------------------
  const state = { x: data.clocks.includes(remembered.x) ? remembered.x : "steps", smooth: remembered.smooth ?? (data.smooth ? 0.6 : 0), each: remembered.each ?? !data.seeded, hidden: new Set(remembered.hidden || []) };
  const pointOf = new Map();
  data.points.forEach((point, at) => point.runs.forEach((run) => pointOf.set(run, at)));
  const seriesCount = () => state.each ? data.runs.length : data.points.length;
  function interpolated(xs, ys, x) {
    let low = 0, high = xs.length - 1;
    if (high < 0 || x < xs[0] || x > xs[high]) return null;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] <= x) low = middle; else high = middle; }
    if (xs[low] === x) return ys[low];
    if (xs[high] === x) return ys[high];
    if (ys[low] === null || ys[high] === null) return null;
    return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low]);
  }
  function clock(run, steps) {
    if (state.x === "steps") return steps;
    const knots = data.runs[run].clock;
    return steps.map((step) => interpolated(knots.steps, knots[state.x], step));
  }
  function smoothed(ys) {
    if (!state.smooth) return ys;
    let sum = 0, weight = 0;
    return ys.map((y) => {
      if (y === null) return null;
      sum = state.smooth * sum + (1 - state.smooth) * y;
      weight = state.smooth * weight + (1 - state.smooth);
      return sum / weight;
    });
  }
  function banded(curve, point) {
    const lines = curve.lines.filter((line) => pointOf.get(line.run) === point && line.s.length);
    if (!lines.length) return null;
    const last = Math.min(...lines.map((line) => line.s[line.s.length - 1]));
    const steps = [...new Set(lines.flatMap((line) => line.s))].filter((step) => step <= last).sort((a, b) => a - b);
    const rows = steps.map((step) => lines.map((line) => interpolated(line.s, line.y, step)).filter((y) => y !== null));
    const reduce = (how) => rows.map((row) => row.length ? how(row) : null);
    const clocks = lines.map((line) => clock(line.run, steps));
    const x = steps.map((_, i) => { const here = clocks.map((c) => c[i]).filter((v) => v !== null); return here.length ? here.reduce((a, b) => a + b, 0) / here.length : null; });
    return { x, mean: reduce((row) => row.reduce((a, b) => a + b, 0) / row.length), low: reduce((row) => Math.min(...row)), high: reduce((row) => Math.max(...row)), lines: lines.length };
  }
  const faded = (hex, alpha) => `rgba(${parseInt(hex.slice(1, 3), 16)},${parseInt(hex.slice(3, 5), 16)},${parseInt(hex.slice(5, 7), 16)},${alpha})`;
  function curveTraces(curve) {
    const traces = [];
    const sparse = curve.sparse;
    const add = (at, x, raw, name, style) => {
      const y = sparse ? raw : smoothed(raw);
      if (state.smooth && !sparse) traces.push({ x, y: raw, mode: "lines", hoverinfo: "skip", line: { ...style, width: 1, color: faded(style.color, 0.25) } });
      traces.push({ x, y, mode: sparse ? "lines+markers" : "lines", name: plain(name), line: style, marker: { size: 5 }, customdata: raw, connectgaps: true,
        hovertemplate: `%{fullData.name}<br>${plain(data.clock_titles[state.x])} %{x:.5g}<br>${plain(curve.title)} %{customdata:.5g}<extra></extra>` });
    };
    if (state.each) curve.lines.forEach((line) => {
      if (state.hidden.has(`run ${line.run}`) || !line.s.length) return;
      const point = pointOf.get(line.run) ?? line.run;
      const among = data.points[point] ? data.points[point].runs.indexOf(line.run) : 0;
      add(line.run, clock(line.run, line.s), line.y, data.runs[line.run].label, { color: colour(point), width: 1.6, dash: data.seeded ? DASHES[among % 4] : dash(point) });
    });
    else data.points.forEach((point, at) => {
      if (state.hidden.has(`point ${at}`)) return;
      const band = banded(curve, at);
      if (!band) return;
      if (band.lines > 1) traces.push({ x: [...band.x, ...[...band.x].reverse()], y: [...band.high, ...[...band.low].reverse()], fill: "toself", fillcolor: faded(colour(at), 0.15), line: { width: 0 }, hoverinfo: "skip", mode: "lines" });
      add(at, band.x, band.mean, label(point), { color: colour(at), width: 2, dash: dash(at) });
    });
    return { traces, layout: look({ hovermode: "closest", xaxis: { title: { text: plain(data.clock_titles[state.x]) }, rangemode: "tozero" }, yaxis: { type: "linear" } }) };
  }
  if (data.curves.length) {
    const legend = el("div", { class: "legend", role: "group", "aria-label": "Lines shown" });
    function drawLegend() {
      const entries = state.each ? data.runs.map((run, at) => [`run ${at}`, run.label, pointOf.get(at) ?? at, data.seeded ? DASHES[(data.points[pointOf.get(at)]?.runs.indexOf(at) ?? 0) % 4] : dash(pointOf.get(at) ?? at)])
        : data.points.map((point, at) => [`point ${at}`, label(point), at, dash(at)]);
      legend.replaceChildren(...entries.map(([key, text, at, style]) => {
        const button = el("button", { type: "button", "aria-pressed": String(!state.hidden.has(key)), onclick: () => {
          state.hidden.has(key) ? state.hidden.delete(key) : state.hidden.add(key);
          button.setAttribute("aria-pressed", String(!state.hidden.has(key)));
          remember("hidden", [...state.hidden]);
          stale();
        } }, text);
        const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        line.setAttribute("aria-hidden", "true");
        const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
        for (const [k, v] of Object.entries({ x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour(at), "stroke-width": 3, "stroke-dasharray": { solid: "", dash: "6 3", dot: "2 3", dashdot: "7 3 2 3" }[style] })) stroke.setAttribute(k, v);
        line.append(stroke);
        button.prepend(line);
        return button;
      }));
    }
    const all = (hide) => { state.hidden = new Set(hide ? Array.from({ length: seriesCount() }, (_, at) => `${state.each ? "run" : "point"} ${at}`) : []); remember("hidden", [...state.hidden]); drawLegend(); stale(); };
    const smooth = el("output", {}, state.smooth ? number(state.smooth) : "off");
    drawLegend();
    section("Curves",
      el("div", { class: "tools" },
        el("label", {}, "Over", el("select", { id: "over", onchange: (event) => { state.x = event.target.value; remember("x", state.x); stale(); } },
          ...data.clocks.map((one) => el("option", { value: one, selected: one === state.x }, data.clock_titles[one])))),
        el("label", {}, "Smoothing", el("input", { id: "smooth", type: "range", min: 0, max: 0.95, step: 0.05, value: state.smooth, oninput: (event) => { state.smooth = +event.target.value; smooth.textContent = state.smooth ? number(state.smooth) : "off"; remember("smooth", state.smooth); stale(); } }), smooth),
        data.seeded ? el("label", {}, el("input", { id: "each", type: "checkbox", checked: state.each, onchange: (event) => { state.each = event.target.checked; remember("each", state.each); drawLegend(); stale(); } }), "each run by itself") : null,
        el("button", { type: "button", onclick: () => all(false) }, "show all"), el("button", { type: "button", onclick: () => all(true) }, "hide all")),
      el("p", { class: "soft" }, data.curves_note),
      legend,
      el("div", { class: "charts" }, ...data.curves.map((curve) => picture(curve.note ? `${curve.title}: ${curve.note}` : curve.title, () => curveTraces(curve)))),
      el("details", {}, el("summary", {}, "First, best and last values as a table"),
        table("First, best and last value of each run", [
          { title: "run", get: (row) => row.run }, { title: "metric", get: (row) => row.metric }, { title: "first", numeric: true, get: (row) => row.first },
          { title: "lowest", numeric: true, get: (row) => row.low }, { title: "highest", numeric: true, get: (row) => row.high }, { title: "last", numeric: true, get: (row) => row.last }],
        data.curves.flatMap((curve) => curve.lines.filter((line) => line.s.length).map((line) => ({ run: data.runs[line.run].label, metric: curve.title, ...line.sum }))), "values")));
  }

  // ---- time and cost -------------------------------------------------------------------------------------------------
  function bars(rows, parts, title, unit) {
    const name = (row, at, wide) => plain(wide < 600 ? `rank ${at + 1}` : row.label);
    return (wide) => ({ traces: parts.map((part, i) => ({ type: "bar", orientation: "h", name: plain(part), y: rows.map((row, at) => name(row, at, wide)), customdata: rows.map((row) => plain(row.label)), x: rows.map((row) => row.parts[i]),
      marker: { color: colour(i), pattern: { shape: ["", "/", ".", "x", "-", "\\", "+"][i % 7], size: 5, solidity: 0.25 } }, hovertemplate: `%{customdata}<br>${plain(part)} %{x:.4g} ${plain(unit)}<extra></extra>` })),
      layout: look({ barmode: "stack", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", traceorder: "normal" }, margin: { l: 60, r: 10, t: 56, b: 40 }, xaxis: { title: { text: plain(title) } }, yaxis: { type: "category", autorange: "reversed" } }) });
  }
  const time = [];
  if (data.phases.rows.length) time.push(picture("Seconds of a step by phase, mean over the steps", bars(data.phases.rows, data.phases.names, "seconds a step", "s"), true));
  if (data.cost.rows.length) time.push(picture(`${data.unit}: ${data.cost.names.join(", ")}`, bars(data.cost.rows, data.cost.names, data.unit, data.unit), true));
  time.push(table("What each point took", [
    ...axisColumns((p) => p.values),
    { title: "s a step", numeric: true, get: (p) => p.step_seconds },
    { title: "tokens/s a GPU", numeric: true, get: (p) => p.tokens_per_second },
    { title: data.unit, numeric: true, get: (p) => p.gpu_hours },
    { title: "of them wasted", numeric: true, get: (p) => p.wasted },
  ], data.points, "took"));
  section("Time and cost", el("p", {}, data.cost.note), ...time);

  // ---- what went wrong, what preflight said --------------------------------------------------------------------------
  if (data.failures.length) section("Failures", table("Causes of failed attempts", [
    { title: "cause", text: true, get: (row) => row.cause }, { title: "attempts", numeric: true, get: (row) => row.count },
    { title: "runs", text: true, get: (row) => row.runs }, { title: "what to do", text: true, get: (row) => row.remedy }], data.failures, "failures"));
  if (data.warnings.length) section("Preflight's warnings", table("What preflight warned of at launch", [
    { title: "rule", get: (row) => row.rule }, { title: "points", numeric: true, get: (row) => row.count }, { title: "what it said", text: true, get: (row) => row.text }], data.warnings, "warnings"));

  // ---- every run -----------------------------------------------------------------------------------------------------
  section("Runs", table("Every run", [
    { title: "run", get: (run) => run.id }, ...(data.many_names ? [{ title: "name", get: (run) => run.name }] : []),
    ...axisColumns((run) => run.values),
    ...(data.seeded ? [{ title: data.seed_name, numeric: true, get: (run) => run.seed, show: (run) => shown(run.seed) }] : []),
    { title: "state", get: (run) => run.state, show: (run) => el("span", { class: ["failed", "lost", "damaged"].includes(run.state) ? "bad" : null }, run.state) },
    { title: "step", numeric: true, get: (run) => run.step, show: (run) => run.max_steps ? `${run.step}/${run.max_steps}` : String(run.step) },
    { title: data.by, numeric: true, get: (run) => run.value },
    { title: "attempts", numeric: true, get: (run) => run.attempts },
    { title: data.unit, numeric: true, get: (run) => run.gpu_hours },
    { title: "", text: true, show: (run) => el("details", {}, el("summary", {}, "more"),
      run.cause ? el("p", {}, el("span", { class: ["paused", "ended early"].includes(run.state) ? null : "bad" }, run.cause), run.remedy ? ` Do: ${run.remedy}` : "") : null,
      el("p", {}, ...run.links.flatMap((link) => [el("a", { href: link.href }, link.title), " "])),
      run.command ? el("div", {}, "Make it again:", el("pre", {}, run.command)) : null,
      run.differs.length ? el("div", {}, "Differs from the best run in:", el("pre", {}, run.differs.join("\n"))) : null) },
  ], data.runs, "runs"));

  // ---- samples -------------------------------------------------------------------------------------------------------
  if (data.samples.length) section("Answers in validation", ...data.samples.map((sample) => el("details", {},
    el("summary", {}, `${sample.run}, step ${sample.step}${sample.reward === null ? "" : `, reward ${number(sample.reward)}`}`), el("pre", {}, sample.text))));
  section("How this page was made", el("ul", {}, ...data.notes.map((note) => el("li", {}, note))));
  document.documentElement.dataset.ready = "yes";
  if (data.refresh_s) {
    scrollTo(0, remembered.scroll || 0);
    setTimeout(() => { remember("scroll", scrollY); location.reload(); }, data.refresh_s * 1000);
  }
})().catch((error) => {
  document.getElementById("page").prepend(Object.assign(document.createElement("p"), { className: "bad", textContent: `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.` }));
  throw error;
});
