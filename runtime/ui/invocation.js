// One invocation: what it is, what it waits for, its journal as a picture and as a list, who called it, whom it called.

import { ask, query, quoted } from "./api.js";
import { act } from "./app.js";
import { ago, badge, h, hash, invocationLink, objectLink, payload, s, said, span, table } from "./dom.js";
import { waits } from "./overview.js";

const ENTRIES_MAX = 500;
const CALLS_MAX = 100;
const DEPTH_MAX = 20;
const CALL = "i.id, i.target, i.status, i.completion_result, i.created_at, i.completed_at, i.invoked_by_id";

const ACTIONS = [
  ["cancel", "Cancel", "It gets a cancellation, and may compensate."],
  ["kill", "Kill", "It ends at once: no compensation runs, and what it called goes on."],
  ["pause", "Pause", "It stays where it is until it is resumed."],
  ["resume", "Resume", "It goes on, at once."],
  ["restart-as-new", "Restart as new", "The same call, from the beginning, as another invocation."],
  ["purge", "Purge", "It is forgotten: its result, and its idempotency key."],
];
const possible = (action, status) => ({
  cancel: status !== "completed", kill: status !== "completed", pause: !["completed", "paused"].includes(status),
  resume: ["paused", "backing-off"].includes(status), "restart-as-new": true, purge: status === "completed",
})[action];

/** Asks first: none of these can be taken back. */
const confirmed = (question) => new Promise((resolve) => {
  const done = (answer) => () => { dialog.close(); dialog.remove(); resolve(answer); };
  const dialog = h("dialog", { "aria-label": "Sure?", oncancel: done(false) },
    h("p", null, question),
    h("div", { class: "buttons" }, h("button", { type: "button", onclick: done(false) }, "Leave it"),
      h("button", { type: "button", class: "danger", id: "sure", onclick: done(true) }, "Do it")));
  document.body.append(dialog);
  dialog.showModal();
});

const button = (id, status, [action, label, meaning]) => possible(action, status) && h("button", {
  type: "button", title: meaning, "data-action": action,
  class: ["kill", "purge"].includes(action) ? "danger" : null,
  onclick: async () => {
    if (["kill", "purge", "cancel"].includes(action) && !(await confirmed(`${label} ${id}? ${meaning}`))) return;
    await act(label, async () => {
      const answer = await ask("PATCH", `/invocations/${id}/${action}`);
      if (answer?.new_invocation_id) location.hash = hash("invocations", answer.new_invocation_id);
    });
  },
}, label);

const WIDTH = 900;
const ROW = 22;
const LABEL = 190;
const AXIS = 26;

