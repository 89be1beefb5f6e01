/* The interactive part of a screening report: charts, table, viewer, groups and exported lists.
   All data are in the page, and text enters it as text only. */
"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const columns = new Map(data.columns.map((column) => [column.name, column]));
const valuesOf = (name) => columns.get(name).values;
const total = valuesOf("k").length;
const everyone = Array.from({ length: total }, (_, particle) => particle);
const state = { kept: [], rows: [], sort: "llr", down: true, selected: 0, group: null };

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const short = (number) => String(Number(number.toPrecision(4)));

function shown(name, value) {
  if (value === null) return "–";
  if (name === "p_value" && value < 1e-6) return "< 1e-6";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? short(value) : value;
}

/* ---- which particles are kept ---- */

/* scores that particles can be kept by; -1 where a low value is good */
const GOOD = { llr: -1, probability: -1, ncc: 1 };

function decide() {
  const by = byId("by").value, slider = byId("count");
  slider.disabled = byId("limit").disabled = !by;
  if (by) {
    const quality = valuesOf(by).map((v) => (v === null ? -Infinity : GOOD[by] * v));
    const limit = GOOD[by] * Number(byId("limit").value);
    state.kept = quality.map((q) => q > -Infinity && q >= limit);
  } else {
    state.kept = valuesOf("flagged").map((flag) => !flag);
  }
  const count = state.kept.filter(Boolean).length;
  slider.value = count;
  byId("kept").textContent =
    `${count.toLocaleString("en")} of ${total.toLocaleString("en")} kept (${short(100 * count / total)} %)`;
  refresh();
}

/* Set the limit so that as many particles are kept as the slider says. */
function limitFromCount() {
  const by = byId("by").value, count = Number(byId("count").value);
  const ranked = valuesOf(by).filter((v) => v !== null).sort((a, b) => GOOD[by] * (b - a));
  const step = GOOD[by] * 1e-6 * (1 + Math.abs(ranked[0]));
  byId("limit").value = count ? ranked[Math.min(count, ranked.length) - 1] : ranked[0] + step;
  decide();
}

/* Start from the decision of the run when a score is chosen. */
function chooseScore() {
  const count = valuesOf("flagged").filter((flag) => !flag).length;
  byId("count").value = count;
  if (byId("by").value) limitFromCount();
  else { byId("limit").value = ""; decide(); }
}

/* ---- table of all particles ---- */

const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};
const texts = everyone.map((particle) => data.columns
  .filter(({ values }) => typeof values[particle] === "string")
  .map(({ values }) => values[particle]).join("\n").toLowerCase());

/* Return a test of particles from one word: a comparison such as ncc<0.1, or a part of a text. */
function test(word) {
  const match = /^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word);
  if (!match || !columns.has(match[1])) {
    return (particle) => texts[particle].includes(word.toLowerCase());
  }
  const values = valuesOf(match[1]), compare = COMPARE[match[2]];
  const number = Number(match[3]);
  return (particle) => values[particle] !== null && (typeof values[particle] === "number"
    ? compare(values[particle], number) : compare(shown(match[1], values[particle]), match[3]));
}

function listRows() {
  const tests = byId("filter").value.split(/\s+/).filter(Boolean).map(test);
  const which = byId("which").value;
  if (which === "pictures") tests.push((particle) => particle in data.particles);
  if (which === "kept") tests.push((particle) => state.kept[particle]);
  if (which === "rejected") tests.push((particle) => !state.kept[particle]);
  if (state.group) {
    const values = valuesOf(state.group.name);
    tests.push((particle) => values[particle] === state.group.value);
  }
  const values = state.sort === "keep" ? state.kept : valuesOf(state.sort);
  const sign = state.down ? -1 : 1;
  const order = (a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return values[a] < values[b] ? -sign : values[a] > values[b] ? sign : a - b;
  };
  state.rows = everyone.filter((particle) => tests.every((passes) => passes(particle))).sort(order);
  byId("rows").textContent = `${state.rows.length.toLocaleString("en")} particles listed`;
}

const ROW = 28; // height of a row in px, as in report.css
const grid = byId("grid"), view = byId("view");
const tableColumns = ["k", "keep", ...[...columns.keys()].filter((name) => name !== "k")];

