"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The theme; what was chosen is remembered where the browser allows it for files.
  const themes = ["system", "light", "dark"];
  const themeButton = document.getElementById("theme");
  const setTheme = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = `Theme: ${theme}`;
    themeButton.dataset.now = theme;
  };
  let remembered = null;
  try { remembered = localStorage.getItem("theme"); } catch { /* not allowed here */ }
  setTheme(themes.includes(remembered) ? remembered : "system");
  themeButton.addEventListener("click", () => {
    const next = themes[(themes.indexOf(themeButton.dataset.now) + 1) % themes.length];
    setTheme(next);
    try { localStorage.setItem("theme", next); } catch { /* not allowed here */ }
  });

  // The flow: one picture per measure and scale.
  const shown = { measure: "text", scale: "corpus" };
  for (const [name] of Object.entries(shown)) {
    const buttons = all(`[data-${name}]`);
    for (const button of buttons) button.addEventListener("click", () => {
      shown[name] = button.dataset[name];
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const wanted = `${shown.measure} ${shown.scale}`;
      for (const flow of all(".flow")) flow.toggleAttribute("hidden", flow.dataset.flow !== wanted);
    });
  }

  // Drop reasons of one source, or of all.
  const chips = all(".chip[data-source]");
  for (const chip of chips) chip.addEventListener("click", () => {
    const source = chip.dataset.source;
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    for (const reason of all(".reason")) {
      reason.hidden = source !== "" && !reason.dataset.sources.split("|").includes(source);
      for (const part of all("[data-source]", reason)) {
        part.hidden = source !== "" && part.dataset.source !== source;
      }
    }
  });

  // Reasons by what is searched for in them and their examples; their bars by a logarithm.
  const search = document.getElementById("search-reasons");
  const matches = (element, words) => {
    const text = element.textContent.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  search?.addEventListener("input", () => {
    const words = wordsOf(search);
    for (const reason of all(".reason")) reason.classList.toggle("unmatched", !matches(reason, words));
  });
  const log = document.getElementById("log");
  log?.addEventListener("click", () => {
    const is = document.querySelector(".reasons").classList.toggle("log");
    log.setAttribute("aria-pressed", String(is));
  });

  // Tables: search, sort by a column, save what is shown.
  const valueOf = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const compare = (a, b) => {
    const numbers = a !== "" && b !== "" && !isNaN(a) && !isNaN(b);
    return numbers ? a - b : a.localeCompare(b);
  };
  for (const head of all("table.sortable thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = head.closest("table").tBodies[0];
      const keyed = [...body.rows].map((row) => [valueOf(row.cells[head.cellIndex]), row]);
      keyed.sort((a, b) => (up ? 1 : -1) * compare(a[0], b[0]));
      body.append(...keyed.map(([, row]) => row));
    });
  }
  // A program for tables would take a text such as "=1+1" for a formula.
  const quoted = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) && isNaN(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  };
  for (const bar of all(".tools[data-for]")) {
    const table = document.getElementById(bar.dataset.for);
    const input = bar.querySelector("input");
    input.addEventListener("input", () => {
      const words = wordsOf(input);
      for (const row of table.tBodies[0].rows) row.hidden = !matches(row, words);
    });
    bar.querySelector(".csv").addEventListener("click", () => {
      const rows = [...table.rows].filter((row) => !row.hidden);
      const lines = rows.map((row) => [...row.cells].map((cell) => quoted(valueOf(cell))).join(","));
      const link = document.createElement("a");
      link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(lines.join("\r\n") + "\r\n")}`;
      link.download = `${table.id}.csv`;
      link.click();
    });
  }

  // Numbers at what is pointed at, tapped or focused.
  const tip = document.getElementById("tip");
  const show = (element, x, y) => {
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8));
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.transform = `translate(${left}px, ${Math.max(8, top)}px)`;
  };
  const tipped = (event) => event.target.closest?.("[data-tip]");
  const atPointer = (event) => {
    const element = tipped(event);
    if (element) show(element, event.clientX, event.clientY);
    else tip.hidden = true;
  };
  document.addEventListener("pointermove", atPointer);
  document.addEventListener("click", atPointer);
  document.addEventListener("focusin", (event) => {
    const element = tipped(event);
    if (!element || !element.matches(":focus-visible")) return;
    const box = element.getBoundingClientRect();
    show(element, box.left, Math.min(box.bottom, innerHeight - 40));
  });
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Which section is on screen.
  const links = new Map(all(".sections a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));
})();