/** The journal on an axis of time: a bar for what takes time, a tick for each turn; what is open reaches to now. */
const picture = (row, journal) => {
  const now = Date.now();
  const at = (iso) => (iso ? Date.parse(iso) : null);
  const begin = at(row.created_at);
  const entries = journal.filter((entry) => entry.appended_at);
  const end = Math.max(begin + 1, at(row.completed_at) ?? now, ...entries.map((entry) => at(entry.completed_at) ?? 0));
  const x = (time) => LABEL + ((Math.min(Math.max(time, begin), end) - begin) / (end - begin)) * (WIDTH - LABEL - 12);
  const bars = [{ name: "invocation", from: begin, to: at(row.completed_at), kind: row.completion_result ?? "open" },
    ...(row.running_at ? [{ name: "waited for its key", from: begin, to: at(row.running_at), kind: "wait" }] : []),
    ...entries.map((entry) => ({
      name: `${entry.index} ${entry.entry_type}${entry.name ? ` ${entry.name}` : ""}`,
      from: at(entry.appended_at), to: at(entry.completed_at) ?? (entry.completed ? at(entry.appended_at) : null),
      kind: entry.failure ? "failure" : entry.entry_type === "Sleep" ? "wait" : entry.completed ? "success" : "open",
    }))].slice(0, 120);
  const height = AXIS + bars.length * ROW + 8;
  const turns = [...new Map(entries.map((entry) => [entry.turn, at(entry.appended_at)])).values()];
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Timeline" },
    s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "timeline", role: "img",
      "aria-label": `${bars.length} lines over ${span((end - begin) / 1000)}; the journal below has them as text` },
    [0, 0.25, 0.5, 0.75, 1].map((part) => [
      s("line", { x1: x(begin + part * (end - begin)), x2: x(begin + part * (end - begin)), y1: AXIS - 6, y2: height, class: "grid" }),
      s("text", { x: x(begin + part * (end - begin)), y: 14, "text-anchor": part === 1 ? "end" : part ? "middle" : "start" },
        part ? `+${span((part * (end - begin)) / 1000)}` : "0"),
    ]),
    turns.map((time) => s("line", { x1: x(time), x2: x(time), y1: AXIS - 6, y2: AXIS, class: "turn" })),
    bars.map((bar, number) => {
      const y = AXIS + number * ROW;
      const left = x(bar.from);
      const took = ((bar.to ?? now) - bar.from) / 1000;
      return s("g", null, s("title", null, `${bar.name}: ${bar.to === null ? `for ${span(took)} by now` : span(took)}`),
        s("text", { x: 4, y: y + 15 }, bar.name.length > 26 ? `${bar.name.slice(0, 25)}…` : bar.name),
        s("rect", { x: left, y: y + 4, height: ROW - 8, rx: 3, width: Math.max(3, x(bar.to ?? now) - left), class: `bar ${bar.kind}` }));
    })));
};

const tree = (id, callers, calls) => {
  const below = (parent, seen) => {
    const found = calls.filter((one) => one.parent === parent && !seen.has(one.id));
    return found.length > 0 && h("ul", null, found.map((one) => h("li", null, line(one), below(one.id, new Set([...seen, one.id])))));
  };
  const line = (one) => [invocationLink(one.id), " ", said(one.target ?? one.called_as ?? "forgotten", 60), " ",
    one.status && badge(one.status), one.completion_result === "failure" && badge("failure")];
  const here = h("li", { "aria-current": "true" }, h("strong", null, "this one"), below(id, new Set([id])));
  return h("ul", { class: "tree" }, callers.reduce((inner, one) => h("li", null, line(one), h("ul", null, inner)), here));
};

