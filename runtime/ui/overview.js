// What is served, how much of it, how fast, and what is stuck.

import { ask, askText, query } from "./api.js";
import { ago, badge, count, h, invocationLink, objectLink, said, table } from "./dom.js";
import { waits } from "./waits.js";

const STUCK_AFTER = "-10 minutes";

const COUNTS = `SELECT target_service_name AS service, target_handler_name AS handler, status, count(*) AS number
  FROM sys_invocation GROUP BY 1, 2, 3`;
const STUCK = `SELECT id, target, status, waiting_for, last_failure, retry_count, modified_at FROM sys_invocation
  WHERE status IN ('paused', 'backing-off') OR (status IN ('suspended', 'pending', 'ready', 'running')
    AND julianday(modified_at) < julianday('now', '${STUCK_AFTER}'))
  ORDER BY status NOT IN ('paused', 'backing-off'), modified_at LIMIT 20`;
const HELD = "SELECT service_name, service_key, acquired_by, queued FROM sys_locks WHERE queued > 0 ORDER BY queued DESC LIMIT 10";

/** Counters of /metrics by their labels: the page draws rates from two looks at them. */
let before = null;
const endings = async () => {
  const text = await askText("GET", "/metrics", undefined, { accept: "text/plain" });
  const counts = new Map();
  for (const line of text.split("\n")) {
    const found = /^perdure_invocations_ended_total\{(.*)\} (\S+)$/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...found[1].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    const key = `${labels.service}/${labels.handler}`;
    counts.set(key, (counts.get(key) ?? 0) + Number(found[2]));
  }
  const now = performance.now();
  const rates = before && new Map([...counts].map(([key, count]) => [key, (count - (before.counts.get(key) ?? 0)) / ((now - before.at) / 1000)]));
  if (!before || now - before.at > 2000) before = { counts, at: now };
  return rates;
};

const kind = ({ ty, of, stream }) => [of, of !== "Service" && ty === "Shared" && "shared", stream && "stream"].filter(Boolean).join(", ");

export const overview = async () => {
  const [{ services }, counts, stuck, held, rates] = await Promise.all(
    [ask("GET", "/services"), query(COUNTS), query(STUCK), query(HELD), endings()]);
  const number = (service, handler, statuses) => counts
    .filter((row) => row.service === service && row.handler === handler && statuses.includes(row.status))
    .reduce((sum, row) => sum + row.number, 0);
  const open = (statuses) => (row) => {
    const found = number(row.service, row.name, statuses);
    const filter = new URLSearchParams({ service: row.service, handler: row.name, status: statuses.join(",") });
    return found ? h("a", { href: `#/invocations?${filter}` }, count(found)) : "0";
  };
  const handlers = services.flatMap((service) => service.handlers.map((handler) => ({ service: service.name, of: service.ty, ...handler })));
  return [
    h("section", { id: "stuck" }, h("h2", null, "Stuck"),
      h("p", { class: "hint" }, "Paused, failing and tried again, or without progress for ten minutes."),
      table("Stuck invocations", [
        ["Invocation", (row) => invocationLink(row.id)],
        ["Target", (row) => said(row.target, 60)],
        ["Status", (row) => badge(row.status)],
        ["Why", (row) => [row.last_failure && [said(row.last_failure, 160), h("br")], waits(row.waiting_for)]],
        ["Tries", (row) => row.retry_count, true],
        ["Last progress", (row) => ago(row.modified_at)],
      ], stuck, "Nothing is stuck.")),
    held.length > 0 && h("section", null, h("h2", null, "Waited for"),
      table("Keys that others wait for", [
        ["Object", (row) => objectLink(row.service_name, row.service_key)],
        ["Held by", (row) => invocationLink(row.acquired_by)],
        ["Waiting", (row) => row.queued, true],
      ], held, "")),
    h("section", { id: "handlers" }, h("h2", null, "Handlers"),
      table("Handlers", [
        ["Handler", (row) => h("a", { href: `#/call/${encodeURIComponent(row.service)}/${encodeURIComponent(row.name)}` }, `${row.service}/${row.name}`)],
        ["Kind", kind],
        ["Ended/s", (row) => (rates ? (rates.get(`${row.service}/${row.name}`) ?? 0).toFixed(1) : "…"), true],
        ["Running", open(["running", "ready"]), true],
        ["Waiting", open(["suspended", "scheduled"]), true],
        ["Queued", open(["pending"]), true],
        ["Failing", open(["backing-off", "paused"]), true],
        ["Kept", open(["completed"]), true],
      ], handlers, "No class is served.")),
  ];
};
