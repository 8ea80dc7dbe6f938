// The frame of the page: views by the address' fragment, theme, key.

import { activity } from "./activity.js";
import { askKeysBy, keys } from "./api.js";
import { h, setText } from "./dom.js";
import { compare } from "./views/compare.js";
import { connect } from "./views/connect.js";
import { history } from "./views/history.js";
import { logs } from "./views/logs.js";
import { models } from "./views/models.js";
import { now } from "./views/now.js";
import { playground } from "./views/playground.js";

// A view is a function of the element to fill and a signal that aborts when it is left.
const VIEWS = { now, history, models, compare, playground, logs, connect };
const THEMES = ["system", "light", "dark"];

const $ = (id) => document.getElementById(id);
const titles = (name) => name[0].toUpperCase() + name.slice(1);
let leaving = new AbortController();

function show() {
  const wanted = location.hash.slice(1).split("?")[0];
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "now";
  leaving.abort();
  leaving = new AbortController();
  for (const link of $("views").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${titles(name)} – Tandem`;
  $("main").replaceChildren(h("h1", {}, titles(name)));
  VIEWS[name]($("main"), leaving.signal);
}

function useTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("tandem-theme", theme);
  $("theme").textContent = `Theme: ${theme}`;
}

/** Ask for a key; resolves to true where there is one to try. */
function askKey(wrong) {
  const dialog = $("key-dialog");
  setText($("key-wrong"), wrong);
  $("key-value").value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = $("key-value").value.trim();
      $("key-value").value = "";
      if (dialog.returnValue === "use" && key) keys.set(key);
      if (dialog.returnValue === "forget") keys.forget();
      resolve(dialog.returnValue === "use" && key !== "");
    }, { once: true });
  });
}

let following = new AbortController();

function follow() {
  following.abort();
  following = new AbortController();
  activity.follow(following.signal);
}

$("views").append(
  ...Object.keys(VIEWS).map((name) => h("li", {}, h("a", { href: `#${name}` }, titles(name)))),
);
$("theme").addEventListener("click", () => {
  const next = THEMES.indexOf(localStorage.getItem("tandem-theme") ?? "system") + 1;
  useTheme(THEMES[next % THEMES.length]);
});
$("key").addEventListener("click", async () => {
  await askKey("");
  follow();
  show();
});
askKeysBy(askKey);
activity.addEventListener("change", () => {
  setText($("connection"), activity.connection);
  setText($("version"), activity.version);
});
addEventListener("hashchange", () => {
  if (location.hash === "#main") return; // The link that skips the header.
  show();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
useTheme(localStorage.getItem("tandem-theme") ?? "system");
follow();
show();
