// A form to call a handler, made from the schema of what it takes.

import { ask, part } from "./api.js";
import { say } from "./app.js";
import { field, h, hash, payload, select } from "./dom.js";

const resolved = (schema, root) => (schema?.$ref ? root.$defs?.[schema.$ref.split("/").pop()] ?? {} : schema ?? {});

/** An example of what fits, to begin with; better than an empty field. */
export const example = (schema, root = schema, depth = 0) => {
  const one = resolved(schema, root);
  if (depth > 4) return null;
  if ("default" in one) return one.default;
  if (one.const !== undefined) return one.const;
  if (one.enum) return one.enum[0];
  if (one.anyOf) return example(one.anyOf.find((each) => each.type !== "null") ?? one.anyOf[0], root, depth + 1);
  switch (Array.isArray(one.type) ? one.type[0] : one.type) {
    case "object": return Object.fromEntries(Object.entries(one.properties ?? {})
      .filter(([name]) => (one.required ?? Object.keys(one.properties ?? {})).includes(name))
      .map(([name, part]) => [name, example(part, root, depth + 1)]));
    case "array": return (one.prefixItems ?? []).map((part) => example(part, root, depth + 1));
    case "integer": case "number": return one.minimum ?? 0;
    case "boolean": return false;
    case "null": return null;
    default: return "";
  }
};

const checked = (text) => {
  JSON.parse(text);
  return text;
};

/** What is left of "this or null", where leaving it empty says null. */
const unlessNull = (schema, root) => {
  const one = resolved(schema, root);
  const others = (one.anyOf ?? []).filter((each) => resolved(each, root).type !== "null");
  return one.anyOf && others.length === 1 && others.length < one.anyOf.length
    ? { ...resolved(others[0], root), default: one.default ?? undefined, nullable: true } : one;
};

/** A control for one value, and how it is read back as the text of its JSON. */
const control = (name, schema, root) => {
  const one = unlessNull(schema, root);
  const type = Array.isArray(one.type) ? one.type[0] : one.type;
  if (type === "boolean") {
    const input = h("input", { type: "checkbox", name, checked: one.default === true });
    return [input, () => String(input.checked)];
  }
  if (one.enum) {
    const first = one.nullable || "default" in one ? [["", "—"]] : [];
    const input = select(name, [...first, ...one.enum.map((value) => [JSON.stringify(value), String(value)])], first.length ? "" : JSON.stringify(one.enum[0]));
    return [input, () => input.value || "null"];
  }
  if (type === "integer" || type === "number") {
    const input = h("input", { name, inputmode: "decimal", value: one.nullable ? "" : String(example(one, root) ?? ""), autocomplete: "off" });
    return [input, () => (one.nullable && !input.value ? "null" : checked(input.value))];
  }
  if (type === "string") {
    const input = h("input", { name, value: one.default ?? "", autocomplete: "off", dir: "auto", placeholder: PLACEHOLDERS[one.format] ?? one.format });
    return [input, () => (one.nullable && !input.value ? "null" : JSON.stringify(input.value))];
  }
  const input = h("textarea", { name, rows: 6, spellcheck: "false", dir: "auto", value: JSON.stringify(example(schema, root) ?? "", null, 2) });
  return [input, () => checked(input.value)];
};

const PLACEHOLDERS = { "date-time": "2026-01-31T09:00:00Z", duration: "PT1H30M", date: "2026-01-31", time: "09:00:00" };

/** Fields for an object of few properties, or one for the whole of it; and how they are read back as one JSON text. */
const inputs = (schema) => {
  const top = resolved(schema, schema);
  if (top.type === "object" && top.properties && Object.keys(top.properties).length <= 12) {
    const required = top.required ?? [];
    const parts = Object.entries(top.properties).map(([name, part]) => [name, ...control(name, part, schema)]);
    return [parts.map(([name, input]) => field(required.includes(name) ? name : `${name} (optional)`, input)),
      () => `{${parts.filter(([name, input]) => required.includes(name) || input.type === "checkbox" || input.value !== "")
        .map(([name, , read]) => `${JSON.stringify(name)}:${read()}`).join(",")}}`];
  }
  const [input, read] = control("argument", schema, schema);
  return [[field("Argument", input)], read];
};

/** crypto.randomUUID is there on https and localhost only. */
const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export const call = async ([service, handler]) => {
  const { services } = await ask("GET", "/services");
  const handlers = services.flatMap((one) => one.handlers.filter((each) => each.public).map((each) => [one, each]));
  if (!handlers.length) return h("p", { class: "empty" }, "No handler can be called from outside.");
  const [cls, chosen] = handlers.find(([one, each]) => one.name === service && each.name === handler) ?? handlers[0];
  const named = ([one, each]) => `${one.name}/${each.name}`;
  const choice = select("handler", handlers.map((one) => [named(one), named(one)]), named([cls, chosen]));
  choice.addEventListener("change", () => { location.hash = hash("call", ...choice.value.split("/")); });
  const key = cls.ty === "Service" ? null : h("input", { name: "key", required: true, autocomplete: "off", spellcheck: "false", dir: "auto" });
  const delay = h("input", { name: "delay", autocomplete: "off", placeholder: "at once; or 10s, 5m, 1h" });
  // Of a call without one the outcome is not kept, and there would be nothing to look at.
  const idempotencyKey = h("input", { name: "idempotency-key", required: true, autocomplete: "off", spellcheck: "false", value: random() });
  const [fields, read] = chosen.input_json_schema ? inputs(chosen.input_json_schema) : [[], () => ""];
  const send = async (event) => {
    event.preventDefault();
    let body;
    try { body = read(); } catch (error) { say(`This is no JSON: ${error.message}. Nothing was sent.`, true); return; }
    const later = delay.value ? `?delay=${encodeURIComponent(delay.value)}` : "";
    try {
      const path = [cls.name, ...(key ? [key.value] : []), chosen.name].map(part).join("/");
      const { invocationId } = await ask("POST", `/ui/send/${path}${later}`, body, { "idempotency-key": idempotencyKey.value });
      location.hash = hash("invocations", invocationId);
    } catch (error) {
      say(`Not sent: ${error.message}`, true);
    }
  };
  return h("form", { class: "call", onsubmit: send },
    field("Handler", choice),
    chosen.documentation && h("p", { class: "hint" }, chosen.documentation),
    key && field("Key", key), fields, field("Delay (optional)", delay),
    h("details", { id: "more" }, h("summary", null, "Idempotency key"), field("Idempotency key", idempotencyKey),
      h("p", { class: "hint" }, "The same one again is the same call: it is made once, and its outcome is kept.")),
    h("button", { type: "submit" }, "Send"),
    chosen.input_json_schema && h("details", { id: "schema" }, h("summary", null, "What it takes, as JSON Schema"), payload(JSON.stringify(chosen.input_json_schema))));
};
