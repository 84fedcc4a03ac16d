"use strict";
// Draws the plan that lies beside it as JSON. Every text comes in by textContent: names of a model are never markup.
const plan = JSON.parse(document.getElementById("plan").textContent);
const SVG = "http://www.w3.org/2000/svg";
const ENTRY = -1, EXIT = -2, PORT = 18, LANE = 10, MANY = 110;
const graph = document.getElementById("graph"), panel = document.getElementById("panel"), hint = document.getElementById("hint");
const root = document.documentElement;
const narrow = matchMedia("(max-width: 900px)");
const parts = plan.parts.map((part, number) => ({...part, number, open: false, at: 0, all: false, parent: null, box: null, body: null}));
parts.forEach(part => (part.parts || []).forEach(inner => { parts[inner].parent = part; }));
const cardOf = new Map();  // row and name -> the card that shows it; a row's first name is the card to go to
parts.forEach(part => (part.places || []).forEach(([row, , tied]) => { if (!tied || !cardOf.has(row)) cardOf.set(row, part); }));
const wanted = {text: "", role: new Set(), kind: new Set(), mark: new Set()};
let chosen = null;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
function draw(tag, facts, className) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
  if (className) made.setAttribute("class", className);
  return made;
}
const text = number => plan.texts[number];
const count = number => number.toLocaleString("en");
function short(number) {
  const units = ["", " K", " M", " B", " T"];
  let step = 0;
  while (number >= 999.5 && step < 4) { number /= 1000; step += 1; }
  return (step && number < 100 ? number.toFixed(1) : Math.round(number)) + units[step];
}
function button(className, said, act) {
  const made = make("button", className, said);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}
function dotted(element, name) {  // a name breaks behind its dots
  name.split(/(?<=\.)/).forEach((piece, i) => { if (i) element.append(make("wbr")); element.append(piece); });
  return element;
}
function colored(element, kind) {
  element.style.setProperty("--norm", `var(--norm-${plan.norms.findIndex(norm => norm[0] === kind)})`);
  return element;
}

// A parameter

function glyph(row, scale = 1) {
  const [width, height, sheets, window_, across, stripes] = row.glyph;
  const lift = (sheets - 1) * 3;
  const w = width + lift + 2, h = height + lift + 2;
  const svg = draw("svg", {width: w * scale, height: h * scale, viewBox: `-1 ${-lift - 1} ${w} ${h}`, "aria-hidden": "true"}, "glyph");
  colored(svg, row.kind);
  for (let i = sheets - 1; i > 0; i--) svg.append(draw("rect", {x: 3 * i, y: -3 * i, width, height, rx: 1.5}, "sheet"));
  const still = row.marks.includes("unused");
  svg.append(draw("rect", {x: 0, y: 0, width, height, rx: 1.5}, still ? "none" : "whole"));
  for (const [start, length, shade, label] of stripes) {
    const place = across ? {x: start, y: 0, width: length, height} : {x: 0, y: start, width, height: length};
    if (shade) svg.append(draw("rect", place, `shade${shade}`));
    if (start > 0 && length > 2) svg.append(draw("line", across ? {x1: start, x2: start, y1: 0, y2: height}
      : {x1: 0, x2: width, y1: start, y2: start}, "cut"));
    if (label && (across ? length : width) > 9 && (across ? length : width) > 6 * label.length) {
      const said = draw("text", across ? {x: start + length / 2, y: height / 2} : {x: width / 2, y: start + length / 2});
      said.textContent = label;
      svg.append(said);
    }
  }
  if (window_ && width > 16 && height > 16) {
    svg.append(draw("rect", {x: width - 11, y: 3, width: 8, height: 8}, "window"));
    svg.append(draw("path", {d: `M${width - 7} 3v8M${width - 11} 7h8`}, "window"));
  }
  return svg;
}
function marksOf(row, tied) {
  const words = row.marks.filter(mark => mark !== "tied").map(mark =>
    make("span", `mark ${{fallback: "bad", unused: "warn"}[mark] || "still"}`, mark));
  if (tied) words.push(make("span", "mark tied", `= ${row.name}`));
  else if (row.marks.includes("tied")) words.push(make("span", "mark tied", "tied"));
  return words;
}
function parameter(number, shortName, tied, named) {
  const row = plan.rows[number];
  const made = button("param" + (tied ? " tied" : ""), undefined, () => choose(number));
  made.dataset.row = number;
  made.setAttribute("aria-pressed", String(chosen === number));
  const facts = [text(row.shape), row.role, text(row.norm), text(row.blocks), ...row.marks].filter(Boolean);
  made.setAttribute("aria-label", `${row.name}: ${facts.join(", ")}`);
  made.append(glyph(row));
  const says = make("span", "says");
  if (named) says.append(make("span", "short", shortName));
  says.append(make("span", "number", text(row.shape).replace(/ \(.*\)$/, "")));
  const norm = colored(make("span", "norm"), row.kind);
  norm.append(make("span", "swatch"), make("span", "", text(row.norm)));
  says.append(make("span", "soft", row.role), norm);
  if (text(row.blocks)) says.append(make("span", "soft", text(row.blocks)));
  says.append(...marksOf(row, tied));
  made.append(says);
  made.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") show(row, made); });
  made.addEventListener("pointerleave", () => { hint.hidden = true; });
  made.addEventListener("focus", () => { if (made.matches(":focus-visible") && !narrow.matches) choose(number); });
  return made;
}
function show(row, near) {
  hint.replaceChildren(dotted(make("b"), row.name), make("span", "", `${row.role}${text(row.why) ? ` because ${text(row.why)}` : ""}`));
  if (text(row.scale)) hint.append(make("span", "", ` · a step at lr 1: ${text(row.scale)}`));
  hint.hidden = false;
  const at = near.getBoundingClientRect(), own = hint.getBoundingClientRect();
  hint.style.left = `${Math.max(6, Math.min(at.left, innerWidth - own.width - 6))}px`;
  hint.style.top = `${at.bottom + own.height + 10 < innerHeight ? at.bottom + 6 : Math.max(6, at.top - own.height - 6)}px`;
}

