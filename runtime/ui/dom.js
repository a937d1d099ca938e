// Elements are made here and nowhere else, and text only ever becomes text: a key or a payload may hold anything.

import { pretty } from "./json.js";

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

/** h("a", {href: "#/"}, "text", other elements …); `onclick` and its like are listeners. */
export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** What a stranger wrote, isolated from the direction of the text around it, and cut for lists. */
export const said = (text, limit = 120) => {
  const whole = String(text);
  const shown = whole.length > limit ? `${whole.slice(0, limit)}…` : whole;
  return h("bdi", { title: shown === whole ? null : whole.slice(0, 2000) }, shown.replace(/[\u0000-\u001f\u007f]/g, "\u00b7"));
};

/** A table; `columns` are [heading, row => cell, is it a number]. */
export const table = (caption, columns, rows, empty) =>
  rows.length === 0
    ? h("p", { class: "empty" }, empty)
    : h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
        h("table", { role: "table" }, // the roles: on a phone a row is a card, and would be no row any more
          h("caption", { class: "hidden" }, caption),
          h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([heading, , number]) => h("th", { scope: "col", role: "columnheader", class: number ? "number" : null }, heading)))),
          h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" },
            columns.map(([heading, cell, number]) => h("td", { role: "cell", class: number ? "number" : null, "data-heading": heading }, cell(row))))))));

export const field = (label, control) => h("label", null, h("span", null, label), control);

export const select = (name, options, value) =>
  h("select", { name }, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));

/** Values of any size: pretty if they are JSON, and folded if they are long. */
export const payload = (text) => {
  if (text === null || text === undefined) return h("p", { class: "empty" }, "nothing");
  const shown = pretty(String(text));
  const limit = 20_000;
  if (shown.length <= limit) return h("pre", { dir: "auto" }, shown);
  const pre = h("pre", { dir: "auto" }, `${shown.slice(0, limit)}…`);
  const all = h("button", { type: "button", onclick: () => { pre.textContent = shown; all.remove(); } },
    `Show all ${count(shown.length)} characters`);
  return h("div", null, pre, all);
};

/** A number for people; in one language, as all else here. */
export const count = (number) => Number(number).toLocaleString("en");

const KINDS = {
  running: "good", ready: "good", completed: "quiet", suspended: "calm", scheduled: "calm", pending: "calm",
  "backing-off": "bad", paused: "bad", failure: "bad", success: "quiet",
};
export const badge = (status) => h("span", { class: `badge ${KINDS[status] ?? "calm"}` }, status);

export const ago = (iso, now = Date.now()) => {
  if (!iso) return "";
  const seconds = (now - Date.parse(iso)) / 1000;
  return h("time", { datetime: iso, title: iso }, seconds >= 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`);
};

export const span = (seconds) => {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  if (seconds < 63_072_000) return `${Math.round(seconds / 86_400)} days`;
  return `${Math.round(seconds / 31_536_000)} years`;
};

export const hash = (...parts) => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
export const invocationLink = (id, text) => h("a", { href: hash("invocations", id), class: "id" }, text ?? `${id.slice(0, 16)}…`);
export const objectLink = (service, key) => h("a", { href: hash("objects", service, key) }, said(`${service}/${key}`, 60));
