// What is called because it is time.

import { ask } from "./api.js";
import { act, say } from "./app.js";
import { ago, badge, h, invocationLink, said, span, table } from "./dom.js";

const button = (id, action, label) => h("button", { type: "button", "data-action": `${action} ${id}`, "aria-label": `${label} ${id}`,
  onclick: async () => {
    let made;
    await act(`${label} ${id}`, async () => { made = await ask("PATCH", `/schedules/${encodeURIComponent(id)}/${action}`); });
    if (made?.invocation_id) say(["Triggered as ", invocationLink(made.invocation_id)]);
  } }, label);

const more = (row) => [
  row.target && row.target !== row.id && `calls ${row.target}`, row.jitter_seconds && `within ${span(row.jitter_seconds)}`,
  row.overlap && `overlap: ${row.overlap}`, row.catch_up && `missed: ${row.catch_up}`,
].filter(Boolean).join(", ");

export const schedules = async () => {
  const found = (await ask("GET", "/schedules")).schedules;
  return table("Schedules", [
    ["Schedule", (row) => [said(row.id, 80), h("br"), h("span", { class: "hint" }, more(row))]],
    ["When", (row) => h("code", null, row.timing)],
    ["Next", (row) => (row.paused ? badge("paused") : row.served === false ? "its class is not served" : row.next_at ? ago(row.next_at) : "never again")],
    ["Last", (row) => [row.last_fired_at ? ago(row.last_fired_at) : "", " ", row.last_invocation && invocationLink(row.last_invocation), row.running && badge("running")]],
    ["Last skipped", (row) => ago(row.last_skipped_at)],
    ["Actions", (row) => h("div", { class: "buttons" }, row.paused ? button(row.id, "resume", "Resume") : button(row.id, "pause", "Pause"), button(row.id, "trigger", "Trigger"))],
  ], found, "No class declares a schedule.");
};