// Parts

function card(part) {
  const made = make("div", "card");
  const only = part.places.length === 1 && !part.label;
  if (part.label) { made.append(make("div", "name", part.label)); made.firstChild.title = part.path; }
  const places = make("div", "places");
  for (const [row, name, tied] of part.places) places.append(parameter(row, name, tied, only || part.places.length > 1 || name !== "weight"));
  made.append(places);
  return made;
}
function join() {
  const made = make("div", "join");
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", "the branch joins the residual stream");
  return made;
}
// What stands in a box: of layers that are alike one at a time, or all of them.
const inner = part => part.alike && !part.all ? parts[part.parts[part.at]] : part;
const streams = (part, end) => part.kind === "box" && part.lines.some(line => line[4] && (line[0] === end || line[1] === end));

function rowsOf(part) {
  if (part.kind === "card") return part.places.map(place => place[0]);
  if (part.kind === "join") return [];
  return part.inside ||= [...new Set(part.parts.flatMap(number => rowsOf(parts[number])))];
}
function box(part) {
  const made = make("section", "box");
  made.setAttribute("aria-label", part.label);
  if (part.alike) made.classList.add("stack");
  if (streams(part, ENTRY)) made.classList.add("stream");
  const head = make("div", "head");
  part.button = button("fold", part.label, () => { part.open = !part.open; fill(part); });
  head.append(part.button);
  if (part.alike) head.append(make("span", "times", `×${part.parts.length}`));
  const rows = rowsOf(part);
  head.append(make("span", "soft number", `${rows.length} tensors, ${short(rows.reduce((sum, row) => sum + plan.rows[row].count, 0))} parameters`));
  const strip = make("span", "strip");
  for (const kind of new Set(rows.map(row => plan.rows[row].kind))) strip.append(colored(make("span", "swatch"), kind));
  head.append(strip);
  for (const mark of ["fallback", "unused"]) {
    const marked = rows.filter(row => plan.rows[row].marks.includes(mark)).length;
    if (marked) head.append(make("span", `mark ${mark === "fallback" ? "bad" : "warn"}`, `${marked} ${mark}`));
  }
  if (part.alike) head.append(stepper(part));
  part.box = made;
  made.append(head);
  fill(part);
  return made;
}
function mirror(from, to) {  // opens in a layer what is open in the one before
  to.open = from.open;
  (to.parts || []).forEach((number, i) => { if (from.parts[i] !== undefined) mirror(parts[from.parts[i]], parts[number]); });
}
function turn(part, at) {
  mirror(parts[part.parts[part.at]], parts[part.parts[at]]);
  part.at = at;
}
function stepper(part) {
  const made = make("span", "step");
  const said = make("output");
  const go = by => { turn(part, (part.at + by + part.parts.length) % part.parts.length); part.all = false; part.open = true; fill(part); };
  const before = button("", "‹", () => go(-1)), after = button("", "›", () => go(1));
  before.setAttribute("aria-label", "the layer before");
  after.setAttribute("aria-label", "the next layer");
  const all = button("", "all", () => { part.all = !part.all; part.open = true; fill(part); });
  made.append(before, said, after, all);
  part.tell = () => {
    said.textContent = part.all ? "all" : parts[part.parts[part.at]].label;
    all.textContent = part.all ? "one" : "all";
    all.setAttribute("aria-label", part.all ? "show one layer" : `show all ${part.parts.length} layers`);
  };
  return made;
}
function fill(part) {
  if (part.tell) part.tell();
  part.button.setAttribute("aria-expanded", String(part.open));
  if (part.body) part.body.remove();
  part.body = null;
  if (part.open) part.box.append(part.body = bodyOf(inner(part)));
  part.drawnAs = inner(part);
  dim();
  later();
}
function bodyOf(part) {
  const held = make("div");
  held.append(drawnBody(part));
  if (part.kind === "box" && part.apart.length && part.lines.length) {
    const apart = make("div", "apart");
    apart.append(make("div", "soft", "not on the way from the inputs to the output:"), rank(part.apart.map(place => part.parts[place])));
    held.append(apart);
  }
  return held;
}
function drawnBody(part) {
  const made = make("div", "body");
  if (part.kind === "card") { made.append(rank([part.number])); return made; }
  [made.style.paddingLeft, made.style.paddingRight] = space(part).map(width => `${width}px`);
  made.append(draw("svg", {"aria-hidden": "true"}));
  for (const places of part.ranks) made.append(rank(places.map(place => part.parts[place])));
  return made;
}
function rank(numbers) {
  const made = make("div", numbers.length <= 4 ? "rank close" : "rank");
  for (const number of numbers) {
    const part = parts[number];
    part.element = part.kind === "card" ? card(part) : part.kind === "join" ? join() : box(part);
    made.append(part.element);
  }
  return made;
}

