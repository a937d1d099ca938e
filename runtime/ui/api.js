// The admin API, asked from here and nowhere else.

import { h } from "./dom.js";

const TOKEN = "perdure-admin-token";

export class Problem extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** Kept as long as the tab is open. */
const askForToken = (wrong) => new Promise((resolve) => {
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true });
  const dialog = h("dialog", { id: "token", "aria-label": "Token" },
    h("form", { method: "dialog", onsubmit: (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, input.value.trim());
      dialog.close();
      dialog.remove();
      resolve();
    } },
    h("h2", null, "Token"),
    h("p", null, wrong ? "That token does not open this port." : "This admin port asks for a token: a line of the file given with --admin-token-file."),
    h("label", null, h("span", null, "Token"), input),
    h("button", { type: "submit" }, "Go on")));
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
});

let asking = null;

export const ask = async (method, path, body) => {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { accept: "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    if (method !== "GET") headers["content-type"] = "application/json";
    if (path.startsWith("/ui/send/")) headers["idempotency-key"] = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    let answer;
    try {
      answer = await fetch(path, { method, headers, body, redirect: "error" });
    } catch {
      throw new Problem(0, "the admin port does not answer: is the process running?");
    }
    if (answer.status === 401) {
      asking ??= askForToken(Boolean(token)).finally(() => { asking = null; });
      await asking;
      continue;
    }
    const text = await answer.text();
    let value = null;
    try { value = text ? JSON.parse(text) : null; } catch { value = text; }
    if (!answer.ok) throw new Problem(answer.status, value?.message ?? `${answer.status} ${answer.statusText}`, value);
    return value;
  }
};

/** Rows of an SQL statement. */
export const query = async (statement) => (await ask("POST", "/query", JSON.stringify({ query: statement }))).rows;

/** A string as SQL has it; one that no statement may hold, by its bytes. */
export const quoted = (text) =>
  /[\u0000-\u001f]/.test(text)
    ? `CAST(x'${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}' AS TEXT)`
    : `'${text.replaceAll("'", "''")}'`;
