// The latest lines of the server's log, those of requests included.

import { getJSON, repeat } from "../api.js";
import { h, setText } from "../dom.js";
import { clock } from "../format.js";

const POLL_MS = 2000;
const MOST = 500;

export function logs(main, signal) {
  const filter = h("input", { type: "search", oninput: () => apply() });
  const problem = h("p", { class: "bad", role: "alert" });
  const list = h("div", { class: "log card", role: "log", tabIndex: 0, "aria-label": "Log" });
  const empty = h("p", { class: "empty" }, "Nothing was logged since the server started.");
  main.append(h("label", {}, "Filter ", filter), problem, empty, list);
  let last = 0;

  const apply = () => {
    for (const line of list.children) line.hidden = !line.textContent.toLowerCase().includes(filter.value.toLowerCase());
  };
  repeat(async () => {
    try {
      const { lines } = await getJSON(`/api/logs?after=${last}`, signal);
      const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      list.append(...lines.map(lineOf));
      while (list.children.length > MOST) list.firstChild.remove();
      if (lines.length) {
        last = lines.at(-1).number;
        apply();
      }
      if (atEnd) list.scrollTop = list.scrollHeight;
      empty.hidden = last > 0;
      list.hidden = last === 0;
      setText(problem, "");
    } catch (error) {
      if (signal.aborted) return;
      setText(problem, error.message);
      empty.hidden = true; // It is not known whether something was logged.
    }
  }, POLL_MS, signal);
}

function lineOf({ at, level, logger, text }) {
  const kind = level === "error" || level === "critical" ? "bad" : "";
  return h("p", { class: kind }, `${clock(at)} ${level} ${logger}: ${text}`);
}
