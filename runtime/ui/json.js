// JSON as text.  A number that has gone through JavaScript may be another one (9007199254740993 becomes …992), so what
// is shown, edited and sent back is never parsed and made anew: only the white space in it changes.

const SPACE = " \n\r\t";
const PUNCTUATION = "{}[],:";
const INDENT_MAX = 60; // deeper than that, white space would be most of it

/** Where each token begins and ends; of text that JSON.parse takes. */
const tokens = function* (text) {
  for (let at = 0; at < text.length;) {
    let end = at + 1;
    if (text[at] === '"') {
      while (end < text.length && text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
      end += 1;
    } else if (!SPACE.includes(text[at]) && !PUNCTUATION.includes(text[at])) {
      while (end < text.length && !SPACE.includes(text[end]) && !PUNCTUATION.includes(text[end])) end += 1;
    }
    if (!SPACE.includes(text[at])) yield [at, end];
    at = end;
  }
};

/** The same JSON on lines of its own; what is no JSON, or too deep, stays as it is. */
export const pretty = (text) => {
  try { JSON.parse(text); } catch { return text; }
  const pieces = [];
  let depth = 0;
  let before = "";
  const line = () => pieces.push("\n", "  ".repeat(depth));
  for (const [from, to] of tokens(text)) {
    const token = text.slice(from, to);
    const closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    if (before === "," || (closes ? before !== "{" && before !== "[" : before === "{" || before === "[")) line();
    pieces.push(token === ":" ? ": " : token);
    if (token === "{" || token === "[") depth += 1;
    if (depth > INDENT_MAX) return text;
    before = token;
  }
  return pieces.join("");
};

/** The text of each member of an object, by its name. */
export const members = (text) => {
  const found = new Map();
  let depth = 0;
  let name = null;
  let from = -1;
  const end = (at) => {
    if (from >= 0) found.set(name, text.slice(from, at).trim());
    from = -1;
  };
  for (const [at, to] of tokens(text)) {
    const token = text[at];
    if ((token === "}" || token === "]") && --depth === 0) end(at);
    else if (token === "," && depth === 1) end(at);
    else if (token === ":" && depth === 1) from = to;
    else if (token === '"' && depth === 1 && from < 0) name = JSON.parse(text.slice(at, to));
    if (token === "{" || token === "[") depth += 1;
  }
  return found;
};

/** Parsed for a table: whole numbers that JavaScript would round are text. */
export const parsed = (text) => JSON.parse(text, (_, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") ? context.source : value);
