// Keeps the overview live: says when it is old, asks by itself when it cannot be streamed to, and moves nothing under a hand.
"use strict";
(() => {
  const live = document.querySelector("#live");
  const note = document.querySelector("#stale");
  if (!live || !note) return;
  const OLD_AFTER_MS = 6000;
  const HELD_AT_MOST_MS = 10000;
  const POLL_EVERY_MS = 5000;
  const held = new Map();
  let heardAt = Date.now();
  let heldSince = 0;
  let asking = false;

  function heard() {
    heardAt = Date.now();
    note.hidden = true;
    const count = Number(live.querySelector("[data-count]")?.dataset.count || 0);
    document.title = `${count ? `(${count}) ` : ""}Overview · Worklist Broker`;
  }

  // What a hand is about to press, or a key, stays where it is; for ten seconds at most.
  function isInHand() {
    const busy = live.querySelector("a:hover, button:hover, a:focus-visible, button:focus-visible, summary:hover");
    if (!busy) { heldSince = 0; return false; }
    heldSince ||= Date.now();
    return Date.now() - heldSince < HELD_AT_MOST_MS;
  }

  function release() {
    for (const [target, text] of held) htmx.swap(target, text, { swapStyle: "innerHTML" });
    held.clear();
    heldSince = 0;
  }

  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    const clock = event.target.getAttribute("sse-swap") === "clock";
    if (!clock && isInHand()) {
      held.set(event.target, event.detail.data);
      event.preventDefault();
    } else {
      held.delete(event.target);
    }
    heard();
  });
  document.addEventListener("htmx:sseMessage", heard);

  setInterval(async () => {
    if (held.size && !isInHand()) release();
    if (Date.now() - heardAt < OLD_AFTER_MS) return;
    note.hidden = false;
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(live.dataset.poll, { headers: { "HX-Request": "true" } });
      if (answer.ok) { htmx.swap(live, await answer.text(), { swapStyle: "innerHTML" }); heard(); heardAt -= OLD_AFTER_MS - POLL_EVERY_MS; }
      // Whoever may look no longer is shown nothing any longer, either.
      else if (answer.status === 401) location.assign("/sign-in");
    } catch { /* the note stands, and says so */ }
    asking = false;
  }, 1000);
})();