export const invocation = async ([id]) => {
  const view = await ask("GET", `/invocations/${encodeURIComponent(id)}`);
  const named = quoted(id);
  const [[row], journal, callers, calls] = await Promise.all([
    query(`SELECT * FROM sys_invocation WHERE id = ${named}`),
    query(`SELECT "index", entry_type, name, completed, invoked_id, invoked_target, sleep_wakeup_at, turn, appended_at,
      completed_at, result, failure FROM sys_journal WHERE id = ${named} ORDER BY "index" LIMIT ${ENTRIES_MAX + 1}`),
    query(`WITH RECURSIVE up(id, parent, level) AS (SELECT id, invoked_by_id, 0 FROM sys_invocation WHERE id = ${named}
      UNION ALL SELECT i.id, i.invoked_by_id, level + 1 FROM up JOIN sys_invocation i ON i.id = up.parent WHERE level < ${DEPTH_MAX})
      SELECT ${CALL} FROM up JOIN sys_invocation i ON i.id = up.id WHERE level > 0 ORDER BY level`),
    view.status === "completed"
      // Its journal is not kept: those that it called know it, and all are looked at.
      ? query(`SELECT ${CALL}, invoked_by_id AS parent FROM sys_invocation i WHERE invoked_by_id = ${named}
          ORDER BY created_at LIMIT ${CALLS_MAX}`).catch(() => [])
      : query(`WITH RECURSIVE tree(id, parent, level, called_as) AS (SELECT ${named}, NULL, 0, NULL
          UNION SELECT j.invoked_id, tree.id, level + 1, j.invoked_target FROM tree JOIN sys_journal j ON j.id = tree.id
          WHERE j.entry_type IN ('Call', 'OneWayCall') AND j.invoked_id IS NOT NULL AND level < ${DEPTH_MAX} LIMIT ${CALLS_MAX})
          SELECT tree.parent, tree.called_as, tree.id AS id, i.target, i.status, i.completion_result
          FROM tree LEFT JOIN sys_invocation i ON i.id = tree.id WHERE level > 0 ORDER BY level`),
  ]);
  if (!row) return h("p", { class: "empty" }, "It was forgotten while it was looked at.");
  const facts = [
    ["Target", row.target_service_key ? objectLink(row.target_service_name, row.target_service_key) : null, said(row.target, 200)],
    ["Waits for", waits(row.waiting_for)],
    ["Last failure", row.last_failure && said(row.last_failure, 400)],
    ["Failed step", row.last_failure_related_command_name && said(row.last_failure_related_command_name)],
    ["Tries so far", row.retry_count || null],
    ["Next try", row.next_retry_at && ago(row.next_retry_at)],
    ["Queued behind it", view.queued_behind_it || null],
    ["Parked", view.parked && "its class is not served by this process"],
    ["Created", ago(row.created_at)], ["Starts", row.scheduled_start_at && !row.running_at && ago(row.scheduled_start_at)],
    ["Got its key", row.running_at && ago(row.running_at)], ["Ended", row.completed_at && ago(row.completed_at)],
    ["Idempotency key", row.idempotency_key && said(row.idempotency_key)],
    ["Said by its steps", Object.keys(view.progress).length ? said(JSON.stringify(view.progress), 400) : null],
  ].filter(([, ...values]) => values.some((value) => value !== null && value !== undefined && value !== "" && value !== false));
  return [
    h("p", { class: "lead" }, badge(row.status), row.completion_result === "failure" && badge("failure"), " ", h("code", null, id)),
    h("div", { class: "buttons", role: "group", "aria-label": "Actions" }, ACTIONS.map((action) => button(id, view.status, action))),
    h("dl", null, facts.map(([name, ...values]) => h("div", null, h("dt", null, name), h("dd", null, values.map((value) => [value, " "]))))),
    h("section", { id: "picture" }, h("h2", null, "Timeline"), picture(row, journal)),
    h("section", { id: "tree" }, h("h2", null, "Call tree"), tree(id, callers, calls)),
    h("section", { id: "journal" }, h("h2", null, "Journal"),
      view.status === "completed" && h("p", { class: "hint" }, "Of an invocation that has ended its input and its outcome are kept, the steps between them are not."),
      table("Journal", [
        ["#", (entry) => entry.index, true],
        ["Turn", (entry) => entry.turn ?? "", true],
        ["What", (entry) => [entry.entry_type, " ", entry.invoked_id ? invocationLink(entry.invoked_id, entry.invoked_target ?? undefined) : said(entry.name ?? "")]],
        ["When", (entry) => ago(entry.appended_at)],
        ["Took", (entry) => (entry.completed_at && entry.appended_at ? span((Date.parse(entry.completed_at) - Date.parse(entry.appended_at)) / 1000) : entry.sleep_wakeup_at ? ["until ", ago(entry.sleep_wakeup_at)] : entry.completed ? "" : "open")],
        ["Result", (entry) => (entry.failure ? said(entry.failure, 200) : said(entry.result ?? "", 200))],
      ], journal.slice(0, ENTRIES_MAX), "Nothing yet: it has not begun."),
      journal.length > ENTRIES_MAX && h("p", { class: "hint" }, `The first ${ENTRIES_MAX} entries; SQL has them all.`)),
    h("section", { id: "values" }, h("h2", null, "Input"), payload(row.input),
      row.completion_result && [h("h2", null, row.completion_result === "failure" ? "Failure" : "Output"),
        payload(row.completion_result === "failure" ? row.completion_failure : row.completion_value)]),
  ];
};
