// Asks before what can't be taken back.

import { h } from "./dom.js";

/** Whether somebody is sure. */
export const confirmed = (question) => new Promise((resolve) => {
  const done = (answer) => () => {
    dialog.close();
    dialog.remove();
    resolve(answer);
  };
  const dialog = h("dialog", { "aria-label": "Sure?", oncancel: done(false) },
    h("p", null, h("bdi", null, question)),
    h("div", { class: "buttons" },
      h("button", { type: "button", id: "leave", onclick: done(false) }, "Leave it"),
      h("button", { type: "button", class: "danger", id: "sure", onclick: done(true) }, "Do it")));
  document.body.append(dialog);
  dialog.showModal();
});
