"use strict";
// Filters the runs by words; the page works without it.
(() => {
  const search = document.getElementById("search"), count = document.getElementById("count");
  const runs = [...document.querySelectorAll("#runs tbody")];
  const refresh = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const run of runs) {
      run.hidden = !words.every((word) => run.textContent.toLowerCase().includes(word));
      shown += !run.hidden;
    }
    count.textContent = `${shown} of ${runs.length}`;
  };
  search.addEventListener("input", refresh);
  refresh();
})();
