// The page's own behaviour: charts, sorting, theme, printing, download. No framework.
"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const { config, specs } = read("charts");

// Colours in a specification are CSS variables, so charts follow the theme by themselves.
const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "page" } };

async function draw(id) {
  const place = document.getElementById(id);
  if (!place || place.dataset.state) return;
  place.dataset.state = "drawing";
  try {
    const { view } = await vegaEmbed(place, { ...specs[id], config }, options);
    view.logLevel(0);
    place.dataset.state = "done";
  } catch (fault) {
    place.dataset.state = "failed";
    place.textContent = "This chart could not be drawn.";
    console.error(id, fault);
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve));

// A long report has hundreds of charts: those that come into view are drawn before their turn.
const seen = new IntersectionObserver(
  (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target.id)),
  { rootMargin: "50%" },
);

async function drawAll() {
  for (const id of Object.keys(specs)) {
    const place = document.getElementById(id);
    if (place) seen.observe(place);
  }
  for (const id of Object.keys(specs)) {
    await draw(id);
    await pause(); // let the page breathe between charts
  }
  document.documentElement.dataset.charts = "done";
}

function sortable(table) {
  const heads = [...table.tHead.rows].at(-1).cells; // above it are headings of groups
  [...heads].forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      // Numbers start at the largest, words at the first.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      [...heads].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sort(table, column, order === "ascending" ? 1 : -1);
    }),
  );
}

function sort(table, column, sign) {
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
  });
  table.tBodies[0].append(...rows);
}

function theming(button) {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark()));
    button.setAttribute("aria-label", `Switch to the ${dark() ? "light" : "dark"} theme`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
}

function printing() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => (each.open = true));
    Object.keys(specs).forEach(draw);
  });
  addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));
}

function downloading(button) {
  button?.addEventListener("click", () => {
    const lines = read("records").map((record) => JSON.stringify(record) + "\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    link.download = "records.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

document.querySelectorAll("table.results").forEach(sortable);
theming(document.getElementById("theme"));
printing();
downloading(document.getElementById("download"));
drawAll();
