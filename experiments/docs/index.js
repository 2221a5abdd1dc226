// Search and filters; their state is in the address, so that it can be kept and sent.
// Without scripts all systems are shown.
"use strict";
(() => {
  const words = JSON.parse(document.getElementById("words").textContent);
  const list = document.querySelector(".results");
  const rows = [...list.children];
  const search = document.getElementById("search");
  const filters = [...document.querySelectorAll(".filters select")];
  const count = document.querySelector(".count");
  const none = document.querySelector(".none");

  // How well a system fits a word: its name, its title, anything on its page.
  function rank(row, word) {
    const [name, title, all] = words[row.dataset.slug];
    if (name.startsWith(word)) return 8;
    if (name.includes(word)) return 6;
    if (title.includes(word)) return 4;
    return all.includes(word) ? 1 : 0;
  }

  function show() {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (const row of rows) {
      const ranks = asked.map((word) => rank(row, word));
      const fits = ranks.every(Boolean) && filters.every(
        (f) => !f.value || row.dataset[f.name].split(" ").includes(f.value));
      row.hidden = !fits;
      if (fits) found.push([ranks.reduce((a, b) => a + b, 0), row]);
    }
    const order = asked.length ? found.sort((a, b) => b[0] - a[0]) : found;
    const last = rows.filter((row) => row.hidden);
    list.append(...order.map(([, row]) => row), ...last);
    count.textContent = `${found.length} of ${rows.length} systems`;
    none.hidden = found.length > 0;
  }

  function keep() {
    const state = new URLSearchParams();
    if (search.value) state.set("q", search.value);
    for (const f of filters) if (f.value) state.set(f.name, f.value);
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname);
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    search.value = state.get("q") || "";
    for (const f of filters) f.value = state.get(f.name) || "";
    show();
  }

  function change() { show(); keep(); }

  search.addEventListener("input", change);
  for (const f of filters) f.addEventListener("change", change);
  document.querySelector(".filters").addEventListener("reset", () => setTimeout(() => {
    search.value = "";
    change();
    search.focus();
  }));
  search.addEventListener("keydown", (event) => {
    const first = rows.length && list.querySelector("li:not([hidden]) a");
    if (event.key === "Enter" && first) { event.preventDefault(); first.click(); }
    if (event.key === "Escape") { search.value = ""; change(); }
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); search.focus(); }
  });
  window.addEventListener("hashchange", restore);
  restore();
})();
