"use strict";
// Draws the story of the chosen task, filters the list, and reads out the curves at the pointer.
// The rest of the page works without it; data is only ever inserted as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 150;
  const $ = (id) => document.getElementById(id);
  const el = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const draw = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const titled = (shape, text) => { shape.append(draw("title", {}, text)); return shape; };
  const seconds = (value) => (value === null ? "-" : value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`);
  const byId = new Map(data.tasks.map((task) => [task.id, task]));

  // ---- copy ----
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = $(button.dataset.copy);
      try { await navigator.clipboard.writeText(source.textContent); button.textContent = "Copied"; } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // ---- the pointer on the timeline ----
  const [first, last] = data.axis;
  const valueAt = (curve, at) => {
    let low = 0, high = curve.length;
    while (low < high) { const middle = (low + high) >> 1; if (curve[middle][0] <= at) low = middle + 1; else high = middle; }
    return low ? curve[low - 1][1] : 0;
  };
  const timeline = $("timeline"), cross = $("cross"), readout = $("readout");
  const point = (event) => {
    const box = cross.parentElement.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const inside = share >= 0 && share <= 1;
    cross.style.display = readout.style.display = inside ? "block" : "none";
    if (!inside) return;
    const at = first + share * (last - first);
    cross.style.left = `${share * 100}%`;
    const lines = [`${at.toFixed(2)} s`];
    for (const name of ["accepted", "effects", "running", "queued", "due"]) lines.push(`${name} ${valueAt(data.curves[name], at)}`);
    for (const [id, fault, targets, start, end, observed] of data.injections) if (start <= at && at <= end) lines.push(`${id}: ${fault} on ${targets}${observed ? "" : " (not observed)"}`);
    readout.replaceChildren(...lines.map((line, n) => el("div", {}, n ? line : el("b", {}, line))));
    readout.style.left = share < 0.6 ? `calc(${share * 100}% + 10px)` : "auto";
    readout.style.right = share < 0.6 ? "auto" : `calc(${100 - share * 100}% + 10px)`;
  };
  timeline.addEventListener("pointermove", point);
  timeline.addEventListener("pointerleave", () => { cross.style.display = readout.style.display = "none"; });

  // ---- the list ----
  const list = $("list"), search = $("search"), filter = $("filter"), count = $("count");
  let shown = PAGE, current = null;
  const haystack = (task) => task.haystack ??= [task.id, task.key, task.name, task.state, ...task.tags, ...task.laws, ...task.lines.map((line) => line[2])].join("\n").toLowerCase();
  const matching = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return data.tasks.filter((task) => (!filter.value || task.tags.includes(filter.value)) && words.every((word) => haystack(task).includes(word)));
  };
  const chips = (task) => [...task.laws.map((law) => ["violated", law]), ...task.tags.filter((tag) => tag !== "violated").map((tag) => [tag.split(" ")[0], tag])]
    .map(([style, text]) => el("span", { class: `chip ${style}` }, text));
  const item = (task) => {
    const button = el("button", { type: "button", class: "task" },
      el("span", { class: "row" }, el("b", {}, task.key ?? task.id), el("span", { class: "soft small" }, task.state ?? "no row")),
      el("span", { class: "soft small" }, `${task.name ?? ""} · ${task.attempts} ${task.attempts === 1 ? "attempt" : "attempts"}${task.late === null ? "" : ` · ${seconds(task.late)}`}`),
      el("span", { class: "row" }, el("span", {}, ...chips(task))));
    button.setAttribute("aria-current", String(task === current));
    button.addEventListener("click", () => { history.replaceState(null, "", `#task=${encodeURIComponent(task.id)}`); choose(task, true); });
    return button;
  };
  const refresh = () => {
    const found = matching();
    list.replaceChildren(...found.slice(0, shown).map(item));
    if (!found.length) list.append(el("p", { class: "none" }, "No task matches."));
    if (found.length > shown) {
      const more = el("button", { type: "button", class: "more" }, `Show more (${found.length - shown})`);
      more.addEventListener("click", () => { shown += PAGE; refresh(); });
      list.append(more);
    }
    count.textContent = `${found.length} of ${data.tasks.length}`;
  };
  for (const source of [search, filter]) source.addEventListener("input", () => { shown = PAGE; list.scrollTop = 0; refresh(); });

  // ---- one story ----
  const storyLines = (task) => {
    const lines = [...task.lines];
    const from = lines.length ? Math.min(...lines.map((line) => line[0])) : 0;
    const until = lines.length ? Math.max(...lines.map((line) => line[0])) : 0;
    for (const [id, fault, targets, start, end] of data.injections) {
      if (from <= start && start <= until) lines.push([start, "fault", `-- ${fault} on ${targets}: start (${id})`, 0]);
      if (from <= end && end <= until) lines.push([end, "fault", `-- ${fault} on ${targets}: end (${id})`, 0]);
    }
    if (from <= data.phases.healed && data.phases.healed <= until) lines.push([data.phases.healed, "fault", "-- healed: all faults are off", 0]);
    return lines.sort((a, b) => a[0] - b[0]);
  };
  const COLOURS = { waiting: "var(--edge)", due: "var(--due)", QUEUED: "var(--queued)", RUNNING: "var(--running)", SUCCEEDED: "var(--good)", FAILED: "var(--bad)", CANCELLED: "var(--mild)" };
  const INK = { RUNNING: "on", SUCCEEDED: "on", FAILED: "on", CANCELLED: "on", QUEUED: "pale", due: "dark" };
  const range = (task) => {
    const times = task.lines.filter((line) => line[1] !== "final read").map((line) => line[0]);
    if (!times.length) return [0, 1];
    const from = Math.min(...times), until = Math.max(...times), pad = Math.max((until - from) * 0.03, 0.005);
    return [from - pad, until + pad];
  };
  const rows = (task, width, x, from, until) => {
    const parts = [], inside = (at) => at >= from && at <= until;
    let y = 20;
    const label = (text) => { parts.push(draw("text", { x: 0, y: y + 10 }, text)); y += 15; };
    const mark = (at, colour, text, evidence) => parts.push(titled(draw("circle", { cx: x(at), cy: y + 7, r: 5, fill: colour, stroke: evidence ? "var(--ink)" : "none", "stroke-width": 2 }), `${at.toFixed(4)} s  ${text}`));
    label("clients");
    const ends = [];
    for (const [process, op, type, start, end] of task.ops) {
      const left = x(Math.max(start, from)), right = x(end === null ? until : Math.min(end, until));
      const text = `${op} ${type}`;
      let row = ends.findIndex((taken) => taken < left - 4);
      if (row < 0) row = ends.length;
      const wide = Math.max(right - left, 3), words = text.length * 6.2 + 6;
      const flip = left + wide + words > width;
      ends[row] = Math.max(right, left + wide + (flip ? 0 : words));
      const colour = type === "ok" ? "var(--good)" : type === "fail" ? "var(--warn)" : "var(--mild)";
      parts.push(titled(draw("rect", { x: left, y: y + row * 15 + 2, width: wide, height: 10, rx: 2, fill: colour }), `${process} ${op}: ${type}, ${start.toFixed(3)} to ${end === null ? "?" : end.toFixed(3)} s`));
      parts.push(draw("text", { x: flip ? left - 4 : left + wide + 4, y: y + row * 15 + 11, "text-anchor": flip ? "end" : "start" }, text));
    }
    y += Math.max(ends.length, 1) * 15 + 8;
    label("state");
    for (const [place, start, end, who] of task.stays) {
      const left = x(Math.max(start, from)), right = x(end === null ? until : Math.min(end, until)), wide = Math.max(right - left, 1.5);
      parts.push(titled(draw("rect", { x: left, y, width: wide, height: 20, fill: COLOURS[place] ?? "var(--mild)", stroke: "var(--card)", "stroke-width": 1 }), `${place}, ${start.toFixed(3)} to ${end === null ? "the end" : `${end.toFixed(3)} s`}; by ${who}`));
      const text = place === "RUNNING" ? who.split(" ")[0] : place;
      if (wide > text.length * 6.1 + 8) parts.push(draw("text", { x: left + 5, y: y + 14, class: INK[place] ?? "" }, text));
    }
    y += 28;
    for (const [name, kinds, colour] of [["effects", ["effect"], "var(--good)"], ["sink calls", ["sink"], "var(--accepted)"], ["refused writes", ["fence"], "var(--warn)"]]) {
      const found = task.lines.filter((line) => kinds.includes(line[1]) && inside(line[0]));
      if (!found.length) continue;
      label(name);
      for (const line of found) mark(line[0], colour, line[2], line[3]);
      y += 20;
    }
    const evidence = task.lines.filter((line) => line[3] && line[1] !== "final read" && inside(line[0]));
    if (evidence.length) {
      label("evidence of the violation");
      for (const line of evidence) mark(line[0], "var(--bad)", line[2], true);
      y += 20;
    }
    return [parts, y];
  };
  const picture = (task, width) => {
    const [from, until] = range(task);
    const x = (at) => 1 + ((at - from) / (until - from)) * (width - 2);
    const [parts, height] = rows(task, width, x, from, until);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height + 22}`, height: height + 22, role: "img", "aria-label": "the story on one axis" });
    let taken = -Infinity;
    for (const [id, fault, targets, start, end, observed] of data.injections) {
      if (end < from || start > until) continue;
      const left = x(Math.max(start, from)), right = x(Math.min(end, until));
      svg.append(titled(draw("rect", { x: left, y: 16, width: Math.max(right - left, 2), height: height - 14, fill: "var(--band)" }), `${id}: ${fault} on ${targets}${observed ? "" : " (not observed)"}`));
      const words = id.length * 6.4, at = Math.min(left, width - words);
      if (at > taken) { svg.append(draw("text", { x: at, y: 11, style: "fill:var(--band-edge)" }, id)); taken = at + words + 6; }
    }
    const healed = data.phases.healed;
    if (healed > from && healed < until) svg.append(titled(draw("line", { x1: x(healed), x2: x(healed), y1: 14, y2: height, stroke: "var(--good)", "stroke-width": 1.5 }), `healed ${healed.toFixed(2)} s`));
    svg.append(...parts);
    svg.append(draw("line", { x1: 0, x2: width, y1: height + 2, y2: height + 2, stroke: "var(--edge)" }));
    const many = Math.max(2, Math.min(7, Math.floor(width / 90)));
    for (let n = 0; n <= many; n += 1) {
      const at = from + ((until - from) * n) / many;
      svg.append(draw("text", { x: x(at), y: height + 16, "text-anchor": n === 0 ? "start" : n === many ? "end" : "middle" }, `${at.toFixed(until - from < 2 ? 3 : 2)}${n === many ? " s" : ""}`));
    }
    return svg;
  };
  const story = $("story");
  const show = (task) => {
    const lines = storyLines(task).map(([at, who, text, evidence]) => el("div", { class: evidence ? "evidence" : who.replace(" ", "-") }, el("span", {}, at.toFixed(3)), el("span", {}, text)));
    story.replaceChildren(
      el("div", { class: "title" }, el("h3", {}, task.key ?? task.id), el("span", { class: "soft small" }, `${task.name ?? "no final row"} · ${task.state ?? "?"} · ${task.attempts} attempts, ${task.losses} lost · due ${task.due === null ? "?" : `${task.due.toFixed(2)} s`}${task.late === null ? "" : `, effect ${seconds(task.late)} later`}`)),
      el("div", {}, ...chips(task)),
      el("p", { class: "mono soft" }, `${task.id}  ${task.payload === null ? "" : JSON.stringify(task.payload)}`));
    const width = Math.max(260, Math.floor(story.clientWidth - parseFloat(getComputedStyle(story).paddingLeft) * 2));
    story.append(picture(task, width), el("div", { class: "piece" }, ...lines));
  };
  const choose = (task, moved) => {
    current = task;
    show(task);
    refresh();
    story.scrollTop = 0;
    if (moved && matchMedia("(max-width: 760px)").matches) story.scrollIntoView({ behavior: "smooth", block: "start" });
  };
  const linked = (moved) => {
    const found = /^#task=(.+)$/.exec(location.hash);
    const task = found && byId.get(decodeURIComponent(found[1]));
    if (!task) return false;
    choose(task, false);
    if (moved) story.scrollIntoView({ block: "start" });
    return true;
  };
  addEventListener("hashchange", () => linked(true));
  let before = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== before && current) { before = innerWidth; show(current); } });
  if (!linked(true)) { if (data.tasks.length) choose(data.tasks[0], false); else { refresh(); } }
})();
