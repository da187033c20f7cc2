// Filters and sorts the tables, and draws the graph around a decision when its row is opened.
// Strings of the model are only ever set as text, never as markup.
// On a page of many models each report is one of its own, whose ids begin with data-prefix.
(() => {
"use strict";
function start(root, prefix) {
const $ = (id) => document.getElementById(prefix + id);
const every = $("every"), rows = every ? [...every.tBodies[0].rows] : [];
const block = $("graphs");
let graphs = null; // parsed when the first row is opened

// ---- filter ------------------------------------------------------------------------------------

const form = root.querySelector(".filter");
const haystack = new Map();

function words(row) {
  if (!haystack.has(row)) haystack.set(row, row.textContent.toLowerCase());
  return haystack.get(row);
}

function filter() {
  const wanted = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const action = $("action").value, reason = $("reason").value;
  let count = 0;
  for (const row of rows) {
    const fits = (!action || row.dataset.action === action) && (!reason || row.dataset.reason === reason)
      && wanted.every((word) => words(row).includes(word));
    if (row.hidden === fits) row.hidden = !fits;
    const detail = details.get(row);
    if (detail) detail.hidden = !fits || !row.classList.contains("open");
    count += fits;
  }
  $("shown").textContent = `${count} of ${rows.length}`;
}

function showReason(value) {
  $("words").value = "";
  $("action").value = "";
  $("reason").value = value;
  filter();
  $("decisions").scrollIntoView();
  $("reason").focus({ preventScroll: true });
}

// ---- sort --------------------------------------------------------------------------------------

function keyOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.key !== undefined) return Number(cell.dataset.key);
  const text = cell.textContent.trim(), number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sort(table, column, header) {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const mine = [...body.rows].filter((row) => !row.classList.contains("detail"));
  const keyed = mine.map((row) => [keyOf(row, column), row]);
  keyed.sort((a, b) => (down ? compare(b[0], a[0]) : compare(a[0], b[0])));
  for (const [, row] of keyed) {
    body.append(row);
    const detail = details.get(row);
    if (detail) body.append(detail);
  }
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (!header.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column, header));
    header.append(button);
  });
}

// ---- graphs ------------------------------------------------------------------------------------

const details = new Map(); // row -> the row below it that holds its drawings
const ROLES = ["", "self", "into", "through", "refuses"];
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 164, HEIGHT = 38; // as layout.py places them

