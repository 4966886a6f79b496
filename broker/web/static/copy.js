// A button beside what is too long to type. Without this file, or where the browser forbids it, the text can be selected.
"use strict";
(() => {
  if (!navigator.clipboard) return;
  for (const place of document.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${place.dataset.copy}`);
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(place.textContent.trim()); button.textContent = "Copied"; }
      catch { button.textContent = "Not allowed"; }
      button.setAttribute("aria-label", button.textContent);
    });
    place.after(button);
  }
})();
