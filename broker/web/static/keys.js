// Keyboard for people on call, and an honest word when the broker does not answer. Everything works without this file.
"use strict";
(() => {
  const places = { o: "/", w: "/worklist", r: "/orders", m: "/messages", d: "/deliveries", i: "/images" };
  let waiting = false;
  let row = -1;

  function walk(step) {
    const rows = [...document.querySelectorAll("tbody tr")].filter((line) => line.querySelector("a"));
    if (!rows.length) return;
    rows[row]?.classList.remove("here");
    row = Math.min(Math.max(row + step, 0), rows.length - 1);
    rows[row].classList.add("here");
    rows[row].querySelector("a").focus(); // Enter opens it, Tab reaches its buttons
  }

  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (waiting && places[event.key]) { location.href = places[event.key]; return; }
    waiting = event.key === "g";
    if (event.key === "/") { event.preventDefault(); document.querySelector("#find")?.focus(); }
    if (event.key === "j") walk(1);
    if (event.key === "k") walk(-1);
  });

  const stale = (is) => { const note = document.querySelector("#stale"); if (note) note.hidden = !is; };
  document.addEventListener("htmx:sendError", () => stale(true));
  document.addEventListener("htmx:responseError", () => stale(true));
  document.addEventListener("htmx:afterSwap", () => stale(false));
})();
