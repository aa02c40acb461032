// The tile map: formulas of key ranges, evaluated for the tiles that are in view.
const map = {
  canvas: document.getElementById("map"),
  of: null, // one of MAPS
  sizes: { ...DATA.sizes },
  point: {}, // of the grid
  view: null, // tokens: {x, y, w, h}
  at: null, // the pair under the pointer, or in the middle
};
const LEFT = 80, BELOW = 40, GAP = 8;
const clamp = (x, lo, hi) => Math.max(lo, Math.min(hi, x));
const count = (x) => Math.round(x).toLocaleString("en-US");

function env(more) {
  return { ...map.sizes, ...map.point, ...more };
}

// A tile's point of the grid: of several tasks that may own it, the one that does.
function at(t) {
  const v = env({ [map.of.task]: t }), owner = map.of.owner;
  for (let x = 0; owner && x < owner.extent(v); x++) {
    v[owner.name] = x;
    if (map.of.bound(v) > map.of.base(v)) break;
  }
  return v;
}

// Rows in all, tiles, and where the keys of each source begin.
function extent() {
  const most = Math.max(0, map.of.tasks(env({})));
  const rows = Math.min(Math.max(0, most ? map.of.bound(at(0)) : 0), most * map.of.size), tiles = Math.ceil(rows / map.of.size);
  const widths = [];
  const step = Math.max(1, Math.floor(tiles / 97));
  for (let t = 0; t < tiles; t += t + step < tiles || t === tiles - 1 ? step : tiles - 1 - t)
    for (const s of spans(t)) widths[s.source] = Math.max(widths[s.source] ?? 0, s.hi);
  const starts = [];
  let keys = 0;
  for (let s = 0; s < widths.length; s++) {
    starts[s] = keys;
    keys += widths[s] ?? 0;
  }
  return { rows, tiles, keys: Math.max(keys, 1), starts };
}

// What a tile of rows computes: [lo, hi) of each range that is not empty.
function spans(t) {
  const v = at(t), found = [];
  for (const loop of map.of.loops)
    for (const r of loop.ranges) {
      const lo = r.lo(v), hi = r.hi(v);
      if (hi > lo) found.push({ lo, hi, kind: loop.kind, source: loop.source, loop });
    }
  return found;
}

function colours() {
  const found = {};
  for (const name of ["full", "partial", "empty", "live"])
    found[name] = getComputedStyle(document.querySelector(`#legend .${name}`)).backgroundColor;
  const body = getComputedStyle(document.body);
  return { ...found, text: body.color, back: body.backgroundColor };
}

function resize() {
  const ratio = window.devicePixelRatio || 1, box = map.canvas.getBoundingClientRect();
  map.canvas.width = Math.max(1, Math.round(box.width * ratio));
  map.canvas.height = Math.max(1, Math.round(box.height * ratio));
  draw();
}

function frame() {
  const ratio = window.devicePixelRatio || 1;
  const left = LEFT * ratio, top = GAP * ratio;
  return { ratio, left, top, w: map.canvas.width - left - GAP * ratio, h: map.canvas.height - top - BELOW * ratio };
}

function fit() {
  const e = extent();
  map.view = { x: 0, y: 0, w: e.keys, h: Math.max(e.rows, 1) };
  draw();
}