// Lines: each box draws what runs between its own parts.

let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; lines(); });
}
function lines() {
  const shown = parts.filter(part => part.body && part.body.isConnected && part.drawnAs.lines);
  const read = shown.map(part => {
    const body = part.body.firstChild, at = body.getBoundingClientRect();
    const rects = part.drawnAs.parts.map(number => {
      const element = parts[number].element;
      if (!element || !element.isConnected) return null;
      const own = element.getBoundingClientRect();
      return {left: own.left - at.left, right: own.right - at.left, top: own.top - at.top, bottom: own.bottom - at.top,
        from: port(parts[number], ENTRY, own.width), to: port(parts[number], EXIT, own.width)};
    });
    for (const places of part.drawnAs.ranks) {
      const row = places.map(place => rects[place]).filter(Boolean);
      const low = Math.max(...row.map(rect => rect.bottom)), most = Math.max(...row.map(rect => rect.right));
      for (const rect of row) Object.assign(rect, {low, last: rect.right === most});
    }
    return {width: at.width, height: at.height, rects};
  });
  shown.forEach((part, i) => trace(part, read[i]));
}
// Space at the left and right of what stands in a box: for the stream, and for lanes. Alike where there is room, so that
// the middle of a box is that of the boxes around it.
function space(part) {
  const least = narrow.matches ? 8 : 12, left = part.spine ? (narrow.matches ? 32 : 52) : least;
  const right = part.lanes ? 16 + part.lanes * LANE : least;
  return narrow.matches ? [left, right] : [Math.max(left, right), Math.max(left, right)];
}
const spineAt = () => narrow.matches ? PORT - 6 : PORT;
function middle(part, width) {
  const [left, right] = space(part);
  return (left + width - right) / 2;
}
function port(part, end, width) {  // where lines enter or leave a part, from its left edge
  if (part.kind !== "box") return width / 2;
  const shown = part.open ? inner(part) : part;
  if (streams(part, end) || streams(shown, end)) return spineAt() + 1;
  return part.open && shown.kind === "box" ? middle(shown, width) : width / 2;
}
function trace(part, {width, height, rects}) {
  const svg = part.body.querySelector(":scope > .body > svg");
  if (!svg) return;
  svg.replaceChildren();
  const of = part.drawnAs, spine = spineAt();
  const end = (place, which) => {
    if (place === ENTRY || place === EXIT) {
      const x = streams(part, place) || streams(of, place) ? spine : middle(of, width);
      return {x, y: place === ENTRY ? 0 : height, edge: true};
    }
    const rect = rects[place], own = parts[of.parts[place]];
    if (!rect) return null;
    const x = rect.left + (which === EXIT ? rect.to : rect.from);
    return {x, y: which === EXIT ? rect.bottom : rect.top, rect, join: own.kind === "join"};
  };
  for (const [source, target, entries, thick, stream, side, lane, back] of of.lines) {
    const a = end(source, EXIT), b = end(target, ENTRY);
    if (!a || !b) continue;
    const right = width - 8 - (of.lanes - 1 - lane) * LANE;
    const [d, tip] = path(a, b, side, spine, right, back, stream);
    const state = (stream ? " stream" : "") + (back ? " back" : "");
    const made = draw("path", {d, "stroke-width": thick}, "flow" + state);
    const touches = [source, target].map(place => place < 0 ? null : of.parts[place]);
    made.dataset.ends = touches.join(" ");
    svg.append(made);
    if (tip && !b.edge) { svg.append(draw("path", {d: tip}, "tip" + state)); svg.lastChild.dataset.ends = touches.join(" "); }
  }
  heat();
}
const down = (x, y) => `M${x} ${y}l-4.5 -7h9z`, left = (x, y) => `M${x} ${y}l7 -4.5v9z`;
function path(a, b, side, spine, right, back, streamed) {
  if (side === "lane") {
    // From the side of the last part in a row, from below the others; and in by the same two ways.
    const below = !a.edge && !a.rect.last, above = !b.edge && !b.join && !b.rect.last;
    const y1 = a.edge ? a.y + 5 : below ? a.rect.low + 7 : (a.rect.top + a.rect.bottom) / 2 + (back ? -6 : 6);
    const y2 = b.edge ? b.y - 5 : b.join ? (b.rect.top + b.rect.bottom) / 2 : above ? b.y - 11
      : b.rect.top + Math.min(16, (b.rect.bottom - b.rect.top) / 3);
    const turn = Math.min(8, Math.abs(y2 - y1) / 2) * Math.sign(y2 - y1 || 1);
    const begin = a.edge ? `M${a.x} ${y1}` : below ? `M${a.x} ${a.y}V${y1 - 6}Q${a.x} ${y1} ${a.x + 6} ${y1}` : `M${a.rect.right} ${y1}`;
    const stop = b.edge ? `H${b.x}` : above ? `H${b.x + 5}Q${b.x} ${y2} ${b.x} ${y2 + 5}` : `H${b.rect.right + 6}`;
    return [`${begin}H${right - 8}Q${right} ${y1} ${right} ${y1 + turn}V${y2 - turn}Q${right} ${y2} ${right - 8} ${y2}${stop}`,
      b.edge ? "" : above ? down(b.x, b.y) : left(b.rect.right, y2)];
  }
  if (side === "spine") {
    const at = a.join ? a.x : spine, stop = b.join ? b.y : b.y - 13, low = a.edge ? a.y : a.rect.low;
    const begin = Math.abs(a.x - at) < 2 ? `M${at} ${a.y}`
      : `M${a.x} ${a.y}V${low + 5}Q${a.x} ${low + 11} ${a.x - 7} ${low + 11}H${at + 7}Q${at} ${low + 11} ${at} ${low + 18}`;
    if (b.join || Math.abs(b.x - at) < 2) return [`${begin}V${b.y}`, ""];
    return [`${begin}V${stop - 6}Q${at} ${stop} ${at + 6} ${stop}H${b.x - 7}Q${b.x} ${stop} ${b.x} ${stop + 7}V${b.y - 6}`, down(b.x, b.y)];
  }
  if (b.join && !a.join && Math.abs(a.x - b.x) > 24) {  // a branch comes back to the stream
    const y = (b.rect.top + b.rect.bottom) / 2;
    return [`M${a.x} ${a.y}V${y - 8}Q${a.x} ${y} ${a.x - 8} ${y}H${b.rect.right + 6}`, left(b.rect.right, y)];
  }
  const tip = b.join || b.edge || streamed && b.x < 60 ? "" : down(b.x, b.y), stop = tip ? b.y - 6 : b.y, aside = b.x - a.x;
  if (Math.abs(aside) < 10) return [`M${b.x} ${a.y}V${stop}`, tip];
  const y = b.y - (b.edge ? 8 : 13), turn = Math.min(7, y - a.y, stop - y, Math.abs(aside) / 2), to = turn * Math.sign(aside);
  return [`M${a.x} ${a.y}V${y - turn}Q${a.x} ${y} ${a.x + to} ${y}H${b.x - to}Q${b.x} ${y} ${b.x} ${y + turn}V${stop}`, tip];
}
function heat() {
  const own = chosen === null ? null : String(cardOf.get(chosen).number);
  for (const line of graph.querySelectorAll("[data-ends]"))
    line.classList.toggle("hot", own !== null && line.dataset.ends.split(" ").includes(own));
}

