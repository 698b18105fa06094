// The page's own script: sorts tables, filters by condition, draws charts when they are about to be seen.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables. A number sorts by data-value, words as people would; what is not known comes last either way.
  const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (one, other) => typeof one === "number" ? one - other : words.compare(one, other);
  const sort = (table, head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    all("thead th", table).forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    keyed.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null);
      return descending ? compare(other, one) : compare(one, other);
    });
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, column));
      head.append(button);
    });
  }

  // Charts. Those in sight first, the rest when the browser is idle, so that a print has them all.
  const told = document.getElementById("charts");
  const { config, specs } = told ? JSON.parse(told.textContent) : { config: {}, specs: {} };
  const select = document.getElementById("shown-condition");
  const shown = () => select?.value ?? "all";
  const SIGNAL = "shown_condition";
  const filtered = (name) => (specs[name].params ?? []).some((param) => param.name === SIGNAL);
  const follows = (name) => specs[name].usermeta?.follows_condition;
  const choose = (name, view) => {
    if (filtered(name)) view.signal(SIGNAL, shown());
    const { signal, values } = follows(name) ?? { values: {} };
    if (shown() in values) view.signal(signal, values[shown()]); // a menu of its own, that goes along
  };
  const views = new Map();
  // Legends are laid out for a width that is fixed meanwhile: one that follows the chart's would wrap after Vega has
  // fitted the chart into its box, and be cut off. So first with one entry a row, then for the width that is left.
  const fit = async (place, view) => {
    const width = place.clientWidth;
    await view.signal("width", width).signal("box_px", width).signal("legend_px", 1).resize().runAsync();
    await view.signal("legend_px", view.width()).resize().runAsync();
    place.dataset.width = width;
  };
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.dataset.drawn && Number(target.dataset.width) !== target.clientWidth) {
        views.get(target.id).then((view) => fit(target, view));
      }
    }
  });
  const draw = (name) => {
    if (views.has(name)) return views.get(name);
    const place = document.getElementById(name);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config, tooltip: { theme: dark ? "dark" : "light" } };
    const drawn = vegaEmbed(place, specs[name], options).then(async ({ view }) => {
      choose(name, view);
      await fit(place, view);
      place.dataset.drawn = shown();
      place.style.minHeight = "";
      resized.observe(place);
      return view;
    });
    views.set(name, drawn);
    return drawn;
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) draw(target.id);
    }
  }, { rootMargin: "50% 0px" });
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
  const drawRest = () => {
    const name = Object.keys(specs).find((each) => !views.has(each));
    if (name !== undefined) idle(() => draw(name).finally(drawRest));
  };
  Object.keys(specs).forEach((name) => watcher.observe(document.getElementById(name)));
  if (told) addEventListener("load", () => idle(drawRest));

  // The filter: charts that know the signal, and rows that belong to one condition.
  const filter = async () => {
    const condition = shown();
    document.querySelector("main").toggleAttribute("data-shown", condition !== "all");
    if (condition !== "all") document.querySelector("main").dataset.shown = condition; // a print says so
    for (const row of all("tr[data-condition]")) {
      row.hidden = condition !== "all" && row.dataset.condition !== condition;
    }
    for (const [name, drawn] of views) {
      if (!filtered(name) && !follows(name)) continue;
      const view = await drawn;
      choose(name, view);
      await view.runAsync();
      document.getElementById(name).dataset.drawn = condition;
    }
  };
  select?.addEventListener("change", filter);
  if (shown() !== "all") filter(); // a browser that goes back keeps what was chosen

  // The contents close once a section is chosen, or anything else is; a print shows what is folded, if it is short.
  const contents = document.getElementById("contents");
  document.addEventListener("click", ({ target }) => {
    if (!contents.contains(target) || target.closest("a")) contents.open = false;
  });
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") contents.open = false;
  });
  const PRINTED = 40; // rows of a folded table, at most
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("main details:not([open])").filter((each) => all("tbody tr", each).length <= PRINTED);
    folded.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((each) => { each.open = false; }));
})();