function draw() {
  if (!map.of || !map.view) return;
  const g = map.canvas.getContext("2d"), f = frame(), c = colours(), e = (map.all = extent()), w = map.view;
  const X = (key) => f.left + ((key - w.x) / w.w) * f.w, Y = (row) => f.top + ((row - w.y) / w.h) * f.h;
  g.fillStyle = c.back;
  g.fillRect(0, 0, map.canvas.width, map.canvas.height);
  g.save();
  g.beginPath();
  g.rect(f.left, f.top, f.w, f.h);
  g.clip();
  g.fillStyle = c.empty;
  g.fillRect(X(0), Y(0), X(e.keys) - X(0), Y(e.rows) - Y(0));
  const pixel = w.h / f.h, size = map.of.size;
  const first = clamp(Math.floor(w.y / size), 0, e.tiles), last = clamp(Math.ceil((w.y + w.h) / size), 0, e.tiles);
  const box = (t, y, height) => {
    for (const s of spans(t)) {
      const x = Math.round(X(e.starts[s.source] + s.lo)), right = Math.round(X(e.starts[s.source] + s.hi)); // no blurred edges
      g.fillStyle = c[s.kind];
      g.fillRect(x, y, Math.max(f.ratio, right - x), height);
    }
  };
  if (last - first <= f.h) {
    for (let t = first; t < last; t++) {
      const y = Math.floor(Y(t * size));
      box(t, y, Math.max(f.ratio, Math.floor(Y(Math.min((t + 1) * size, e.rows))) - y));
    }
    outline(g, X, Y, first, last, e, f, c);
  } else
    for (let y = 0; y < f.h; y++) // more tiles than pixels: the first, middle and last of those that share a row of pixels
      for (const part of [0, 0.5, 0.999]) {
        const t = Math.floor((w.y + (y + part) * pixel) / size);
        if (t >= 0 && t < e.tiles) box(t, f.top + y, 1);
      }
  pairs(g, X, Y, first, last, e, f, c);
  g.restore();
  axes(g, X, Y, f, c, e);
  facts(e);
}

// The steps of the loops, where a step is wide enough to be seen.
function outline(g, X, Y, first, last, e, f, c) {
  const tall = Y(map.of.size) - Y(0);
  if (tall < 8 * f.ratio || map.of.size === 1) return;
  g.strokeStyle = c.back;
  g.lineWidth = f.ratio * 0.75;
  for (let t = first; t < last; t++)
    for (const s of spans(t)) {
      if (X(s.loop.step) - X(0) < 6 * f.ratio) continue;
      const y = Y(t * map.of.size), height = Y(Math.min((t + 1) * map.of.size, e.rows)) - y;
      const from = Math.max(s.lo, s.lo + Math.floor((map.view.x - e.starts[s.source] - s.lo) / s.loop.step) * s.loop.step);
      for (let j = from; j < s.hi && j < map.view.x + map.view.w; j += s.loop.step) {
        const x = X(e.starts[s.source] + j);
        g.strokeRect(x, y, X(e.starts[s.source] + Math.min(j + s.loop.step, s.hi)) - x, height);
      }
    }
}

// A dot for each live pair of partial ranges, where a pair has room.
function pairs(g, X, Y, first, last, e, f, c) {
  const px = X(1) - X(0), py = Y(1) - Y(0), w = map.view;
  if (Math.min(px, py) < 3 * f.ratio || w.w * w.h > 60000) return;
  g.fillStyle = c.live;
  for (let t = first; t < last; t++)
    for (const s of spans(t)) {
      if (s.kind !== "partial" || !s.loop.mask) continue;
      const start = e.starts[s.source], v = at(t);
      for (let i = Math.max(t * map.of.size, Math.floor(w.y)); i < Math.min((t + 1) * map.of.size, e.rows, w.y + w.h); i++)
        for (let j = Math.max(s.lo, Math.floor(w.x - start)); j < Math.min(s.hi, w.x + w.w - start); j++)
          if (s.loop.mask({ ...v, [map.of.row]: i, [s.loop.key]: j }))
            g.fillRect(X(start + j) + px * 0.3, Y(i) + py * 0.3, px * 0.4, py * 0.4);
    }
}

function ticks(from, length, most) {
  const raw = length / most, power = 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(raw, 1))));
  const found = [];
  for (let x = Math.ceil(from / power) * power; x <= from + length; x += power) found.push(x);
  return found;
}

