// Loaded ahead of the page, so that it is never drawn in the wrong colours.
"use strict";
(() => {
  let kept = "system";
  try {
    kept = localStorage.getItem("hiperrag-theme") || "system";
  } catch { /* storage may be forbidden */ }
  document.documentElement.dataset.theme = kept;
})();
