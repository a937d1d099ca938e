// The journal of one invocation on an axis of time.

import { h, s, span } from "./dom.js";
import { reasonsIn } from "./waits.js";

const WIDTH = 900;
const ROW = 24;
const LABEL = 210;
const RIGHT = 70; // for what stands behind a bar
const AXIS = 30;
const LINES_MAX = 200;
const AHEAD_MAX = 0.3; // of the past: what is due in a week must not make the past a dot
const KINDS = { Input: "wait", Output: "success", Sleep: "wait", Awakeable: "wait", GetPromise: "wait", ReceiveSignal: "wait" };

const at = (iso) => (iso ? Date.parse(iso) : null);
const cut = (text, limit) => (text.length > limit ? `${text.slice(0, limit - 1)}…` : text);
/** In SVG there is no bdi: what steers the direction of text is shown as a dot. */
const plain = (text) => String(text).replace(/[\u0000-\u001f\u007f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\u00b7");

/** What has a line: from when, until when (null: it is open), and what is to come of it. */
const linesOf = (row, journal) => {
  const waiting = new Map(reasonsIn(row.waiting_for).map((reason) => [reason.index, reason]));
  const begin = at(row.created_at);
  const ended = at(row.completed_at);
  const lines = [{ name: row.target_handler_name, from: begin, to: ended, kind: row.completion_result ?? "open", next: at(row.next_retry_at),
    said: row.retry_count ? tries(row.retry_count) : "" }];
  const held = at(row.running_at);
  const due = at(row.scheduled_start_at);
  if (due) lines.push({ name: "delayed", from: begin, to: held ?? (due < Date.now() ? due : null), kind: "wait", next: held ? null : due });
  else if (held ? held > begin : row.status === "pending") lines.push({ name: "waits for its key", from: begin, to: held, kind: "wait" });
  for (const entry of journal) {
    if (!entry.appended_at || entry.entry_type === "Input" || entry.entry_type === "Output") continue;
    const retry = waiting.get(entry.index)?.failed_attempts ? waiting.get(entry.index) : null;
    const from = at(entry.appended_at);
    const givenUp = !entry.completed && !ended && !waiting.has(entry.index); // a sleep that was cancelled, by `asyncio.timeout` too
    lines.push({
      name: `${entry.index} ${entry.entry_type} ${entry.invoked_target ?? entry.name ?? entry.promise_name ?? ""}`,
      from, to: entry.completed ? at(entry.completed_at) ?? from : givenUp ? from : null, ended,
      kind: givenUp ? "quiet" : entry.failure || retry ? "failure" : KINDS[entry.entry_type] ?? (entry.completed ? "success" : "open"),
      next: entry.completed || givenUp ? null : at(entry.sleep_wakeup_at) ?? at(retry?.next_attempt_at), said: retry ? tries(retry.failed_attempts) : givenUp ? "given up" : "",
    });
  }
  return lines;
};

const tries = (number) => `${number} failed ${number === 1 ? "try" : "tries"}`;

/** The axis, a line for the turns, a line for each entry; what is open reaches to now, and is dashed until it is due. */
export const timeline = (row, journal) => {
  const lines = linesOf(row, journal);
  const shown = lines.slice(0, LINES_MAX);
  const begin = at(row.created_at);
  const now = Math.max(Date.now(), begin); // two clocks
  const ended = at(row.completed_at);
  const past = Math.max(1, (ended ?? now) - begin);
  const ahead = ended ? [] : shown.map((line) => line.next ?? 0);
  const end = Math.max(begin + past, Math.min(Math.max(0, ...ahead), begin + past * (1 + AHEAD_MAX)));
  const x = (time) => LABEL + ((Math.min(Math.max(time, begin), end) - begin) / (end - begin)) * (WIDTH - LABEL - RIGHT);
  const turns = [...new Map(journal.filter((entry) => entry.turn !== null).map((entry) => [entry.turn, at(entry.appended_at)])).values()];
  const top = AXIS + (turns.length ? ROW : 0);
  const height = top + shown.length * ROW + 8;
  const name = `${lines.length} lines over ${span((end - begin) / 1000)}; the journal below has them as text`;
  return [h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Timeline" },
    s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "timeline", role: "img", "aria-label": name },
      [0, 0.25, 0.5, 0.75, 1].map((share) => tick(x(begin + share * (end - begin)), share, (share * (end - begin)) / 1000, height)),
      !ended && s("line", { x1: x(now), x2: x(now), y1: AXIS - 8, y2: height, class: "now" }, s("title", null, "now")),
      turns.length > 0 && [
        s("text", { x: 6, y: AXIS + 16, class: "faint" }, `${turns.length} ${turns.length === 1 ? "turn" : "turns"}`),
        turns.map((time) => s("line", { x1: x(time), x2: x(time), y1: AXIS + 4, y2: AXIS + ROW - 4, class: "turn" })),
      ],
      shown.map((line, number) => bar(line, top + number * ROW, x, now, end)))),
  lines.length > shown.length && h("p", { class: "hint" }, `The first ${LINES_MAX} of ${lines.length} lines.`)];
};

const tick = (x, share, seconds, height) => [
  s("line", { x1: x, x2: x, y1: AXIS - 8, y2: height, class: "grid" }),
  s("text", { x, y: 15, class: "faint", "text-anchor": share === 1 ? "end" : share ? "middle" : "start" }, share ? `+${span(seconds)}` : "created"),
];

const bar = (line, y, x, now, end) => {
  const open = line.to === null;
  const until = line.to ?? line.ended ?? now;
  const took = open ? `open for ${span((until - line.from) / 1000)}` : span((until - line.from) / 1000);
  const left = x(line.from);
  const right = Math.max(left + 3, x(until));
  const next = open && line.next !== null && line.next > now ? line.next : null;
  const behind = next ? x(next) : right;
  const words = [took, line.said, next && `next in ${span((next - now) / 1000)}`].filter(Boolean).join(", ");
  const short = line.said || (open ? "" : took);
  const inside = behind + 6 + short.length * 6.4 > WIDTH; // no room behind it
  return s("g", null, s("title", null, `${plain(line.name)}: ${words}`),
    s("text", { x: 6, y: y + 16 }, cut(plain(line.name), 28)),
    s("rect", { x: left, y: y + 5, width: right - left, height: ROW - 10, rx: 3, class: `bar ${line.kind}${open ? " unfinished" : ""}` }),
    next && [s("line", { x1: right, x2: behind, y1: y + ROW / 2, y2: y + ROW / 2, class: "ahead" }),
      line.next <= end && s("path", { d: `M${behind} ${y + 6} l6 6 l-6 6 l-6 -6 z`, class: "due" })],
    short && s("text", { x: inside ? left - 6 : behind + (next ? 12 : 6), y: y + 16, class: "faint", "text-anchor": inside ? "end" : "start" }, short));
};
