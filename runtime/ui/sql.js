// Questions in SQL; those that are saved stay in this browser.

import { query } from "./api.js";
import { say } from "./app.js";
import { count, field, h, invocationLink, said, span, table } from "./dom.js";

const SAVED = "perdure-queries";
const FIRST = {
  "What waits, and for what": "SELECT target, status, waiting_for, modified_at FROM sys_invocation\nWHERE status <> 'completed' ORDER BY modified_at LIMIT 50",
  "Failures of the last hour": "SELECT target, completion_failure, completed_at FROM sys_invocation\nWHERE completion_result = 'failure' AND julianday(completed_at) > julianday('now', '-1 hour') ORDER BY completed_at DESC LIMIT 50",
  "Longest queues": "SELECT service_name, service_key, acquired_by, queued FROM sys_locks ORDER BY queued DESC LIMIT 20",
};
const ROWS_MAX = 1000;

const own = () => {
  try { return JSON.parse(localStorage.getItem(SAVED) ?? "{}"); } catch { return {}; }
};
const saved = () => ({ ...FIRST, ...own() });
const keep = (queries) => localStorage.setItem(SAVED, JSON.stringify(queries));

export const sql = async () => {
  const area = h("textarea", { name: "statement", rows: 6, spellcheck: "false", "aria-label": "Statement", value: Object.values(FIRST)[0] });
  const answer = h("div", { id: "answer", "aria-live": "polite" });
  const name = h("input", { name: "name", autocomplete: "off" });
  const list = h("div", { class: "buttons", role: "group", "aria-label": "Saved queries" });
  const run = async (event) => {
    event?.preventDefault();
    answer.replaceChildren(h("p", { class: "empty" }, "…"));
    const began = performance.now();
    try {
      const rows = await query(area.value);
      const columns = Object.keys(rows[0] ?? {});
      answer.replaceChildren(
        h("p", { class: "hint" }, `${count(rows.length)} ${rows.length === 1 ? "row" : "rows"} in ${span((performance.now() - began) / 1000)}${rows.length > ROWS_MAX ? `; the first ${count(ROWS_MAX)} are shown` : ""}`),
        table("Answer", columns.map((column) => [column, (row) => cell(column, row[column]), columns.length > 0 && typeof rows[0][column] === "number"]),
          rows.slice(0, ROWS_MAX), "No rows."));
    } catch (error) {
      answer.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
  };
  const draw = () => list.replaceChildren(...Object.keys(saved()).map((title) => h("span", { class: "pair" },
    h("button", { type: "button", onclick: () => { area.value = saved()[title]; run(); } }, said(title, 60)),
    Object.hasOwn(own(), title) && h("button", { type: "button", "aria-label": `Forget ${title}`, onclick: () => {
      const queries = own();
      delete queries[title];
      keep(queries);
      draw();
    } }, "×"))));
  draw();
  area.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(event); });
  return [list, h("form", { onsubmit: run }, area,
    h("div", { class: "filters" }, h("button", { type: "submit", id: "run" }, "Run"),
      field("Save as", name),
      h("button", { type: "button", id: "keep", onclick: () => {
        if (!name.value.trim()) { say("Give it a name first.", true); name.focus(); return; }
        keep({ ...own(), [name.value.trim()]: area.value });
        name.value = "";
        draw();
      } }, "Save"))), answer];
};

const cell = (column, value) => {
  if (value === null || value === undefined) return h("span", { class: "empty" }, "null");
  if (typeof value === "string" && /^inv_[0-9a-f]{35}$/.test(value)) return invocationLink(value);
  return said(typeof value === "object" ? JSON.stringify(value) : value, 200);
};
