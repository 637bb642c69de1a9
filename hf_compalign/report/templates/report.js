// The table of changed items, links within the page, and the theme. Text from data only ever becomes the text
// of a node, never markup.
"use strict";
(() => {
  const PAGE = 25;
  const LONG = 360; // characters, of a text that is shown whole on demand
  const STRONGEST = 5;
  const WAIT_MS = 150; // after the last key in the search
  const NUMBERS = ["reference_confidence", "candidate_confidence", "reference_margin", "kl"];
  const FILTERS = ["cell", "label", "reference", "candidate", "group", "explained"];
  const CLASSES = ["label", "reference", "candidate"];
  const SIDES = { reference: "Reference", candidate: "Candidate" };
  const SVG = "http://www.w3.org/2000/svg";

  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const items = data.items;
  const cards = byId("table")?.classList.contains("cards"); // of images
  const collator = new Intl.Collator(undefined, { numeric: true });
  const initial = () => ({ q: "", ...Object.fromEntries(FILTERS.map((name) => [name, ""])), sort: "", page: 1 });
  let state = initial();
  let shown = items; // those that match, in order
  let marked = null; // the one that was linked to

  // ---- small helpers ----

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function makeSvg(tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // A name goes on in a new line after a word of it, and never within one.
  function named(text, attributes = {}) {
    const parts = text.split(/(?<=[_./])(?=[^_./])/);
    return make("bdi", attributes, ...parts.flatMap((part, place) => (place ? [make("wbr"), part] : [part])));
  }

  const className = (index) => data.names[index] ?? String(index);
  const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)}\u00a0%`);
  const count = (n) => n.toLocaleString("en");
  const signed = (score) => `${score < 0 ? "−" : "+"}${Math.abs(score).toFixed(2)}`;
  const valuesOf = (item, filter) => {
    if (filter === "group") return item.groups;
    if (filter === "explained") return item.explanation ? ["yes"] : [];
    return item[filter] === null ? [] : [String(item[filter])];
  };

  // ---- the address: #q=...&cell=...&sort=-kl&page=2, or #item=... ----

  function addressOf(parts) {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(parts)) {
      if (value && !(name === "page" && value === 1)) words.set(name, value);
    }
    return `#${words}`;
  }

  function writeAddress() {
    const address = addressOf(state);
    // In a sandboxed frame, as the Hub has them, the history may be out of reach.
    try {
      history.replaceState(null, "", address === "#" ? "#items" : address);
    } catch {
      // The page works without.
    }
  }

  function readAddress(hash) {
    const words = new URLSearchParams(hash.slice(1));
    if (words.has("item")) return openItem(words.get("item"));
    state = initial();
    marked = null;
    for (const name of ["q", ...FILTERS, "sort"]) state[name] = words.get(name) ?? "";
    state.page = Math.max(1, Number.parseInt(words.get("page") ?? "1", 10) || 1);
    fillForm();
    update();
    byId("items").scrollIntoView();
  }

  function openItem(id) {
    marked = items.find((item) => item.id === id) ?? null;
    select();
    // What is filtered stays so, unless it hides the item.
    if (!shown.includes(marked)) {
      state = initial();
      select();
    }
    fillForm();
    state.page = 1 + Math.floor(Math.max(0, shown.indexOf(marked)) / PAGE);
    update();
    if (marked === null) {
      byId("count").textContent = `There is no item ${id} here. ${byId("count").textContent}`;
      byId("items").scrollIntoView();
      return;
    }
    const row = byId("rows").querySelector(".marked");
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  }

  function follow(event) {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const hash = link.getAttribute("href");
    // Not left to the browser: in a frame made of a text the address of the page is not that of the document.
    try {
      history.pushState(null, "", hash);
    } catch {
      // As above.
    }
    go(hash);
  }

  function go(hash) {
    if (hash.includes("=")) {
      if (byId("rows")) readAddress(hash);
      return;
    }
    const place = byId(hash.slice(1));
    if (place) {
      place.scrollIntoView();
      place.focus({ preventScroll: true });
    }
  }

  // By the way back, to an address that filters nothing.
  function arrive() {
    if (byId("rows") && !location.hash.includes("=")) {
      state = initial();
      marked = null;
      fillForm();
      update();
    }
    go(location.hash);
  }

  // ---- which items, in which order ----

  function searched(item) {
    item.search ??= [
      item.id,
      item.name,
      ...item.texts,
      ...item.groups,
      ...CLASSES.flatMap((side) => (item[side] === null ? [] : [className(item[side])])),
    ]
      .join("\n")
      .toLowerCase();
    return item.search;
  }

  function matches(item, words) {
    return (
      FILTERS.every((filter) => !state[filter] || valuesOf(item, filter).includes(state[filter])) &&
      words.every((word) => searched(item).includes(word))
    );
  }

  function sortKey(item, key) {
    if (key === "item") return item.name;
    if (key === "cell") return Object.keys(data.cells).indexOf(item.cell);
    if (CLASSES.includes(key)) return item[key] === null ? null : className(item[key]);
    return item[key];
  }

  function compare(first, second) {
    if (first === null || second === null) return (first === null) - (second === null);
    return typeof first === "number" ? first - second : collator.compare(first, second);
  }

  function select() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    shown = items.filter((item) => matches(item, words));
    const key = state.sort.replace(/^-/, "");
    if (!headers.has(key)) return;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const keyed = shown.map((item) => [sortKey(item, key), item]);
    // What is unknown comes last in either direction.
    keyed.sort(([a], [b]) => (a === null || b === null ? 1 : sign) * compare(a, b));
    shown = keyed.map(([, item]) => item);
  }

  // ---- drawing ----

  function update() {
    select();
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    state.page = Math.min(state.page, pages);
    const start = (state.page - 1) * PAGE;
    const here = shown.slice(start, start + PAGE);
    byId("rows").replaceChildren(...here.flatMap(rowsOf));
    const all = shown.length === items.length ? "" : ` that match, of ${count(items.length)} in all`;
    byId("count").textContent = shown.length
      ? `Items ${count(start + 1)} to ${count(start + here.length)} of ${count(shown.length)}${all}`
      : `No item matches, of ${count(items.length)} in all`;
    byId("page").textContent = `Page ${state.page} of ${pages}`;
    byId("pages").hidden = pages === 1;
    byId("previous").disabled = state.page === 1;
    byId("next").disabled = state.page === pages;
    for (const [key, header] of headers) {
      const direction = state.sort === key ? "ascending" : state.sort === `-${key}` ? "descending" : "none";
      header.setAttribute("aria-sort", direction);
    }
  }

  function rowsOf(item) {
    const row = make("tr", { role: "row" });
    for (const [key, header] of headers) {
      const cell = make("td", { role: "cell", class: key, "data-title": header.dataset.title }, ...contentOf(item, key));
      row.append(cell);
    }
    if (item === marked) {
      row.classList.add("marked");
      row.tabIndex = -1;
    }
    return item.explanation && !cards ? [row, explanationRow(item)] : [row];
  }

  function contentOf(item, key) {
    if (key === "item") return itemContent(item);
    if (key === "cell") return [make("span", { class: `badge ${item.cell}` }, data.cells[item.cell])];
    if (CLASSES.includes(key)) return [named(item[key] === null ? "–" : className(item[key]))];
    if (key.endsWith("_confidence")) return [percent(item[key])];
    return [item[key] === null ? "–" : item[key].toFixed(3)];
  }

  function itemContent(item) {
    const parts = item.texts.flatMap(textContent);
    if (cards) parts.push(pictures(item));
    const link = make("a", { class: "id", href: addressOf({ item: item.id }), title: "Link to this item" });
    link.append(named(item.name));
    return [...parts, link, ...item.groups.map((group) => named(group, { class: "chip" }))];
  }

  function pictures(item) {
    const place = make("div", { class: "pictures" });
    if (item.image) place.append(make("img", { class: "thumbnail", src: item.image, alt: item.name }));
    else place.append(make("p", { class: "side" }, "no thumbnail"));
    for (const side of item.explanation ? ["reference", "candidate"] : []) {
      const about = strongest(item.explanation, side).textContent;
      place.append(make("div", { title: about }, heatMap(item, side), make("p", { class: "side" }, SIDES[side])));
    }
    return place;
  }

  function textContent(text) {
    const whole = make("p", { class: "text", dir: "auto" }, text);
    if (text.length <= LONG) return [whole];
    const button = make("button", { type: "button", class: "more", "aria-expanded": "false" }, "Show all");
    whole.classList.add("clamped");
    button.addEventListener("click", () => {
      const open = !whole.classList.toggle("clamped");
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Show less" : "Show all";
    });
    return [whole, button];
  }

  // ---- explanations ----

  function levelOf(score) {
    const size = Math.abs(score);
    return size < 0.05 ? "" : `${score < 0 ? "n" : "p"}${Math.min(5, Math.ceil(5 * size))}`;
  }

  function explanationRow(item) {
    const panels = make("div", { class: "panels" }, panel(item, "reference"), panel(item, "candidate"));
    const target = named(className(item.explanation.target));
    const title = make("p", { class: "for" }, "What speaks for and against the answer ", target, ":");
    const cell = make("td", { role: "cell", colspan: headers.size }, title, panels);
    return make("tr", { role: "row", class: "explanation" }, cell);
  }

  function panel(item, side) {
    const found = item.explanation;
    const title = make("p", { class: "side" }, `${SIDES[side]}, which answers `, named(className(item[side])));
    const content = found.kind === "image" ? heatMap(item, side) : tokens(found, side);
    return make("div", {}, title, content, strongest(found, side));
  }

  function tokens(found, side) {
    const place = make("p", { class: "tokens", dir: "auto" });
    found.tokens.forEach(([text, spaced], index) => {
      const score = found[side][index] ?? 0;
      if (spaced && index) place.append(" ");
      place.append(
        make("span", { class: `token ${levelOf(score)}`, title: signed(score), "data-score": signed(score) }, text),
      );
    });
    return place;
  }

  function heatMap(item, side) {
    const [rows, columns] = item.explanation.shape;
    const size = { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" };
    const map = makeSvg("svg", size);
    let against = "";
    item.explanation[side].slice(0, rows * columns).forEach((score, index) => {
      const [x, y] = [index % columns, Math.floor(index / columns)];
      const level = levelOf(score);
      if (level) map.append(makeSvg("rect", { x, y, width: 1, height: 1, class: level }));
      if (level.startsWith("n")) against += `M${x + 0.2} ${y + 0.8}L${x + 0.8} ${y + 0.2}`;
    });
    map.append(makeSvg("path", { d: against, class: "hatch" }));
    const image = item.image ? [make("img", { src: item.image, alt: "" })] : [];
    const frame = make("div", { class: "heat", role: "img", "aria-label": `Heat map of the ${side}` }, ...image);
    frame.append(map);
    return frame;
  }

  function strongest(found, side) {
    const name = (index) =>
      found.kind === "image"
        ? `row ${1 + Math.floor(index / found.shape[1])}, column ${1 + (index % found.shape[1])}`
        : found.tokens[index]?.[0] ?? "";
    const ordered = found[side]
      .map((score, index) => [score, index])
      .filter(([score]) => levelOf(score))
      .sort(([a], [b]) => Math.abs(b) - Math.abs(a))
      .slice(0, found.kind === "image" ? 2 : STRONGEST);
    const place = make("p", { class: "strongest" }, "Strongest: ");
    ordered.forEach(([score, index], rank) => {
      if (rank) place.append(" · ");
      place.append(make("bdi", {}, name(index)), `\u00a0${signed(score)}`);
    });
    return place;
  }

  // ---- controls ----

  const headers = new Map();

  function sortButtons() {
    for (const header of document.querySelectorAll("#table th[data-key]")) {
      const key = header.dataset.key;
      const button = make("button", { type: "button" }, ...header.childNodes);
      header.dataset.title = button.textContent.trim();
      header.append(button);
      headers.set(key, header);
      button.addEventListener("click", () => {
        // Numbers from the largest, names from the first; then the other way; then as they were.
        const ways = NUMBERS.includes(key) ? [`-${key}`, key, ""] : [key, `-${key}`, ""];
        change({ sort: ways[(ways.indexOf(state.sort) + 1) % ways.length] });
      });
    }
  }

  function change(parts) {
    state = { ...state, page: 1, ...parts };
    marked = null;
    update();
    writeAddress();
  }

  function fillSelects() {
    for (const filter of FILTERS) {
      const place = byId("filters").elements[filter];
      if (!place || place.type === "checkbox") continue;
      const counts = new Map();
      for (const item of items) {
        for (const value of valuesOf(item, filter)) counts.set(value, 1 + (counts.get(value) ?? 0));
      }
      const named = [...counts].map(([value, n]) => [nameOf(filter, value), value, n]);
      if (filter !== "cell") named.sort(([a], [b]) => collator.compare(a, b));
      for (const [name, value, n] of named) place.append(make("option", { value }, `${name} (${count(n)})`));
    }
  }

  function nameOf(filter, value) {
    return filter === "cell" ? data.cells[value] : filter === "group" ? value : className(value);
  }

  function fillForm() {
    const fields = byId("filters").elements;
    fields.q.value = state.q;
    // An address may name what is not here: then the choice is blank, and no item matches.
    for (const filter of FILTERS) {
      if (fields[filter]?.type === "checkbox") fields[filter].checked = state[filter] === fields[filter].value;
      else if (fields[filter]) fields[filter].value = state[filter];
    }
  }

  function listen() {
    const form = byId("filters");
    let timer = 0;
    form.elements.q.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => change({ q: form.elements.q.value.trim() }), WAIT_MS);
    });
    form.addEventListener("change", ({ target }) => {
      const off = target.type === "checkbox" && !target.checked;
      if (FILTERS.includes(target.name)) change({ [target.name]: off ? "" : target.value });
      if (target.name === "scores") byId("table").classList.toggle("scores", target.checked);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      clearTimeout(timer);
      byId("table").classList.remove("scores");
      change(initial());
    });
    for (const [id, step] of [["previous", -1], ["next", 1]]) {
      byId(id).addEventListener("click", () => {
        change({ page: state.page + step });
        byId("count").scrollIntoView();
      });
    }
  }

  function theme() {
    const names = { "": "as the system", light: "light", dark: "dark" };
    const button = byId("theme");
    const set = (name) => {
      document.documentElement.dataset.theme = name;
      button.textContent = `Theme: ${names[name]}`;
    };
    let kept = "";
    // Storage is out of reach in a sandboxed frame.
    try {
      kept = localStorage.getItem("hf_compalign.theme") ?? "";
    } catch {
      // Then the choice lasts as long as the page.
    }
    set(Object.hasOwn(names, kept) ? kept : "");
    button.addEventListener("click", () => {
      const all = Object.keys(names);
      set(all[(all.indexOf(document.documentElement.dataset.theme) + 1) % all.length]);
      try {
        localStorage.setItem("hf_compalign.theme", document.documentElement.dataset.theme);
      } catch {
        // As above.
      }
    });
    byId("tools").hidden = false;
  }

  // What scrolls sideways must do so by keyboard too.
  function scrolling() {
    for (const frame of document.querySelectorAll(".scroll, .chart")) {
      if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0;
      else frame.removeAttribute("tabindex");
    }
  }

  theme();
  scrolling();
  addEventListener("resize", scrolling);
  document.addEventListener("toggle", scrolling, true);
  document.addEventListener("click", follow);
  addEventListener("hashchange", arrive);
  if (byId("rows")) {
    sortButtons();
    fillSelects();
    listen();
    byId("filters").hidden = false;
    byId("unscripted").hidden = true;
    update();
    if (location.hash.includes("=")) readAddress(location.hash);
  }
})();
