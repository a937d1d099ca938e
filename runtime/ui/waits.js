// What an invocation waits for, in words: `waiting_for` of sys_invocation and of `GET /invocations/{id}`.

import { ago, h, invocationLink, said } from "./dom.js";

/** The reasons that `waiting_for` holds as JSON. */
export const reasonsIn = (text) => {
  try {
    const reasons = JSON.parse(text ?? "[]");
    return Array.isArray(reasons) ? reasons : [];
  } catch {
    return [];
  }
};

const WORDS = {
  key: "its key", call: "the call", attach: "the end of", sleep: "wakes", run: "the step", signal: "the signal",
  awakeable: "an awakeable", promise: "the promise", start: "starts", operator: "an operator: it is paused", retry: "its next try",
};

const inWords = (reason) => {
  const words = [WORDS[reason.type] ?? String(reason.type)];
  const what = reason.target ?? reason.name;
  if (reason.held_by) words.push(", held by ", invocationLink(reason.held_by));
  else if (reason.id?.startsWith("inv_")) words.push(" ", invocationLink(reason.id, what ? said(what, 60) : undefined));
  else if (what || reason.id) words.push(" ", said(what ?? reason.id, 60));
  const at = reason.until ?? reason.at;
  if (at) words.push(" ", ago(at));
  if (reason.failed_attempts) {
    words.push(` (${reason.failed_attempts} failed ${reason.failed_attempts === 1 ? "try" : "tries"}`);
    if (reason.next_attempt_at) words.push(", next ", ago(reason.next_attempt_at));
    words.push(")");
  }
  return words;
};

/** Elements, the reasons between commas. */
export const waits = (text, limit = 4) => {
  const reasons = reasonsIn(text);
  const shown = reasons.slice(0, limit).flatMap((reason, number) => [number ? ", " : "", ...inWords(reason)]);
  return h("span", { class: "waits" }, shown, reasons.length > limit ? ` and ${reasons.length - limit} more` : "");
};