// The panel

function choose(number) {
  const changed = chosen !== number;
  chosen = number;
  for (const made of graph.querySelectorAll(".param")) made.setAttribute("aria-pressed", String(Number(made.dataset.row) === number));
  if (changed || panel.classList.contains("idle")) tell(plan.rows[number]);
  heat();
}
function unchoose() {
  const before = chosen;
  chosen = null;
  idle();
  for (const made of graph.querySelectorAll(".param")) made.setAttribute("aria-pressed", "false");
  heat();
  return before;
}
function tell(row) {
  const sheet = make("div", "sheet");
  const close = button("plain close", "close", () => { const before = unchoose(); focusOn(before); });
  sheet.append(close, dotted(make("h2"), row.name));
  for (const alias of row.aliases) sheet.append(dotted(make("div", "alias soft"), `= ${alias}`));
  const large = make("div", "large");
  const says = make("div", "");
  const norm = colored(make("div", "norm"), row.kind);
  norm.append(make("span", "swatch"), ` ${text(row.norm)}`);
  norm.firstChild.style.display = "inline-block";
  says.append(make("div", "number", text(row.shape)), make("div", "", row.role), norm);
  if (text(row.blocks)) says.append(make("div", "soft", text(row.blocks)));
  says.append(...marksOf(row, false));
  large.append(glyph(row, 1.5), says);
  sheet.append(large);
  const list = make("dl");
  for (let i = 0; i < row.facts.length; i += 2) {
    const fact = text(row.facts[i]), said = text(row.facts[i + 1]);
    const value = make("dd", fact === "FALLBACK" ? "bad" : "");
    const [, claim, place] = /^([^]*?)( {2}\([^]*\))?$/.exec(said);
    value.append(claim.replace("  because ", " because "));
    if (place) value.append(make("span", "place", ` ${place.trim()}`));
    list.append(make("dt", "", fact), value);
  }
  sheet.append(list);
  panel.classList.remove("idle");
  panel.replaceChildren(sheet);
  panel.scrollTop = 0;
}
function idle() {
  const sheet = make("div", "sheet");
  sheet.append(make("h2", "", "Choose a parameter"));
  sheet.append(make("p", "soft", "Its evidence, formula and numbers are shown here. A matrix is drawn d_out tall and d_in wide, on a logarithmic "
    + "scale; stripes are its blocks, sheets behind it a stack, a small window a convolution's kernel. Colour is the norm."));
  sheet.append(make("p", "soft", "Lines are values, wider where they have more entries; the dark line on the left is the residual stream, ⊕ where a "
    + "branch joins it. Layers that differ in size alone are one box: ‹ and › go through them."));
  const keys = make("p", "soft");
  for (const [key, what] of [["/", "search"], ["Tab", "next"], ["j", "next parameter"], ["k", "one before"], ["Esc", "close"]])
    keys.append(make("kbd", "", key), ` ${what}  `);
  sheet.append(keys);
  panel.classList.add("idle");
  panel.replaceChildren(sheet);
}

