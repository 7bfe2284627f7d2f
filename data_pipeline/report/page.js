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
  const chips = all(".chip");
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
