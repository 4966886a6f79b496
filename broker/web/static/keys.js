// Keyboard for people on call, and an honest word when the broker does not answer. Everything works without this file.
"use strict";
(() => {
  const help = document.querySelector("#help");
  const opener = document.querySelector("#keys");
  let going = false;
  let row = -1;

  function walk(step) {
    const rows = [...document.querySelectorAll("tbody tr")].filter((line) => line.querySelector("a"));
    if (!rows.length) return;
    rows[row]?.classList.remove("here");
    row = Math.min(Math.max(row + step, 0), rows.length - 1);
    rows[row].classList.add("here");
    rows[row].querySelector("a").focus(); // Enter opens it, Tab reaches its buttons
  }

  function goToRetry() {
    const buttons = (where) => [...where.querySelectorAll('form[action$="/retry"] button')];
    const here = document.querySelector("tr.here");
    const found = here ? buttons(here) : buttons(document.querySelector("main"));
    // Only where it is plain which one is meant, and only the focus: Enter is a second, deliberate key.
    if (found.length === 1) found[0].focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (going) {
      going = false;
      const place = [...document.querySelectorAll(".rail a[data-key]")].find((link) => link.dataset.key === event.key);
      if (place) { location.href = place.href; return; }
    }
    going = event.key === "g";
    if (event.key === "/") { event.preventDefault(); document.querySelector("#find")?.focus(); }
    if (event.key === "?") { event.preventDefault(); help?.showModal(); }
    if (event.key === "j") walk(1);
    if (event.key === "k") walk(-1);
    if (event.key === "r") goToRetry();
  });

  if (opener && help) {
    opener.hidden = false;
    opener.addEventListener("click", () => help.showModal());
  }

  const stale = (is) => { const note = document.querySelector("#stale"); if (note) note.hidden = !is; };
  document.addEventListener("htmx:sendError", () => stale(true));
  document.addEventListener("htmx:responseError", () => stale(true));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) stale(false); });
})();