// Going to a row, and finding it

function goTo(number) {
  const way = [];
  for (let part = cardOf.get(number); part; part = part.parent) way.unshift(part);
  way.forEach((part, i) => {
    if (part.kind !== "box") return;
    const next = part.alike && way[i + 1] ? part.parts.indexOf(way[i + 1].number) : -1;
    const moves = next >= 0 && !part.all && part.at !== next;
    if (moves) turn(part, next);
    const layer = i > 0 && way[i - 1].alike && !way[i - 1].all;  // its body stands in the box of all
    if (layer) return;
    if (!part.open || moves || !part.body) { part.open = true; fill(part); }
  });
  focusOn(number);
  choose(number);
}
function focusOn(number) {
  const found = number === null ? null : [...graph.querySelectorAll(`.param[data-row="${number}"]`)].find(made => !made.classList.contains("tied"));
  if (!found) return;
  found.focus({preventScroll: true});
  found.scrollIntoView({block: "center", inline: "nearest"});
}
function matches(row) {
  const among = [row.name, ...row.aliases].join(" ").toLowerCase();
  return wanted.text.split(/\s+/).every(word => among.includes(word))
    && (!wanted.role.size || wanted.role.has(row.role)) && (!wanted.kind.size || wanted.kind.has(row.kind))
    && (!wanted.mark.size || row.marks.some(mark => wanted.mark.has(mark)));
}
const asked = () => wanted.text || wanted.role.size || wanted.kind.size || wanted.mark.size;
let kept = null;  // whether each row is wanted
function dim() {
  for (const made of graph.querySelectorAll(".param")) made.classList.toggle("off", kept !== null && !kept[made.dataset.row]);
  for (const part of parts) {
    if (part.kind === "join" || !part.element || !part.element.isConnected) continue;
    part.element.classList.toggle("off", kept !== null && !rowsOf(part).some(row => kept[row]));
  }
}
function filter() {
  kept = asked() ? plan.rows.map(matches) : null;
  dim();
  const list = document.getElementById("found"), said = document.getElementById("matches");
  list.replaceChildren();
  list.hidden = kept === null;
  said.textContent = "";
  if (kept === null) return;
  const found = plan.rows.map((row, number) => number).filter(number => kept[number]);
  said.textContent = `${found.length} of ${plan.rows.length} tensors`;
  for (const number of found.slice(0, 200)) {
    const item = make("li");
    item.append(dotted(button("link", undefined, () => goTo(number)), plan.rows[number].name));
    list.append(item);
  }
  if (found.length > 200) list.append(make("li", "soft", `and ${found.length - 200} more`));
}