const numeric = new Set(tableColumns.filter(
  (name) => name !== "keep" && valuesOf(name).some((v) => typeof v === "number")));
const isText = (name) => name !== "keep" && valuesOf(name).some((v) => typeof v === "string");

function width(name) {
  const every = Math.ceil(total / 200), last = total - 1;
  const sample = name === "keep" ? [""] : valuesOf(name).filter((_, n) => n % every === 0 || n === last);
  const longest = Math.max(...sample.map((value) => String(shown(name, value)).length));
  return Math.min(32, Math.max(name.length + 1, longest)) + 2.4;
}

function drawHeader() {
  const head = make("tr");
  for (const name of tableColumns) {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      state.down = state.sort === name ? !state.down : !isText(name);
      state.sort = name;
      drawHeader();
      refresh();
    });
    const cell = make("th", { scope: "col", className: numeric.has(name) ? "number" : "" }, button);
    if (name === state.sort) cell.ariaSort = state.down ? "descending" : "ascending";
    head.append(cell);
  }
  grid.tHead.replaceChildren(head);
}

function row(particle, index) {
  const cells = tableColumns.map((name) => {
    const value = name === "keep" ? state.kept[particle] : valuesOf(name)[particle];
    const className = numeric.has(name) ? "number" : "";
    return make("td", { className, textContent: shown(name, value), title: String(value ?? "") });
  });
  const line = make("tr", { id: `row${index}` }, ...cells);
  line.ariaRowIndex = index + 2;
  line.ariaSelected = particle === state.selected;
  line.classList.toggle("rejected", !state.kept[particle]);
  line.addEventListener("click", () => choose(particle));
  return line;
}

/* Draw the rows in view; others are blank space of their height. */
function drawRows() {
  const first = Math.max(0, Math.floor(view.scrollTop / ROW) - 8);
  const last = Math.min(state.rows.length, first + Math.ceil(view.clientHeight / ROW) + 16);
  const blank = (count) => {
    const line = make("tr", { ariaHidden: "true" });
    line.style.height = `${count * ROW}px`;
    return line;
  };
  const lines = state.rows.slice(first, last).map((particle, n) => row(particle, first + n));
  grid.tBodies[0].replaceChildren(blank(first), ...lines, blank(state.rows.length - last));
  grid.ariaRowCount = state.rows.length + 1;
  const at = state.rows.indexOf(state.selected);
  if (at >= first && at < last) grid.setAttribute("aria-activedescendant", `row${at}`);
  else grid.removeAttribute("aria-activedescendant");
}

/* Move the selection by keys, and scroll to it. */
function moveSelection(event) {
  const page = Math.max(1, Math.floor(view.clientHeight / ROW) - 2);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total };
  if (!(event.key in steps) || event.target !== grid || !state.rows.length) return;
  event.preventDefault();
  const at = state.rows.indexOf(state.selected) + steps[event.key];
  const next = Math.max(0, Math.min(state.rows.length - 1, at));
  const top = next * ROW, visible = view.clientHeight - 2 * ROW;
  if (top < view.scrollTop) view.scrollTop = top;
  if (top > view.scrollTop + visible) view.scrollTop = top - visible;
  choose(state.rows[next]);
}

/* ---- charts ---- */

function colour(canvas, name) {
  canvas.style.color = `var(--${name})`;
  return getComputedStyle(canvas).color;
}

/* Return lowest and highest value of a column without its most extreme parts. */
function range(values) {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  if (!sorted.length) return [0, 1];
  const at = (part) => sorted[Math.round(part * (sorted.length - 1))];
  const [low, high] = total > 400 ? [at(0.002), at(0.998)] : [at(0), at(1)];
  return low < high ? [low, high] : [low - 0.5, low + 0.5];
}

function ticks([low, high], most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, n) => (first + n) * step);
}

