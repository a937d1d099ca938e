// A form to call a handler, made from the schema of what it takes.

import { ask } from "./api.js";
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

/** A control for one value, and how it is read back as JSON. */
const control = (name, schema, root) => {
  const one = resolved(schema, root);
  const type = Array.isArray(one.type) ? one.type[0] : one.type;
  if (type === "boolean") {
    const input = h("input", { type: "checkbox", name, checked: one.default === true });
    return [input, () => input.checked];
  }
  if (one.enum) {
    const input = select(name, one.enum.map((value) => [JSON.stringify(value), String(value)]), JSON.stringify(one.default ?? one.enum[0]));
    return [input, () => JSON.parse(input.value)];
  }
  if (type === "integer" || type === "number") {
    const input = h("input", { name, inputmode: "decimal", value: String(example(schema, root) ?? ""), autocomplete: "off" });
    return [input, () => JSON.parse(input.value)];
  }
  if (type === "string" && !one.format) {
    const input = h("input", { name, value: one.default ?? "", autocomplete: "off", dir: "auto" });
    return [input, () => input.value];
  }
  const input = h("textarea", { name, rows: 4, spellcheck: "false", dir: "auto", value: JSON.stringify(example(schema, root) ?? "", null, 2) });
  return [input, () => JSON.parse(input.value)];
};

/** Fields for an object of few simple properties, or one field for the whole of it. */
const inputs = (schema) => {
  const top = resolved(schema, schema);
  if (top.type === "object" && top.properties && Object.keys(top.properties).length <= 12) {
    const required = top.required ?? [];
    const parts = Object.entries(top.properties).map(([name, part]) => [name, ...control(name, part, schema), part]);
    return [parts.map(([name, input]) => field(required.includes(name) ? name : `${name} (may be left)`, input)),
      () => Object.fromEntries(parts.filter(([name, input]) => required.includes(name) || input.type === "checkbox" || input.value !== "")
        .map(([name, , read]) => [name, read()]))];
  }
  const [input, read] = control("argument", schema, schema);
  return [[field("Argument", input)], read];
};

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
  const [fields, read] = chosen.input_json_schema ? inputs(chosen.input_json_schema) : [[], () => undefined];
  const send = async (event) => {
    event.preventDefault();
    let body;
    try { body = read(); } catch (error) { say(`This is no JSON: ${error.message}. Nothing was sent.`, true); return; }
    const parts = [cls.name, ...(key ? [key.value] : []), chosen.name].map(encodeURIComponent).join("/");
    const later = delay.value ? `?delay=${encodeURIComponent(delay.value)}` : "";
    try {
      const { invocationId } = await ask("POST", `/ui/send/${parts}${later}`, body === undefined ? "" : JSON.stringify(body));
      location.hash = hash("invocations", invocationId);
    } catch (error) {
      say(`Not sent: ${error.message}`, true);
    }
  };
  return h("form", { class: "call", onsubmit: send },
    field("Handler", choice),
    chosen.documentation && h("p", { class: "hint" }, chosen.documentation),
    key && field("Key", key), fields, field("Delay", delay),
    h("button", { type: "submit" }, "Send"),
    chosen.input_json_schema && h("details", { id: "schema" }, h("summary", null, "What it takes, as JSON Schema"), payload(JSON.stringify(chosen.input_json_schema))));
};
