// One invocation: what it is, what it waits for, its journal as a picture and as a list, who called it, whom it called.

import { ask, query, quoted } from "./api.js";
import { act } from "./app.js";
import { confirmed } from "./confirmed.js";
import { ago, badge, h, hash, invocationLink, objectLink, payload, said, span, table } from "./dom.js";
import { timeline } from "./timeline.js";
import { waits } from "./waits.js";

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
  resume: ["paused", "backing-off"].includes(status), "restart-as-new": status === "completed", purge: status === "completed",
})[action];

const button = (id, status, [action, label, meaning]) => possible(action, status) && h("button", {
  type: "button", title: meaning, "data-action": action,
  class: ["kill", "purge"].includes(action) ? "danger" : null,
  onclick: async () => {
    if (["kill", "purge", "cancel"].includes(action) && !(await confirmed(`${label} ${id}? ${meaning}`))) return;
    let next = null; // where to go when this one is no more to be looked at
    await act(label, async () => {
      const answer = await ask("PATCH", `/invocations/${id}/${action}`);
      if (answer?.new_invocation_id) next = hash("invocations", answer.new_invocation_id);
      if (action === "purge") next = "#/invocations";
    }, () => next);
  },
}, label);

const took = (entry) => {
  if (entry.entry_type === "Input" || entry.entry_type === "Output") return "";
  if (entry.completed_at) return span((Date.parse(entry.completed_at) - Date.parse(entry.appended_at)) / 1000);
  if (entry.sleep_wakeup_at) return ["due ", ago(entry.sleep_wakeup_at)];
  return entry.completed ? "" : "open";
};

const tree = (id, target, callers, calls) => {
  const below = (parent, seen) => {
    const found = calls.filter((one) => one.parent === parent && !seen.has(one.id));
    return found.length > 0 && h("ul", null, found.map((one) => h("li", null, line(one), below(one.id, new Set([...seen, one.id])))));
  };
  const line = (one) => [invocationLink(one.id), " ", said(one.target ?? one.called_as ?? "forgotten", 60), " ",
    one.status && badge(one.status), one.completion_result === "failure" && badge("failure")];
  const here = h("li", { "aria-current": "true" }, h("strong", null, said(target, 60)), " ← this one", below(id, new Set([id])));
  return h("ul", { class: "tree" }, callers.reduce((inner, one) => h("li", null, line(one), h("ul", null, inner)), here));
};

export const invocation = async ([id]) => {
  const view = await ask("GET", `/invocations/${encodeURIComponent(id)}`);
  const named = quoted(id);
  const [[row], journal, callers, calls] = await Promise.all([
    query(`SELECT * FROM sys_invocation WHERE id = ${named}`),
    query(`SELECT "index", entry_type, name, completed, invoked_id, invoked_target, promise_name, sleep_wakeup_at, turn, appended_at,
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
    ["Target", said(row.target, 200)],
    ["Object", row.target_service_key && objectLink(row.target_service_name, row.target_service_key)],
    ["Waits for", row.waiting_for && row.waiting_for !== "[]" && waits(row.waiting_for, 20)],
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
    h("section", { id: "picture" }, h("h2", null, "Timeline"), timeline(row, journal)),
    h("section", { id: "tree" }, h("h2", null, "Call tree"), tree(id, row.target, callers, calls)),
    h("section", { id: "journal" }, h("h2", null, "Journal"),
      view.status === "completed" && h("p", { class: "hint" }, "Of an invocation that has ended its input and its outcome are kept, the steps between them are not."),
      table("Journal", [
        ["#", (entry) => entry.index, true],
        ["Turn", (entry) => entry.turn ?? "", true],
        ["What", (entry) => [entry.entry_type, " ", entry.invoked_id
          ? invocationLink(entry.invoked_id, entry.invoked_target ? said(entry.invoked_target, 80) : undefined)
          : said(entry.name ?? entry.promise_name ?? "")]],
        ["When", (entry) => ago(entry.appended_at)],
        ["Took", (entry) => took(entry)],
        ["Result", (entry) => (entry.failure ? said(entry.failure, 200) : said(entry.result ?? "", 200))],
      ], journal.slice(0, ENTRIES_MAX), "Nothing yet: it has not begun."),
      journal.length > ENTRIES_MAX && h("p", { class: "hint" }, `The first ${ENTRIES_MAX} entries; SQL has them all.`)),
    h("section", { id: "values" }, h("h2", null, "Input"), payload(row.input),
      row.completion_result && [h("h2", null, row.completion_result === "failure" ? "Failure" : "Output"),
        payload(row.completion_result === "failure" ? row.completion_failure : row.completion_value)]),
  ];
};
