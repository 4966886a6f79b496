// Keyboard for people on call: "/" finds, "g" then a letter goes. Everything works without this file.
"use strict";
(() => {
  const places = { o: "/", w: "/worklist", r: "/orders", m: "/messages", d: "/deliveries", i: "/images" };
  let waiting = false;
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (waiting && places[event.key]) { location.href = places[event.key]; return; }
    waiting = event.key === "g";
    if (event.key === "/") { event.preventDefault(); document.querySelector("#find")?.focus(); }
  });
})();
