// Which view is shown, and when it is drawn anew.  A view is `async (parts, parameters) => elements`.

import { h } from "./dom.js";
import { overview } from "./overview.js";
import { invocations } from "./invocations.js";
import { invocation } from "./invocation.js";
import { objects } from "./objects.js";
import { schedules } from "./schedules.js";
import { call } from "./call.js";
import { sql } from "./sql.js";

const REFRESH_MS = 3000;

/** By the first word of the address.  A new view is a line here: the navigation is made of them. */
const VIEWS = {
  "": { title: "Overview", draw: overview, live: true },
  invocations: { title: "Invocations", draw: invocations, live: true, one: { title: "Invocation", draw: invocation, live: true } },
  objects: { title: "Objects", draw: objects, live: false },
  schedules: { title: "Schedules", draw: schedules, live: true },
  call: { title: "Call", draw: call, live: false },
  sql: { title: "SQL", draw: sql, live: false },
};

const main = document.getElementById("main");
const notice = document.getElementById("notice");

let shown = 0; // counts navigations: what comes late for an earlier one is dropped
let timer = 0;
let saidThere = ""; // what is to be said in the view that is gone to

/** `text` may be elements too. */
export const say = (text, bad = false) => {
  notice.replaceChildren(...[text].flat());
  notice.className = bad ? "bad" : "";
};

const viewOf = ([first = "", ...rest]) => {
  const view = Object.hasOwn(VIEWS, first) ? VIEWS[first] : null;
  return rest.length && view?.one ? view.one : view;
};

const route = () => {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { parts = ["?"]; }
  return { parts, parameters: new URLSearchParams(search ?? "") };
};

/** Somebody is in the middle of something that a new drawing would take from under their hands. */
const busy = () =>
  document.visibilityState !== "visible" || main.querySelector("form[data-changed]") !== null ||
  document.querySelector("dialog[open]") !== null ||
  ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement?.tagName) || !getSelection().isCollapsed;

const selector = (element) => {
  if (!main.contains(element) || element === main) return null;
  const name = ["href", "data-action", "id"].find((one) => element.hasAttribute(one));
  return name ? `[${name}="${CSS.escape(element.getAttribute(name))}"]` : null;
};

const draw = async (number, view, { parts, parameters }, unless = () => false) => {
  let drawn;
  try {
    drawn = await view.draw(parts.slice(1), parameters);
  } catch (error) {
    drawn = [h("p", { class: "problem", role: "alert" }, error.message)];
    if (!(error instanceof Error) || error.status === undefined) console.error(error);
  }
  if (number !== shown || unless()) return;
  const focused = selector(document.activeElement);
  const open = [...main.querySelectorAll("details[open]")].map((one) => one.id).filter(Boolean);
  const scrolled = scrollY;
  main.replaceChildren(h("h1", null, view.title), ...[drawn].flat(3).filter(Boolean));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) main.querySelector(focused)?.focus({ preventScroll: true });
  scrollTo(0, scrolled);
  main.dataset.drawn = location.hash || "#/";
};

const again = (number, view, where) => {
  clearTimeout(timer);
  if (!view.live) return;
  timer = setTimeout(async () => {
    if (number !== shown) return;
    if (!busy()) await draw(number, view, where, busy);
    again(number, view, where);
  }, REFRESH_MS);
};

/** Draws the view that the address names, from what is true now. */
export const refresh = async () => {
  const number = ++shown;
  const where = route();
  const view = viewOf(where.parts);
  if (view === null) { location.hash = "#/"; return; }
  document.title = `${view.title} · Perdure`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#/${where.parts[0] ?? ""}`;
    if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  await draw(number, view, where);
  if (number === shown) again(number, view, where);
};

/** Does something for somebody who pressed a button, says what came of it, and draws the view anew, or goes to `next`. */
export const act = async (what, doing, next = () => null) => {
  let said = "";
  say(`${what} …`);
  try {
    await doing();
    said = `${what}: done`;
  } catch (error) {
    say(`${what}: ${error.message}`, true);
  }
  if (next()) {
    saidThere = said;
    location.hash = next();
    return;
  }
  await refresh();
  if (said) say(said); // once what it did can be seen
};

document.querySelector("nav").append(...Object.entries(VIEWS).map(([name, { title }]) => h("a", { href: `#/${name}` }, title)));
// The address is the view: a link that changed it would be a navigation.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
main.addEventListener("input", (event) => event.target.form?.setAttribute("data-changed", ""));
addEventListener("hashchange", () => {
  say(saidThere);
  saidThere = "";
  main.replaceChildren(h("p", { class: "empty" }, "…"));
  refresh().then(() => main.focus({ preventScroll: true }));
});
refresh();
