// Objects: which there are of a class, and of one its state, its mailbox and who holds it.

import { ask, askText, part, query, quoted } from "./api.js";
import { act, refresh, say } from "./app.js";
import { confirmed } from "./confirmed.js";
import { ago, badge, count, field, h, hash, invocationLink, objectLink, payload, said, select, table } from "./dom.js";
import { members, pretty } from "./json.js";

const KEYS_MAX = 200;

export const objects = async ([service, key]) => (key === undefined ? keys(service) : one(service, key));

const keys = async (service) => {
  const { services } = await ask("GET", "/services");
  const names = services.filter((one) => one.ty !== "Service").map((one) => one.name);
  if (!names.length) return h("p", { class: "empty" }, "No class with keys is served.");
  const chosen = service ?? names[0];
  const rows = await query(`SELECT service_key, count(*) AS fields, sum(value_length) AS bytes FROM state
    WHERE service_name = ${quoted(chosen)} GROUP BY 1 ORDER BY 1 LIMIT ${KEYS_MAX + 1}`);
  const search = h("input", { name: "key", autocomplete: "off", spellcheck: "false", required: true });
  return [
    h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); location.hash = hash("objects", chosen, search.value); } },
      field("Class", fill(select("service", names.map((name) => [name, name]), chosen))),
      field("Key", search), h("button", { type: "submit" }, "Show")),
    table("Keys with state", [
      ["Object", (row) => objectLink(chosen, row.service_key)],
      ["Values", (row) => row.fields, true],
      ["Bytes", (row) => count(row.bytes), true],
    ], rows.slice(0, KEYS_MAX), "No object of this class has state."),
    rows.length > KEYS_MAX && h("p", { class: "hint" }, `The first ${KEYS_MAX} by name; others are shown by their key.`),
  ];
};

const fill = (choice) => {
  choice.addEventListener("change", () => { location.hash = hash("objects", choice.value); });
  return choice;
};

/** Its version, and its fields as the text that they are. */
const stored = async (path, key) => {
  const found = members(await askText("GET", `${path}/${part(key)}`));
  return { version: JSON.parse(found.get("version")), text: pretty(found.get("state")), entries: JSON.parse(found.get("entries")) };
};

const one = async (service, key) => {
  const path = `/services/${encodeURIComponent(service)}/state`;
  const where = `service_name = ${quoted(service)} AND service_key = ${quoted(key)}`;
  const [view, [lock], inbox] = await Promise.all([
    stored(path, key),
    query(`SELECT acquired_by, acquired_at, queued FROM sys_locks WHERE ${where}`),
    query(`SELECT b.id, b.sequence_number, b.created_at, i.target, i.status FROM sys_inbox b
      LEFT JOIN sys_invocation i ON i.id = b.id WHERE b.${where.replace(" AND ", " AND b.")} ORDER BY b.sequence_number LIMIT 100`),
  ]);
  return [
    h("p", { class: "lead" }, h("a", { href: hash("objects", service) }, service), " / ", said(key, 300)),
    h("p", null, lock ? ["Held by ", invocationLink(lock.acquired_by), " since ", ago(lock.acquired_at), "."] : "Nobody holds it."),
    h("section", { id: "state" }, h("h2", null, "State"), editor(path, key, view),
      Object.entries(view.entries).map(([name, number]) => h("p", { class: "hint" },
        said(name), `: ${count(number)} ${number === 1 ? "entry" : "entries"}; only its handlers change it, and SQL shows it, in the table state.`))),
    h("section", { id: "mailbox" }, h("h2", null, "Mailbox"),
      table("Mailbox", [
        ["#", (row) => row.sequence_number, true],
        ["Invocation", (row) => invocationLink(row.id)],
        ["Target", (row) => said(row.target ?? "", 60)],
        ["Status", (row) => row.status && badge(row.status)],
        ["Created", (row) => ago(row.created_at)],
      ], inbox, "Nothing waits for this key.")),
  ];
};

const editor = (path, key, view) => {
  const area = h("textarea", { name: "state", rows: Math.min(30, view.text.split("\n").length + 1), spellcheck: "false", dir: "auto", "aria-label": "State, as JSON", value: view.text });
  const beside = h("div", { id: "conflict" });
  const write = (version) => ask("POST", path, `{"object_key":${JSON.stringify(key)},"version":${JSON.stringify(version)},"state":${area.value}}`);
  const fits = () => {
    try {
      const state = JSON.parse(area.value);
      if (typeof state === "object" && state !== null && !Array.isArray(state)) return true;
      say('A state is an object, {"field": value, …}. Nothing was done.', true);
    } catch (error) {
      say(`This is no JSON: ${error.message}. Nothing was done.`, true);
    }
    return false;
  };
  const save = async (version) => {
    if (!fits()) return;
    // To the admin API no field at all means: cleared.
    const cleared = Object.keys(JSON.parse(area.value)).length === 0 && Object.keys(view.entries);
    if (cleared.length && !(await confirmed(`Without any field ${cleared.join(", ")} would be cleared too. Go on?`))) return;
    try {
      await write(version);
    } catch (error) {
      say(`Not saved: ${error.message}`, true);
      if (error.status === 409) await conflict(version);
      return;
    }
    await act("Save", async () => {});
  };
  const conflict = async (version) => {
    let now;
    try { now = await stored(path, key); } catch { return; }
    if (now.version === version) return; // it is in use, which was said
    beside.replaceChildren(h("h3", { tabindex: -1 }, "As it is by now"), payload(now.text),
      h("p", { class: "hint" }, "It was changed since you began; what you have written still stands above. Take over what you need, or overwrite it."),
      h("div", { class: "buttons" },
        h("button", { type: "button", id: "take", onclick: refresh }, "Take this one"),
        h("button", { type: "button", class: "danger", id: "overwrite", onclick: () => save(now.version) }, "Overwrite with mine")));
    beside.firstChild.focus();
  };
  const clear = async () => {
    if (!(await confirmed(`Clear ${key.slice(0, 200)}? All its fields, Lists and Maps are gone then.`))) return;
    await act("Clear", () => ask("DELETE", `${path}/${part(key)}?version=${encodeURIComponent(view.version)}`));
  };
  return [area, h("div", { class: "buttons" },
    h("button", { type: "button", id: "save", onclick: () => save(view.version) }, "Save"),
    h("button", { type: "button", class: "danger", id: "clear", onclick: clear }, "Clear")), beside];
};