/* Draw axes; return the context and the functions from values to pixels. */
function axes(canvas, xs, ys, xLabel, yLabel) {
  const ratio = window.devicePixelRatio, box = canvas.getBoundingClientRect();
  canvas.width = box.width * ratio;
  canvas.height = box.height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  const left = 52, right = box.width - 10, top = 10, bottom = box.height - 38;
  const x = (v) => left + (right - left) * Math.min(1, Math.max(0, (v - xs[0]) / (xs[1] - xs[0])));
  const y = (v) => bottom - (bottom - top) * Math.min(1, Math.max(0, (v - ys[0]) / (ys[1] - ys[0])));
  context.strokeStyle = colour(canvas, "line");
  context.fillStyle = colour(canvas, "soft");
  context.textAlign = "center";
  for (const v of ticks(xs, box.width / 90)) context.fillText(short(v), x(v), bottom + 16);
  context.fillText(xLabel, (left + right) / 2, bottom + 33);
  context.textAlign = "right";
  for (const v of ticks(ys, box.height / 45)) {
    context.fillText(short(v), left - 6, y(v) + 4);
    context.beginPath();
    context.moveTo(left, y(v));
    context.lineTo(right, y(v));
    context.stroke();
  }
  context.save();
  context.translate(11, (top + bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(yLabel, 0, 0);
  context.restore();
  return { context, x, y, left, right, top, bottom };
}

/* Draw the numbers of kept and of other particles in bins of values, one upon the other. */
function drawHistogram(canvas, values, label) {
  const limits = range(values);
  const bins = Math.min(80, Math.max(10, Math.round(Math.sqrt(total) * 1.5)));
  const counts = Array.from({ length: bins }, () => [0, 0]);
  values.forEach((v, particle) => {
    if (v === null) return;
    const bin = Math.floor(bins * (v - limits[0]) / (limits[1] - limits[0]));
    counts[Math.min(bins - 1, Math.max(0, bin))][state.kept[particle] ? 0 : 1] += 1;
  });
  const most = Math.max(1, ...counts.map(([kept, other]) => kept + other));
  const { context, x, y, top, bottom } = axes(canvas, limits, [0, most * 1.05], label, "particles");
  const step = (limits[1] - limits[0]) / bins;
  counts.forEach(([kept, other], bin) => {
    const from = x(limits[0] + bin * step), to = x(limits[0] + (bin + 1) * step);
    context.fillStyle = colour(canvas, "keep");
    context.fillRect(from, y(kept), to - from - 0.5, y(0) - y(kept));
    context.fillStyle = colour(canvas, "reject");
    context.fillRect(from, y(kept + other), to - from - 0.5, y(kept) - y(kept + other));
  });
  const limit = byId("limit").value;
  if (byId("by").value !== label || limit === "") return;
  context.strokeStyle = colour(canvas, "ink");
  context.setLineDash([5, 4]);
  context.beginPath();
  context.moveTo(x(limit), top);
  context.lineTo(x(limit), bottom);
  context.stroke();
}

/* Draw a dot per particle: its llr by its position along k. */
function drawPoints(canvas) {
  const values = valuesOf("llr"), limits = range(values);
  const margin = 0.03 * (limits[1] - limits[0]);
  const ys = [limits[0] - margin, limits[1] + margin];
  const { context, x, y } = axes(canvas, [0, Math.max(1, total - 1)], ys, "position along k", "llr");
  const radius = total > 5000 ? 1.2 : total > 800 ? 1.8 : 2.6;
  for (const kept of [true, false]) {
    context.fillStyle = colour(canvas, kept ? "keep" : "reject");
    for (const particle of everyone) {
      if (values[particle] === null || state.kept[particle] !== kept) continue;
      context.beginPath();
      context.arc(x(particle), y(values[particle]), radius, 0, 7);
      context.fill();
    }
  }
  context.strokeStyle = colour(canvas, "ink");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x(state.selected), y(values[state.selected] ?? ys[1]), 6, 0, 7);
  context.stroke();
  canvas.onclick = (event) => {
    const distance = (particle) => values[particle] === null ? Infinity :
      Math.hypot(x(particle) - event.offsetX, y(values[particle]) - event.offsetY);
    choose(everyone.reduce((best, other) => (distance(other) < distance(best) ? other : best)));
  };
}

function drawCharts() {
  const score = byId("by").value || "llr";
  drawHistogram(byId("histogram"), valuesOf(score), score);
  drawPoints(byId("points"));
  drawHistogram(byId("along"), everyone, "position along k");
}

/* ---- viewer: particle, average and best alternative hypothesis ---- */

const [depth, height, breadth] = data.shape;

/* Return voxels as numbers from their lowest and highest value and 8-bit levels. */
function decode([low, high, levels]) {
  const bytes = atob(levels), step = (high - low) / 255;
  return Float32Array.from({ length: bytes.length }, (_, n) => low + step * bytes.charCodeAt(n));
}

/* Return the average of the others, from an average of ``count`` volumes with this one. */
function without(average, count, volume) {
  return average.map((value, n) => (count * value - volume[n]) / (count - 1));
}

/*
 * Return a volume rotated by intrinsic z, y, z angles in degrees, then shifted by lengths along
 * z, y and x: a value at v moves to R v + shift.
 */
function posed(volume, [rot, tilt, psi], shift) {
  const [a, b, c] = [rot, tilt, psi].map((angle) => angle * Math.PI / 180);
  const [ca, sa, cb, sb, cc, sc] = [a, b, c].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
  const matrix = [
    [ca * cb * cc - sa * sc, -ca * cb * sc - sa * cc, ca * sb],
    [sa * cb * cc + ca * sc, -sa * cb * sc + ca * cc, sa * sb],
    [-sb * cc, sb * sc, cb],
  ];
  const [dz, dy, dx] = data.spacing, [oz, oy, ox] = data.centre;
  const out = new Float32Array(volume.length);
  for (let z = 0, n = 0; z < depth; z++) for (let y = 0; y < height; y++) {
    for (let x = 0; x < breadth; x++, n++) {
      const v = [(x - ox) * dx - shift[2], (y - oy) * dy - shift[1], (z - oz) * dz - shift[0]];
      const [px, py, pz] = [0, 1, 2].map((m) => // by the transposed matrix
        matrix[0][m] * v[0] + matrix[1][m] * v[1] + matrix[2][m] * v[2]);
      out[n] = interpolated(volume, pz / dz + oz, py / dy + oy, px / dx + ox);
    }
  }
  return out;
}

/* Return the linear interpolation of a volume at a place; 0 beyond its border. */
function interpolated(volume, z, y, x) {
  const [k, j, i] = [Math.floor(z), Math.floor(y), Math.floor(x)];
  let sum = 0;
  for (let n = 0; n < 8; n++) {
    const [c, b, a] = [k + (n >> 2), j + ((n >> 1) & 1), i + (n & 1)];
    if (c < 0 || b < 0 || a < 0 || c >= depth || b >= height || a >= breadth) continue;
    sum += volume[(c * height + b) * breadth + a]
      * (1 - Math.abs(z - c)) * (1 - Math.abs(y - b)) * (1 - Math.abs(x - a));
  }
  return sum;
}

/* Return the average that a particle is compared with, without the particle. */
function averageFor(particle, own) {
  if (!data.references.kept_average) return decode(data.references.average);
  const average = decode(data.references.kept_average);
  return own && !valuesOf("flagged")[particle] && data.kept > 1
    ? without(average, data.kept, own) : average;
}

/* Return title and volume of the hypothesis that explains a particle best, besides the average. */
function alternativeFor(particle, own, average) {
  const name = valuesOf("best_hypothesis")[particle];
  if (name === "rotated" || name === "shifted") {
    const [angles, shift] = [["angles", "rot", "tilt", "psi"], ["shifts", "z", "y", "x"]].map(
      ([column, ...parts]) => parts.map((part) => valuesOf(`${column}_${part}`)[particle]));
    const title = name === "rotated" ? angles.map((a) => `${Math.round(a)}°`).join(", ")
      : `${shift.map((s) => s.toPrecision(2)).join(", ")} ${data.unit} along z, y, x`;
    return [`average ${name} by ${title}`, posed(average, angles, shift)];
  }
  if (name in data.references) {
    const volume = decode(data.references[name]), count = data.members.length;
    const isMember = name === "second_class" && data.members.includes(particle);
    if (isMember && count < 2) return ["second class: this particle alone", null];
    return [isMember ? `second class: average of ${count - 1} others` : name.replace("_", " "),
      isMember && own ? without(volume, count, own) : volume];
  }
  const others = {
    empty: "noise alone: no density is expected",
    extra_density: "the average with something beside it",
    unlike: "an object that is the average in no pose",
  };
  if (name in others) return [others[name], null];
  return ["no alternative explains it better", null];
}

/* Return pixels, rows and columns of the mean of some slices across an axis, rows upwards. */
function slab(volume, axis, at, half) {
  const strides = [height * breadth, breadth, 1];
  const [rowAxis, columnAxis] = [0, 1, 2].filter((other) => other !== axis);
  const rows = data.shape[rowAxis], width = data.shape[columnAxis];
  const pixels = new Float32Array(rows * width);
  const from = Math.max(0, at - half), to = Math.min(data.shape[axis] - 1, at + half);
  for (let slice = from; slice <= to; slice++) for (let r = 0; r < rows; r++) {
    for (let c = 0; c < width; c++) {
      pixels[(rows - 1 - r) * width + c] +=
        volume[slice * strides[axis] + r * strides[rowAxis] + c * strides[columnAxis]];
    }
  }
  return { pixels, rows, width };
}

function drawSlab(canvas, volume, axis) {
  const at = Number(byId(`at${axis}`).value), half = Number(byId("thickness").value);
  const { pixels, rows, width } = slab(volume, axis, at, half);
  const sorted = Float32Array.from(pixels).sort();
  const low = sorted[Math.floor(0.01 * (sorted.length - 1))];
  const high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
  canvas.width = width;
  canvas.height = rows;
  const [rowAxis, columnAxis] = [0, 1, 2].filter((other) => other !== axis);
  canvas.style.aspectRatio =
    `${width * Math.abs(data.spacing[columnAxis])} / ${rows * Math.abs(data.spacing[rowAxis])}`;
  const context = canvas.getContext("2d"), image = context.createImageData(width, rows);
  pixels.forEach((value, n) => {
    const level = 255 * (value - low) / (high - low || 1); // clamped by the image
    image.data.set([level, level, level, 255], 4 * n);
  });
  context.putImageData(image, 0, 0);
}

/* Show the volumes of the selected particle; they are kept until another is selected. */
let volumes = [];
function drawViewer() {
  const particle = state.selected, encoded = data.particles[particle];
  const own = encoded ? decode(encoded) : null, average = averageFor(particle, own);
  const [title, alternative] = alternativeFor(particle, own, average);
  volumes = [own, average, alternative];
  byId("title1").textContent = own && !valuesOf("flagged")[particle]
    ? "average of the others" : "average of the kept";
  byId("title2").textContent = title;
  byId("missing").hidden = Boolean(own);
  const facts = ["llr", "p_value", "probability", "ncc"]
    .map((name) => `${name} ${shown(name, valuesOf(name)[particle])}`);
  byId("particle").textContent = [
    `k = ${valuesOf("k")[particle]}`, valuesOf("flagged")[particle] ? "flagged" : "not flagged",
    valuesOf("best_hypothesis")[particle].replace("_", " "), ...facts].join(" · ");
  drawSlabs();
}

function drawSlabs() {
  const unit = data.unit;
  for (const axis of [0, 1, 2]) {
    const place = (Number(byId(`at${axis}`).value) - data.centre[axis]) * data.spacing[axis];
    byId(`place${axis}`).textContent = `${short(place)} ${unit}`;
    volumes.forEach((volume, n) => {
      const canvas = byId(`plane${n}${axis}`);
      canvas.hidden = !volume;
      if (volume) drawSlab(canvas, volume, axis);
    });
  }
  const half = Number(byId("thickness").value);
  byId("slices").textContent = half ? `mean of ± ${half} slices` : "1 slice";
}

function choose(particle) {
  state.selected = particle;
  drawRows();
  drawPoints(byId("points"));
  drawViewer();
}

/* ---- groups, such as tomograms ---- */

function median(values) {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
}

function drawGroups() {
  if (!data.groups.length) return;
  const name = byId("group").value, members = new Map();
  valuesOf(name).forEach((value, particle) => {
    if (!members.has(value)) members.set(value, []);
    members.get(value).push(particle);
  });
  const part = (group) => group.filter((particle) => !state.kept[particle]).length / group.length;
  const sorted = [...members].sort(([, a], [, b]) => part(b) - part(a));
  const lines = sorted.map(([value, group]) => {
    const button = make("button", { type: "button", textContent: value });
    button.setAttribute("aria-pressed", state.group?.value === value && state.group.name === name);
    button.addEventListener("click", () => {
      const again = state.group?.value === value && state.group.name === name;
      state.group = again ? null : { name, value };
      refresh();
    });
    const bar = make("i"), rejected = Math.round(part(group) * group.length);
    bar.style.width = `${100 * part(group)}%`;
    const of = (column) => shown(column, median(group.map((particle) => valuesOf(column)[particle])));
    return make("tr", {}, make("td", {}, button),
      ...[group.length, rejected, `${short(100 * part(group))} %`].map(
        (text) => make("td", { className: "number", textContent: text })),
      make("td", { className: "share" }, bar),
      ...["ncc", "llr"].map((column) => make("td", { className: "number", textContent: of(column) })));
  });
  byId("groups").tBodies[0].replaceChildren(...lines);
}

/* ---- exported lists ---- */

/* Return a value that is no text as a word of a list. */
function plainWord(value) {
  if (value === null) return "nan";
  if (typeof value === "boolean") return value ? "True" : "False";
  return String(value);
}

function csvField(value) {
  if (typeof value !== "string") return plainWord(value);
  // spreadsheets run text that begins with these signs as a formula
  const text = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}

function csv(particles) {
  const lines = particles.map((p) => data.columns.map(({ values }) => csvField(values[p])).join(","));
  return [data.columns.map(({ name }) => csvField(name)).join(","), ...lines, ""].join("\n");
}

/* Return a value as a word of a STAR file; text in quotes unless it is plain. */
function starWord(value) {
  if (typeof value !== "string") return plainWord(value);
  const text = value.replace(/[\r\n\0]/g, " ");
  const reserved = /^(data_|save_|loop_$|stop_$|global_$|true$|false$|nan$|inf)/i.test(text);
  if (/^[A-Za-z0-9][\w.@/:+-]*$/.test(text) && !reserved && Number.isNaN(Number(text))) return text;
  return /"\s/.test(text) ? `'${text.replace(/'(?=\s)/g, "’")}'` : `"${text}"`;
}

function star(particles) {
  const labels = data.columns.map(({ label }, n) => `_${label} #${n + 1}`);
  const lines = particles.map((p) => data.columns.map(({ values }) => starWord(values[p])).join(" "));
  return [`${data.starHead}data_particles`, "", "loop_", ...labels, ...lines, ""].join("\n");
}

function download(kept, kind) {
  const particles = everyone.filter((particle) => state.kept[particle] === kept);
  const text = kind === "csv" ? csv(particles) : star(particles);
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  make("a", { href: url, download: `${kept ? "kept" : "rejected"}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/* ---- start ---- */

function refresh() {
  listRows();
  drawRows();
  drawCharts();
  drawGroups();
  byId("clear").hidden = !state.group;
  byId("clear").textContent = state.group ? `${state.group.name} = ${state.group.value} ✕` : "";
}

function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  drawCharts();
}

byId("columns").replaceChildren(...tableColumns.map((name) => {
  const column = make("col");
  column.style.width = `${width(name)}ch`;
  return column;
}));
grid.style.width = `${tableColumns.reduce((sum, name) => sum + width(name), 0)}ch`;
for (const axis of [0, 1, 2]) {
  Object.assign(byId(`at${axis}`), { max: data.shape[axis] - 1, value: data.centre[axis] });
  byId(`at${axis}`).addEventListener("input", drawSlabs);
}
byId("thickness").max = Math.max(...data.shape) - 1;
byId("thickness").addEventListener("input", drawSlabs);
byId("count").max = total;
byId("count").addEventListener("input", limitFromCount);
byId("limit").addEventListener("change", decide);
byId("by").addEventListener("change", chooseScore);
for (const id of ["filter", "which"]) byId(id).addEventListener("input", () => { listRows(); drawRows(); });
for (const name of data.groups) byId("group").append(make("option", { textContent: name }));
byId("breakdown").hidden = !data.groups.length;
byId("group").addEventListener("change", () => { state.group = null; refresh(); });
byId("clear").addEventListener("click", () => { state.group = null; refresh(); });
for (const button of document.querySelectorAll("[data-export]")) {
  const [kept, kind] = button.dataset.export.split(" ");
  button.addEventListener("click", () => download(kept === "kept", kind));
}
byId("theme").addEventListener("click", toggleTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
view.addEventListener("scroll", drawRows);
grid.addEventListener("keydown", moveSelection);
new ResizeObserver(() => { drawCharts(); drawRows(); }).observe(byId("explorer"));
byId("explorer").hidden = false;
drawHeader();
decide();
choose(state.rows[0] ?? 0);