function draw(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

function tail(text, most) {
  return text.length <= most ? text : "…" + text.slice(text.length - most + 1);
}

// Ways along which data flows once the removed nodes are aliases: [points, whether one of them went].
function ways(nodes, edges) {
  const gone = (i) => (nodes[i][4] & 8) !== 0;
  const leaving = new Map();
  for (const edge of edges) leaving.set(edge[0], [...(leaving.get(edge[0]) || []), edge]);
  const found = [];
  function follow(edge, points, bridged, depth) {
    const bends = [];
    for (let k = 2; k < edge.length; k += 2) bends.push([edge[k], edge[k + 1]]);
    const here = [...points, ...bends, [nodes[edge[1]][2], nodes[edge[1]][3]]];
    if (!gone(edge[1])) found.push([here, bridged]);
    else if (depth < 32) for (const next of leaving.get(edge[1]) || []) follow(next, here, true, depth + 1);
  }
  for (const edge of edges) {
    if (!gone(edge[0])) follow(edge, [[nodes[edge[0]][2], nodes[edge[0]][3]]], false, 0);
  }
  return found;
}

function straight(nodes, edges) {
  const plain = nodes.map((node) => [...node.slice(0, 4), node[4] & ~8]);
  return ways(plain, edges);
}

function path(points) {
  const last = points.length - 1;
  const at = points.map(([x, y], i) => [x, y + (i === 0 ? HEIGHT / 2 : i === last ? -HEIGHT / 2 : 0)]);
  let d = `M${at[0][0]} ${at[0][1]}`;
  for (let i = 1; i <= last; i++) {
    const [x, y] = at[i - 1], [u, v] = at[i], end = i === last ? v - 5 : v, middle = (y + end) / 2;
    d += x === u ? `V${end}` : `C${x} ${middle} ${u} ${middle} ${u} ${end}`;
  }
  return d;
}

function drawing(graph, after, title) {
  const [width, height, , nodes, edges] = graph;
  const figure = document.createElement("figure");
  figure.className = after ? "graph after" : "graph";
  figure.append(document.createElement("figcaption"));
  figure.firstChild.textContent = title;
  const frame = document.createElement("div");
  frame.tabIndex = 0;
  figure.append(frame);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" }, frame);
  svg.style.minWidth = `${Math.round(0.75 * width)}px`; // smaller than that nobody reads it: it scrolls
  const shown = nodes.filter((node) => !after || !(node[4] & 8));
  svg.setAttribute("aria-label", `${title}: ${shown.map(spoken).join(", ")}`);
  for (const [points, bridged] of after ? ways(nodes, edges) : straight(nodes, edges)) {
    draw("path", { d: path(points), class: bridged ? "edge bridge" : "edge" }, svg);
    const [x, y] = points[points.length - 1], top = y - HEIGHT / 2;
    draw("path", { d: `M${x - 4} ${top - 7}h8L${x} ${top}z`, class: bridged ? "tip bridge-tip" : "tip" }, svg);
  }
  for (const node of shown) box(svg, node, after);
  return figure;
}

function spoken(node) {
  const role = ROLES[node[4] & 7];
  return `${graphs.ops[node[1]]} ${graphs.names[node[0]]}${role && role !== "self" ? ` (${role})` : ""}`;
}

function box(svg, [name, op, x, y, code], after) {
  const classes = [ROLES[code & 7], code & 8 && !after ? "gone" : "", code & 48 ? "end" : ""];
  const group = draw("g", { class: classes.filter(Boolean).join(" ") }, svg);
  draw("title", {}, group).textContent = `${graphs.ops[op]} ${graphs.names[name]}`;
  draw("rect", { x: x - WIDTH / 2, y: y - HEIGHT / 2, width: WIDTH, height: HEIGHT, rx: 7 }, group);
  draw("text", { x, y: y - 2 }, group).textContent = tail(graphs.ops[op], 20);
  draw("text", { x, y: y + 12, class: "name" }, group).textContent = tail(graphs.names[name], 26);
}

function detailOf(row) {
  graphs = graphs || JSON.parse(block.textContent);
  const graph = graphs.graphs[Number(row.dataset.graph)];
  const detail = document.createElement("tr"), cell = document.createElement("td");
  detail.className = "detail";
  detail.id = `${prefix}graph-${row.dataset.graph}`;
  cell.colSpan = 6;
  const side = document.createElement("div");
  side.className = "graphs";
  const folded = row.dataset.action === "folded";
  side.append(drawing(graph, false, folded ? "before" : "around it"));
  if (folded) side.append(drawing(graph, true, "after"));
  cell.append(side);
  if (graph[2]) {
    const more = document.createElement("p");
    more.className = "dim small";
    more.textContent = `${graph[2]} more nodes nearby are not drawn.`;
    cell.append(more);
  }
  detail.append(cell);
  return detail;
}

function toggle(row) {
  const opened = row.classList.toggle("open");
  if (opened && !details.has(row)) {
    details.set(row, detailOf(row));
    row.after(details.get(row));
  }
  details.get(row).hidden = !opened;
  row.querySelector(".toggle").setAttribute("aria-expanded", String(opened));
}

function makeOpening(row) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "toggle";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `graph around ${row.cells[1].textContent}`);
  row.cells[1].prepend(button);
}

// ---- start -------------------------------------------------------------------------------------

if (every) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter();
  for (const button of root.querySelectorAll(".show")) {
    button.hidden = false;
    button.addEventListener("click", () => showReason(button.dataset.reason));
  }
}
if (block) {
  const legend = root.querySelector(".legend");
  legend.hidden = false;
  const drawable = rows.filter((row) => row.dataset.graph !== undefined);
  drawable.forEach(makeOpening);
  every.classList.add("opens");
  every.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-graph]");
    if (row && !String(getSelection())) toggle(row);
  });
  if (drawable.length && drawable.length <= 3) toggle(drawable[0]);
}
root.querySelectorAll("table.sortable").forEach(makeSortable);
}

// ---- many models -------------------------------------------------------------------------------

const models = [...document.querySelectorAll("details.model")];
if (!models.length) start(document, "");
else {
  const table = document.querySelector("#models");
  if (table) start(table, "all-");
  for (const model of models) {
    model.addEventListener("toggle", () => start(model, model.dataset.prefix), { once: true });
  }
  const open = () => {
    const wanted = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const model = wanted && wanted.closest("details.model");
    if (model) {
      model.open = true;
      model.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
}
})();
