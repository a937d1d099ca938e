// What is called because it is time.

import { ask } from "./api.js";
import { act } from "./app.js";
import { ago, badge, h, invocationLink, said, table } from "./dom.js";

const button = (id, action, label) => h("button", { type: "button", "data-action": `${action} ${id}`,
  onclick: () => act(label, () => ask("PATCH", `/schedules/${encodeURIComponent(id)}/${action}`)) }, label);

export const schedules = async () => {
  const found = (await ask("GET", "/schedules")).schedules;
  return table("Schedules", [
    ["Schedule", (row) => said(row.id, 80)],
    ["When", (row) => h("code", null, row.timing)],
    ["Next", (row) => (row.paused ? badge("paused") : row.served === false ? "not served" : row.next_at ? ago(row.next_at) : "never again")],
    ["Last", (row) => [row.last_fired_at ? ago(row.last_fired_at) : "", " ", row.last_invocation && invocationLink(row.last_invocation), row.running && badge("running")]],
    ["Skipped", (row) => ago(row.last_skipped_at)],
    ["", (row) => h("div", { class: "buttons" }, row.paused ? button(row.id, "resume", "Resume") : button(row.id, "pause", "Pause"), button(row.id, "trigger", "Trigger"))],
  ], found, "No class declares a schedule.");
};