function axes(g, X, Y, f, c, e) {
  g.fillStyle = g.strokeStyle = c.text;
  g.lineWidth = f.ratio;
  g.font = `${11 * f.ratio}px system-ui, sans-serif`;
  g.textAlign = "center";
  g.textBaseline = "top";
  const inside = (x) => x >= 0;
  for (const x of ticks(map.view.x, map.view.w, Math.max(2, f.w / (90 * f.ratio))).filter(inside)) {
    g.fillRect(X(x), f.top + f.h, f.ratio, 4 * f.ratio);
    g.fillText(count(x), clamp(X(x), f.left + 8 * f.ratio, map.canvas.width - 26 * f.ratio), f.top + f.h + 6 * f.ratio);
  }
  g.textAlign = "right";
  g.textBaseline = "middle";
  for (const y of ticks(map.view.y, map.view.h, Math.max(2, f.h / (50 * f.ratio))).filter(inside)) {
    g.fillRect(f.left - 4 * f.ratio, Y(y), 4 * f.ratio, f.ratio);
    g.fillText(count(y), f.left - 6 * f.ratio, clamp(Y(y), f.top + 6 * f.ratio, f.top + f.h));
  }
  g.textAlign = "center";
  const [query, key] = map.of.axes;
  const sources = e.starts.length > 1 ? ` (${e.starts.length} sources side by side)` : "";
  g.fillText(key + sources, f.left + f.w / 2, map.canvas.height - 9 * f.ratio);
  g.save();
  g.translate(9 * f.ratio, f.top + f.h / 2);
  g.rotate(-Math.PI / 2);
  g.fillText(query, 0, 0);
  g.restore();
  g.strokeRect(f.left, f.top, f.w, f.h);
}

// Which pairs of this point of the grid are computed; summed over all tiles, or over 4,096 of them.
function facts(e) {
  const key = JSON.stringify([MAPS.indexOf(map.of), map.sizes, map.point]);
  if (map.counted === key) return;
  map.counted = key;
  const step = Math.max(1, e.tiles / 4096);
  let area = 0, looked = 0;
  for (let n = 0; n < e.tiles; n += step) {
    const t = Math.floor(n), rows = Math.min(map.of.size, e.rows - t * map.of.size);
    for (const s of spans(t)) area += rows * (s.hi - s.lo);
    looked++;
  }
  const share = e.rows * e.keys ? (100 * area * (e.tiles / Math.max(looked, 1))) / (e.rows * e.keys) : 0;
  const what = map.of.size > 1 ? `tiles of ${map.of.size} rows, ${count(e.tiles)} of them; ` : "";
  document.getElementById("map-facts").textContent =
    `${count(e.rows)} × ${count(e.keys)} pairs at this point of the grid; ${what}${step > 1 ? "about " : ""}${share.toPrecision(3)} % within ranges`;
}

function read(x, y) {
  const e = map.all, i = Math.floor(y), k = Math.floor(x);
  const out = document.getElementById("map-reading");
  if (!e || i < 0 || i >= e.rows || k < 0 || k >= e.keys) return void (out.textContent = "");
  let source = 0;
  while (source + 1 < e.starts.length && e.starts[source + 1] <= k) source++;
  const j = k - e.starts[source], t = Math.floor(i / map.of.size);
  const s = spans(t).find((s) => s.source === source && s.lo <= j && j < s.hi);
  const [query, key] = map.of.axes;
  let state = "empty: never touched";
  if (s) {
    state = map.of.size > 1 ? `${s.kind} range [${count(s.lo)}, ${count(s.hi)}) of tile ${count(t)}` : s.kind;
    const live = s.kind === "full" || !s.loop.mask || s.loop.mask({ ...at(t), [map.of.row]: i, [s.loop.key]: j });
    state += s.kind === "partial" && !s.loop.mask ? ", data decides" : live ? ", live" : ", dead";
  }
  out.textContent = `${query} ${count(i)}, ${key} ${count(j)}${e.starts.length > 1 ? ` of source ${source + 1}` : ""}: ${state}`;
}

function zoom(factor, px = 0.5, py = 0.5) {
  const w = map.view, e = map.all;
  const nw = clamp(w.w * factor, Math.min(8, e.keys), e.keys * 1.2), nh = clamp(w.h * factor, Math.min(8, e.rows), e.rows * 1.2);
  w.x += (w.w - nw) * px;
  w.y += (w.h - nh) * py;
  w.w = nw;
  w.h = nh;
  settle();
}

function settle() {
  const w = map.view, e = map.all;
  w.x = clamp(w.x, -0.1 * w.w, Math.max(e.keys - 0.9 * w.w, -0.1 * w.w));
  w.y = clamp(w.y, -0.1 * w.h, Math.max(e.rows - 0.9 * w.h, -0.1 * w.h));
  draw();
}