// The top of the page

function heading() {
  document.getElementById("model").textContent = plan.model;
  document.getElementById("recipe").textContent = `recipe ${plan.recipe}${plan.options.length ? `: ${plan.options.join(", ")}` : ""}`;
  const sums = document.getElementById("sums"), [tensors, allTensors, entries, allEntries] = plan.inferred;
  for (const [word, value] of [["inferred", `${count(entries)} of ${count(allEntries)} parameters, ${tensors} of ${allTensors} tensors`],
    ["state", plan.state], ["hash", plan.hash]]) {
    const item = make("li", "number");
    item.append(`${word} `, make("b", "", value));
    sums.append(item);
  }
  const sight = document.getElementById("sight");
  for (const [mark, word, className] of [["fallback", "fallbacks", "bad"], ["unused", "unused", "warn"], ["tied", "tied", ""], ["frozen", "frozen", ""]]) {
    const rows = plan.rows.map((row, number) => number).filter(number => plan.rows[number].marks.includes(mark));
    const item = make("li"), names = make("span", "names");
    item.append(make("b", rows.length ? className : "", word));
    if (!rows.length) { if (mark === "fallback") { item.append(make("span", "soft", "none")); sight.append(item); } continue; }
    const put = most => {
      names.replaceChildren(make("span", "number", `${rows.length}:`));
      for (const number of rows.slice(0, most)) {
        const row = plan.rows[number];
        names.append(button("link", mark === "tied" ? [row.name, ...row.aliases].join(" = ") : row.name, () => goTo(number)));
        if (mark === "fallback") names.append(make("span", "bad", text(row.why).replace(/^fallback: /, "")));
      }
      if (rows.length > most) names.append(button("link", `and ${rows.length - most} more`, () => put(rows.length)));
    };
    put(mark === "fallback" ? 8 : 4);
    item.append(names);
    sight.append(item);
  }
  for (const note of plan.notes) {
    const item = make("li");
    item.append(make("b", "warn", "note"), make("span", "names warn", note));
    sight.append(item);
  }
  if (!plan.wired) {
    const item = make("li");
    item.append(make("b", "", "lines"), make("span", "names soft", "this plan keeps no graph: modules are in the model's order"));
    sight.append(item);
  }
}
function filters() {
  const place = document.getElementById("filters");
  for (const [field, word] of [["kind", "norm"], ["role", "role"], ["mark", "mark"]]) {
    const counted = new Map();
    for (const row of plan.rows) for (const value of field === "mark" ? row.marks : [row[field]]) counted.set(value, (counted.get(value) || 0) + 1);
    if (!counted.size) continue;
    place.append(make("span", "word", word));
    for (const [value, number] of counted) {
      const made = button("filter", undefined, () => {
        const on = !wanted[field].has(value);
        if (on) wanted[field].add(value); else wanted[field].delete(value);
        made.setAttribute("aria-pressed", String(on));
        filter();
      });
      made.setAttribute("aria-pressed", "false");
      if (field === "kind") made.append(colored(make("span", "swatch"), value));
      made.append(make("span", "", value), make("span", "soft number", String(number)));
      place.append(made);
    }
  }
}
function themes() {
  const dark = matchMedia("(prefers-color-scheme: dark)"), switch_ = document.getElementById("theme");
  const set = on => {
    root.classList.toggle("dark", on);
    root.style.colorScheme = on ? "dark" : "light";
    switch_.textContent = on ? "light" : "dark";
    switch_.setAttribute("aria-label", `use ${on ? "light" : "dark"} colours`);
    plan.norms.forEach(([, day, night], i) => root.style.setProperty(`--norm-${i}`, on ? night : day));
  };
  switch_.addEventListener("click", () => set(!root.classList.contains("dark")));
  dark.addEventListener("change", event => set(event.matches));
  set(dark.matches);
}
function unfold() {  // from the outside inwards, while there is room
  let cards = 0, level = [parts[0]];
  while (level.length) {
    const next = [];
    for (const part of level) {
      if (part.kind === "card") cards += 1;
      if (part.kind !== "box" || cards + next.length > MANY) continue;
      part.open = true;
      next.push(...(part.alike ? parts[part.parts[0]].parts || [] : part.parts).map(number => parts[number]));
    }
    level = next;
  }
}
function setAll(open) {
  for (const part of parts) if (part.kind === "box") { part.open = open; if (!open) part.all = false; }
  parts[0].open = true;
  graph.replaceChildren(box(parts[0]));
  parts[0].element = parts[0].box;
  dim();
}
document.getElementById("open").addEventListener("click", () => setAll(true));
document.getElementById("shut").addEventListener("click", () => setAll(false));
const search = document.getElementById("search");
search.addEventListener("input", () => { wanted.text = search.value.trim().toLowerCase(); filter(); });
search.addEventListener("keydown", event => {
  if (event.key === "Enter" && kept) { const first = kept.indexOf(true); if (first >= 0) goTo(first); }
});
document.addEventListener("keydown", event => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape") { hint.hidden = true; if (typing) { search.value = ""; wanted.text = ""; filter(); } else focusOn(unchoose()); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  if (event.key === "j" || event.key === "k") {
    const all = [...graph.querySelectorAll(".param")], at = all.indexOf(document.activeElement);
    const next = all[Math.max(0, Math.min(all.length - 1, at + (event.key === "j" ? 1 : -1)))];
    if (next) { next.focus({preventScroll: true}); next.scrollIntoView({block: "nearest"}); choose(Number(next.dataset.row)); }
  }
});

themes();
heading();
filters();
idle();
unfold();
graph.replaceChildren(box(parts[0]));
parts[0].element = parts[0].box;
new ResizeObserver(later).observe(graph);
narrow.addEventListener("change", later);
lines();
