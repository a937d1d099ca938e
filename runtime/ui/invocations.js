// A list of invocations, filtered; the filter is in the address, so that it can be sent to somebody.

import { query, quoted } from "./api.js";
import { ago, badge, field, h, invocationLink, said, select, table } from "./dom.js";
import { waits } from "./waits.js";

const LIMIT = 100;
const STATUSES = ["running", "ready", "suspended", "pending", "backing-off", "paused", "scheduled", "completed"];
const COLUMNS = { service: "target_service_name", handler: "target_handler_name", key: "target_service_key" };

const condition = (parameters) => {
  const all = [];
  for (const [name, column] of Object.entries(COLUMNS)) {
    if (parameters.get(name)) all.push(`${column} = ${quoted(parameters.get(name))}`);
  }
  const statuses = (parameters.get("status") ?? "").split(",").filter((one) => STATUSES.includes(one));
  if (statuses.length) all.push(`status IN (${statuses.map(quoted).join(", ")})`);
  if (parameters.get("result")) all.push(`completion_result = ${quoted(parameters.get("result"))}`);
  return all.length ? `WHERE ${all.join(" AND ")}` : "";
};

const why = (row) => {
  const failure = row.completion_failure ?? row.last_failure;
  return [failure && said(failure, 100), failure && row.status !== "completed" && h("br"), row.status !== "completed" && waits(row.waiting_for)];
};

export const invocations = async (_, parameters) => {
  const rows = await query(`SELECT id, target, status, completion_result, completion_failure, waiting_for, last_failure, created_at, modified_at
    FROM sys_invocation ${condition(parameters)} ORDER BY created_at DESC LIMIT ${LIMIT + 1}`);
  const input = (name) => h("input", { name, value: parameters.get(name) ?? "", autocomplete: "off", spellcheck: "false" });
  const status = parameters.get("status") ?? "";
  const form = h("form", { class: "filters", role: "search", onsubmit: (event) => {
    event.preventDefault();
    const wanted = [...new FormData(form)].filter(([, value]) => value !== "");
    location.hash = `#/invocations?${new URLSearchParams(wanted)}`;
  } },
  field("Class", input("service")), field("Handler", input("handler")), field("Key", input("key")),
  field("Status", select("status", [["", "any"], ...(status.includes(",") ? [[status, status.replaceAll(",", ", ")]] : []),
    ...STATUSES.map((one) => [one, one])], status)),
  field("Result", select("result", [["", "any"], ["success", "success"], ["failure", "failure"]], parameters.get("result") ?? "")),
  h("button", { type: "submit" }, "Filter"));
  return [form, table("Invocations", [
    ["Invocation", (row) => invocationLink(row.id)],
    ["Target", (row) => said(row.target, 80)],
    ["Status", (row) => [badge(row.status), row.completion_result === "failure" && badge("failure")]],
    ["Waits for, or failed with", (row) => why(row)],
    ["Created", (row) => ago(row.created_at)],
    ["Last progress", (row) => ago(row.modified_at)],
  ], rows.slice(0, LIMIT), "None, with this filter."),
  rows.length > LIMIT && h("p", { class: "hint" }, `The newest ${LIMIT}; a filter finds others.`)];
};
