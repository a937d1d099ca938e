// The admin API, asked from here and nowhere else.

import { h } from "./dom.js";
import { parsed } from "./json.js";

const TOKEN = "perdure-admin-token";
const BUSY_TRIES = 5;
const BUSY_MS = 400;

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Kept as long as the tab is open. */
const askForToken = (wrong) => new Promise((resolve) => {
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true });
  const dialog = h("dialog", { id: "token", "aria-labelledby": "token-title" },
    h("form", { method: "dialog", onsubmit: (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, input.value.trim());
      dialog.close();
      dialog.remove();
      resolve();
    } },
    h("h2", { id: "token-title" }, "Token"),
    h("p", { role: wrong ? "alert" : null }, wrong
      ? "That token does not open this port."
      : "This admin port asks for a token: a line of the file given with --admin-token-file."),
    h("label", null, h("span", null, "Token"), input),
    h("div", { class: "buttons" }, h("button", { type: "submit" }, "Go on"))));
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
});

let asking = null;

/** What no header can hold would make `fetch` throw, as if nobody had answered. */
const sendable = (token) => /^[\x21-\x7e]*$/.test(token);

/** The body of a good answer, as text.  Throws Problem. */
export const askText = async (method, path, body, more = {}) => {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { accept: "application/json", ...more };
    if (token && sendable(token)) headers.authorization = `Bearer ${token}`;
    if (method !== "GET") headers["content-type"] = "application/json";
    let answer, text;
    try {
      answer = await fetch(path, { method, headers, body, redirect: "error" });
      text = await answer.text();
    } catch {
      throw new Problem(0, "the admin port does not answer: is the process running?");
    }
    if (answer.status === 401) {
      if (token === sessionStorage.getItem(TOKEN)) { // else somebody has given another one meanwhile
        asking ??= askForToken(Boolean(token)).finally(() => { asking = null; });
        await asking;
      }
      continue;
    }
    if (answer.ok) return text;
    let message = "";
    try { message = JSON.parse(text).message; } catch { /* not ours */ }
    throw new Problem(answer.status, message || `${answer.status} ${answer.statusText}`);
  }
};

/** The JSON of a good answer, null if it has no body.  Throws Problem. */
export const ask = async (method, path, body, more) => {
  const text = await askText(method, path, body, more);
  return text ? parsed(text) : null;
};

let last = Promise.resolve();

/** Rows of an SQL statement.  One at a time: the server runs few, and others may want to ask too. */
export const query = (statement) => {
  const asked = last.then(async () => {
    for (let tried = 1; ; tried += 1) {
      try {
        return (await ask("POST", "/query", JSON.stringify({ query: statement }))).rows;
      } catch (error) {
        if (error.status !== 429 || tried === BUSY_TRIES) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
    }
  });
  last = asked.catch(() => {});
  return asked;
};

/** A string as SQL has it; one that no statement may hold, by its bytes. */
export const quoted = (text) =>
  /[\u0000-\u001f]/.test(text)
    ? `CAST(x'${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}' AS TEXT)`
    : `'${text.replaceAll("'", "''")}'`;

/** A part of a path.  A browser takes `.` and `..` for directions, also when they are encoded.  Throws Problem. */
export const part = (text) => {
  if (text === "." || text === "..") throw new Problem(0, `no browser can ask for a key that is "${text}": the command line can`);
  return encodeURIComponent(text);
};