function pan(dx, dy) {
  map.view.x += dx * map.view.w;
  map.view.y += dy * map.view.h;
  settle();
  read(map.view.x + map.view.w / 2, map.view.y + map.view.h / 2);
}

function controls() {
  const field = (name, value, most, change) => {
    const label = document.createElement("label"), input = document.createElement("input");
    label.textContent = `${name} `;
    Object.assign(input, { type: "number", min: 0, value });
    if (most !== null) input.max = most;
    input.addEventListener("change", () => {
      const x = Math.floor(Number(input.value));
      if (Number.isSafeInteger(x) && x >= 0) change(x);
    });
    label.append(input);
    return label;
  };
  const grid = map.of.grid.filter((d) => map.of.loops.some((l) => l.ranges.some((r) => uses(r.lo, d.name) || uses(r.hi, d.name))) || uses(map.of.bound, d.name));
  document.getElementById("map-grid").replaceChildren(
    ...grid.map((d) => field(d.name, map.point[d.name] ?? 0, Math.max(0, d.extent(env({})) - 1), (x) => { map.point[d.name] = x; fit(); })));
  document.getElementById("map-sizes").replaceChildren(
    ...DATA.long.map((name) => field(name, map.sizes[name], null, (x) => { map.sizes[name] = x; fit(); })));
}

const uses = (f, name) => f !== null && new RegExp(`v\\.${name}\\b`).test(String(f));

function choose(n) {
  map.of = MAPS[n];
  map.point = Object.fromEntries(map.of.grid.map((d) => [d.name, 0]));
  controls();
  fit();
}

function startMap() {
  const choice = document.getElementById("map-choice"), presets = document.getElementById("map-presets");
  if (!MAPS.length) return void document.querySelector(".map").remove();
  choice.replaceChildren(...MAPS.map((m, n) => new Option(m.title, n)));
  choice.addEventListener("change", () => choose(Number(choice.value)));
  for (const n of DATA.presets) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = count(n);
    button.title = `${DATA.long.join(" = ")} = ${count(n)}`;
    button.addEventListener("click", () => {
      for (const name of DATA.long) map.sizes[name] = n;
      controls();
      fit();
    });
    presets.append(button);
  }
  const held = new Map();
  let pinch = 0;
  const tokens = (event) => {
    const f = frame(), box = map.canvas.getBoundingClientRect();
    const px = ((event.clientX - box.left) * f.ratio - f.left) / f.w, py = ((event.clientY - box.top) * f.ratio - f.top) / f.h;
    return { px, py, x: map.view.x + px * map.view.w, y: map.view.y + py * map.view.h };
  };
  map.canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, tokens(event));
    map.canvas.setPointerCapture(event.pointerId);
    pinch = 0;
  });
  map.canvas.addEventListener("pointermove", (event) => {
    const now = tokens(event), before = held.get(event.pointerId);
    if (!before) return read(now.x, now.y);
    held.set(event.pointerId, now);
    if (held.size === 1) {
      map.view.x -= (now.px - before.px) * map.view.w;
      map.view.y -= (now.py - before.py) * map.view.h;
      return settle();
    }
    const [a, b] = [...held.values()], apart = Math.hypot(a.px - b.px, a.py - b.py);
    if (pinch && apart) zoom(pinch / apart, (a.px + b.px) / 2, (a.py + b.py) / 2);
    pinch = apart;
  });
  for (const end of ["pointerup", "pointercancel"]) map.canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  map.canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== map.canvas && !event.ctrlKey) return; // the page scrolls until the map is chosen
    event.preventDefault();
    const { px, py } = tokens(event);
    zoom(2 ** (event.deltaY / 300), px, py);
  }, { passive: false });
  map.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15], PageUp: [0, -0.9], PageDown: [0, 0.9] }[event.key];
    if (step) pan(...step);
    else if (event.key === "+" || event.key === "=") zoom(0.7);
    else if (event.key === "-") zoom(1 / 0.7);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.getElementById("zoom-in").addEventListener("click", () => zoom(0.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
  document.getElementById("zoom-fit").addEventListener("click", fit);
  new ResizeObserver(resize).observe(map.canvas);
  choose(0);
}
