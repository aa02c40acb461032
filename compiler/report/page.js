// Three columns of text whose lines know each other, themes and keys.
const PANES = { source: document.getElementById("pane-source"), left: document.getElementById("pane-left"), right: document.getElementById("pane-right") };
const chosen = new Set(); // places, as numbers
const escape = (s) => s.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

const PYTHON = /(#.*$)|("""[^"]*"""|"[^"\n]*"|'[^'\n]*')|\b(def|return|for|in|if|else|import|from|and|or|not|lambda|with|as|class|while|None|True|False)\b|(@[\w.]+)|\b(\d[\d_.]*(?:e[-+]?\d+)?)\b/g;
const MLIR = /(\/\/.*$|#[^"]*$)|("[^"\n]*")|\b([a-z_]+\.[a-z_0-9.]+|full|partial|step|carry|where|guard|graph|arg|source|mask|score|key|value|query|over|normaliser|tiles)\b|([%@!][\w.#]+)|\b(\d[\d_.]*(?:e[-+]?\d+)?)\b/g;

function coloured(text, rule) {
  let out = "", at = 0;
  for (const m of text.matchAll(rule)) {
    const kind = m[1] ? "c" : m[2] ? "s" : m[3] ? "k" : m[4] ? "v" : "n";
    out += escape(text.slice(at, m.index)) + `<span class="${kind}">${escape(m[0])}</span>`;
    at = m.index + m[0].length;
  }
  return out + escape(text.slice(at));
}

// ---- texts -------------------------------------------------------------------------------------------------------

function row(number, html, places, kind = "") {
  const line = document.createElement("div");
  line.className = `row ${kind} ${places.length ? "knows" : ""}`;
  line.setAttribute("role", "option");
  line.places = places;
  line.innerHTML = `<b>${number}</b><span>${html || " "}</span>`;
  return line;
}

function showSource() {
  const body = PANES.source.querySelector(".text");
  for (const part of DATA.source) {
    const name = document.createElement("div");
    name.className = "file";
    name.textContent = part.file;
    body.append(name);
    let before = null;
    for (const [number, text, place] of part.lines) {
      if (before !== null && number > before + 1) {
        const gap = document.createElement("div");
        gap.className = "gap";
        gap.textContent = "⋮";
        body.append(gap);
      }
      before = number;
      body.append(row(number, coloured(text, PYTHON), place === null ? [] : [place]));
    }
  }
}

// The types of an op are most of its line and rarely what is looked for.
const plain = (line) => (/\{$/.test(line) ? line : line.replace(/^(\s*): \(.*$/, "$1...").replace(/ : [(!].*$/, ""));

function stage(n) {
  const found = DATA.stages[DATA.stages[n].same ?? n];
  return found.code || found.python || document.getElementById("types").checked ? found : { ...found, lines: found.lines.map(plain) };
}

function showStages() {
  const [a, b] = ["left", "right"].map((side) => stage(Number(PANES[side].querySelector("select").value)));
  const alike = !a.code === !b.code && !a.python === !b.python; // a kernel and IR have no line in common
  const { del, add, inner } = alike ? difference(a.lines, b.lines) : difference([], []);
  fill("left", a, del, "del", inner.left);
  fill("right", b, add, "add", inner.right);
  const words = del.size + add.size ? `${del.size} lines fewer, ${add.size} more` : "the same text";
  PANES.right.querySelector(".diff-count").textContent = alike ? words : "";
  mark(null);
}

function fill(side, text, changed, kind, inner) {
  const rule = text.python ? PYTHON : MLIR, rows = document.createDocumentFragment();
  text.lines.forEach((line, n) => {
    const part = inner.get(n);
    const html = part
      ? coloured(line.slice(0, part[0]), rule) + `<u>${coloured(line.slice(part[0], part[1]), rule)}</u>` + coloured(line.slice(part[1]), rule)
      : coloured(line, rule);
    rows.append(row(n + 1, html, text.from[n], changed.has(n) ? kind : ""));
  });
  const body = PANES[side].querySelector(".text");
  body.replaceChildren(rows);
  body.scrollTop = 0;
  body.here = null;
}

// Lines of a that b lacks and the other way round, by a longest common subsequence; and where paired lines differ.
function difference(a, b) {
  const del = new Set(), add = new Set(), inner = { left: new Map(), right: new Map() };
  let head = 0, x = a.length, y = b.length;
  while (head < x && head < y && a[head] === b[head]) head++;
  while (x > head && y > head && a[x - 1] === b[y - 1]) x--, y--;
  const rows = x - head, columns = y - head;
  if (rows * columns > 2e7) return { del, add, inner }; // two kernels: what differs is not worth a minute
  const width = columns + 1, best = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--)
    for (let j = columns - 1; j >= 0; j--)
      best[i * width + j] = a[head + i] === b[head + j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  let i = 0, j = 0;
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[head + i] === b[head + j]) i++, j++;
    else {
      const i0 = i, j0 = j;
      while ((i < rows || j < columns) && !(i < rows && j < columns && a[head + i] === b[head + j])) {
        if (j < columns && (i === rows || best[i * width + j + 1] >= best[(i + 1) * width + j])) add.add(head + j++);
        else del.add(head + i++);
      }
      for (let n = 0; n < Math.min(i - i0, j - j0); n++) {
        const [p, q] = words(a[head + i0 + n], b[head + j0 + n]);
        inner.left.set(head + i0 + n, p);
        inner.right.set(head + j0 + n, q);
      }
    }
  }
  return { del, add, inner };
}

// What lies between the words that two lines begin with and the words that they end with.
function words(a, b) {
  let start = 0, x = a.length, y = b.length;
  while (start < x && start < y && a[start] === b[start]) start++;
  while (start > 0 && /\w/.test(a[start - 1])) start--;
  while (x > start && y > start && a[x - 1] === b[y - 1]) x--, y--;
  while (x < a.length && /\w/.test(a[x])) x++, y++;
  return [[start, x], [start, y]];
}

// ---- marks -------------------------------------------------------------------------------------------------------

// Marks what shares a place with the chosen line; columns other than `from` scroll to the first mark.
function mark(from) {
  for (const [name, pane] of Object.entries(PANES)) {
    const body = pane.querySelector(".text");
    let first = null;
    for (const line of body.querySelectorAll(".row")) {
      const on = line.places.some((p) => chosen.has(p));
      line.classList.toggle("marked", on);
      line.setAttribute("aria-selected", String(on));
      if (on) first ??= line;
    }
    if (first && from !== null && name !== from) body.scrollTop = first.offsetTop - body.offsetTop - body.clientHeight / 3;
  }
}

function choosePlaces(line, from) {
  const same = line.places.length === chosen.size && line.places.every((p) => chosen.has(p));
  chosen.clear();
  if (!same) line.places.forEach((p) => chosen.add(p));
  mark(from);
}

function here(body, line, keep) {
  body.here?.classList.remove("here");
  body.here = line;
  if (!line) return;
  line.classList.add("here");
  line.id ||= `line-${(here.count = (here.count ?? 0) + 1)}`;
  body.setAttribute("aria-activedescendant", line.id);
  if (!keep) line.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function listen(name, pane) {
  const body = pane.querySelector(".text");
  body.addEventListener("click", (event) => {
    const line = event.target.closest(".row");
    if (!line) return;
    here(body, line, true);
    choosePlaces(line, name);
  });
  body.addEventListener("keydown", (event) => {
    const lines = [...body.querySelectorAll(".row")], at = lines.indexOf(body.here);
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -1e6, End: 1e6 }[event.key];
    if (move) here(body, lines[clamp(at + move, 0, lines.length - 1)]);
    else if ((event.key === "Enter" || event.key === " ") && body.here) choosePlaces(body.here, name);
    else if (event.key === "d") here(body, lines.find((l, n) => n > at && /\b(add|del)\b/.test(l.className)) ?? body.here);
    else return;
    event.preventDefault();
  });
}

// ---- themes and keys ---------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
let theme = 0;
function setTheme(n) {
  theme = n % THEMES.length;
  document.documentElement.style.colorScheme = theme ? THEMES[theme] : "";
  document.getElementById("theme").textContent = `Theme: ${THEMES[theme]}`;
  draw();
}

function turn(by) {
  const [left, right] = ["left", "right"].map((side) => PANES[side].querySelector("select"));
  const n = clamp(Number(right.value) + by, 1, DATA.stages.length - 1);
  right.value = n;
  left.value = n - 1;
  showStages();
}

function start() {
  showSource();
  for (const [name, pane] of Object.entries(PANES)) {
    listen(name, pane);
    const select = pane.querySelector("select");
    if (!select) continue;
    select.replaceChildren(...DATA.stages.map((s, n) => new Option(s.name + (s.same === undefined ? "" : " (no change)"), n)));
    select.value = name === "left" ? DATA.first[0] : DATA.first[1];
    select.addEventListener("change", showStages);
  }
  document.getElementById("types").addEventListener("change", showStages);
  showStages();
  document.getElementById("theme").addEventListener("click", () => setTheme(theme + 1));
  const help = document.getElementById("help");
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (help.open || event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    const section = { 1: "pattern", 2: "program", 3: "cost" }[event.key];
    if (section) {
      document.getElementById(section).scrollIntoView();
      document.getElementById(`${section}-title`).focus({ preventScroll: true });
    } else if (event.key === "t") setTheme(theme + 1);
    else if (event.key === "?") help.showModal();
    else if (event.key === "[") turn(-1);
    else if (event.key === "]") turn(1);
    else if (event.key === "Escape") {
      chosen.clear();
      mark(null);
    } else return;
    event.preventDefault();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

start();
startMap();
