/* Tables that sort, figures and tables by choice, bars by class. No library, no request. */
"use strict";

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};
const options = (select, values, chosen) => {
  select.replaceChildren(...values.map(([value, text]) => element("option", { value }, text)));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
};
const dataOf = (id) => {
  const holder = document.getElementById(id);
  return holder && JSON.parse(holder.textContent);
};

const orderOf = (cell) => {  // a cell that begins with a number sorts by it, one without a value is ""
  const text = cell.textContent;
  const number = cell.className.includes("number") && text.match(/^[+-]?\d+(\.\d+)?(e[+-]\d+)?/);
  return number ? number[0] : text === "-" ? "" : text.toLowerCase();
};

for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const body = table.tBodies[0];
    const lines = [...body.rows].map((row) => [orderOf(row.cells[column]), row]);
    const numbers = lines.every(([order]) => order === "" || !Number.isNaN(Number(order)));
    const before = head.getAttribute("aria-sort");
    const first = numbers ? "descending" : "ascending";
    const second = numbers ? "ascending" : "descending";
    const now = before === first ? second : first;
    const sign = now === "ascending" ? 1 : -1;
    lines.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // no value: last, either way
      return sign * (numbers ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0);
    });
    body.append(...lines.map(([, row]) => row));
    for (const other of heads) other.setAttribute("aria-sort", other === head ? now : "none");
  }));
}

addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll("details:not([open])")) closed.open = true;
});

for (const group of document.querySelectorAll(".group")) {
  const selects = [...group.querySelectorAll("select[data-name]")];
  const found = [...group.querySelectorAll("[data-choice]")].map((f) => [f, JSON.parse(f.dataset.choice)]);
  const show = () => {
    let seen = 0;
    for (const [one, choice] of found) {
      one.hidden = !selects.every((s) => (choice[s.dataset.name] ?? s.value) === s.value);
      seen += !one.hidden;
    }
    group.querySelector(".none").hidden = seen > 0;
    const asked = new Set(found.flatMap(([f, choice]) => (f.hidden ? [] : Object.keys(choice))));
    // a choice that nothing shown hangs on is not asked for; where nothing is shown, all are
    for (const s of selects) s.parentElement.hidden = seen > 0 && !asked.has(s.dataset.name);
  };
  for (const select of selects) select.addEventListener("change", show);
  show();
}

{
  const data = dataOf("bars-data");
  if (data && data.grounds.length) classBars(data);
}

function classBars(data) {
  const place = element("select", { id: "bars-place" });
  const subset = element("select", { id: "bars-subset" });
  const boxes = element("div", { className: "boxes", id: "bars-models" });
  const placeLabel = element("label", {}, "scored on", place);
  document.getElementById("bars-controls").append(
    placeLabel,
    element("label", {}, "subset", subset),
    element("fieldset", {}, element("legend", {}, "models"), boxes),
  );
  options(place, data.grounds.map((ground, i) => [String(i), ground.place]));
  placeLabel.hidden = data.grounds.length < 2;
  const ground = () => data.grounds[Number(place.value)];
  const names = (key) => [...new Set(ground().bars.map((bar) => bar[key]))];

  const setUp = () => {
    const subsets = names("subset");
    options(subset, subsets.map((name) => [name, name]), subset.value || subsets.at(-1));
    if (!subset.value) subset.value = subsets.at(-1);
    const wanted = ground().first;
    boxes.replaceChildren(...names("model").map((name, i) => {
      const box = element("input", { type: "checkbox", value: name });
      box.checked = wanted.includes(name) || (i === 0 && !names("model").some((m) => wanted.includes(m)));
      return element("label", {}, box, name);
    }));
    draw();
  };
  const draw = () => {
    const chosen = [...boxes.querySelectorAll("input:checked")].map((box) => box.value);
    const bars = ground().bars.filter((b) => b.subset === subset.value && chosen.includes(b.model));
    const fill = (model) => {
      const { first, colours } = ground();
      const number = [...first, ...names("model").filter((name) => !first.includes(name))].indexOf(model);
      const made = element("i");
      made.style.background = colours[number % colours.length];
      made.style.opacity = number < colours.length ? 1 : 0.45;  // the colours' second round
      return made;
    };
    const whole = ground().bars.find((bar) => bar.subset === subset.value);
    const total = whole.pixels.reduce((a, b) => a + b, 0) || 1;
    const order = whole.classes.map((_, i) => i).filter((i) => whole.pixels[i] > 0);
    order.sort((a, b) => whole.pixels[b] - whole.pixels[a]);
    document.getElementById("bars-title").textContent = `IoU by class on ${subset.value}, in percent`;
    document.getElementById("bars").replaceChildren(...order.map((i) => {
      const share = (100 * whole.pixels[i]) / total;
      const label = share < 0.01 ? "under 0.01 % of pixels" : `${share.toFixed(2)} % of pixels`;
      const name = whole.classes[i];
      const made = bars.map((bar) => {
        const iou = bar.iou[bar.classes.indexOf(name)];
        const known = iou !== null && iou !== undefined;
        const told = known ? (100 * iou).toFixed(1) : "-";
        const filled = fill(bar.model);
        filled.style.width = `${known ? 100 * iou : 0}%`;
        return element("div", { className: "bar", title: `${bar.model}: ${told}` }, element("span", {}, filled), told);
      });
      return element("div", { className: "class" }, element("b", {}, name), " ", element("small", {}, label), ...made);
    }));
    document.getElementById("bars-legend").replaceChildren(...bars.map((bar) => element("li", {}, fill(bar.model), bar.model)));
  };
  place.addEventListener("change", setUp);
  subset.addEventListener("change", draw);
  boxes.addEventListener("change", draw);
  setUp();
}
