/* The frame explorer. Ids come as 8-bit pictures and are coloured here; agreement, errors and winning
   experts are worked out from them. State lives in one object, and each change draws what hangs on it. */
{
  const sets = dataOf("frames-data");
  if (sets && sets.length) explore(sets);
}

function explore(sets) {
  const WRONG = "#D55E00", IGNORE = 255, MOST = 24, LEGEND = 10;
  // ten steps of a score, from light to dark; the lowest is not painted
  const DOUBT = Array.from({ length: 10 }, (_, k) => (k ? mixed("#ffe8cc", "#6b1d00", (k - 1) / 8) : ""));
  function mixed(from, to, share) {
    const part = (colour, at) => parseInt(colour.slice(at, at + 2), 16);
    return `#${[1, 3, 5].map((at) => Math.round(part(from, at) * (1 - share) + part(to, at) * share).toString(16).padStart(2, "0")).join("")}`;
  }
  const at = (id) => document.getElementById(`x-${id}`);
  const root = document.getElementById("explorer");
  const state = {
    set: sets[0], list: [], frame: null, layers: [], scale: 1, left: 0, top: 0, point: null, ids: {},
  };
  const width = () => state.set.size[1];
  const height = () => state.set.size[0];
  const mixture = () => at("mixture").value;
  const score = (frame) => frame.scores?.[mixture()]?.[at("score").value] ?? null;
  const told = (value) => (value === null || value === undefined ? "-" : value.toFixed(2));
  const hex = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const swatch = (colour) => {
    const made = element("i");
    made.style.background = colour;
    return made;
  };
  const className = (id) => state.set.classes[id] ?? (id === IGNORE ? "no label" : `id ${id}`);
  const classColour = (id) => state.set.colours[id] ?? "#ffffff";

  // -- ids: from pictures to arrays ---------------------------------------------------------------
  const decoded = new Map();
  function idsOf(uri) {
    if (!decoded.has(uri)) decoded.set(uri, decode(uri));
    return decoded.get(uri);
  }
  async function decode(uri) {
    const picture = new Image();
    picture.src = uri;
    await picture.decode();
    const canvas = element("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
  }

  // -- layers: what each pixel is, and its colour --------------------------------------------------
  function experts(name) { return state.set.mixtures[name].experts; }
  function maskAt(name, i) {
    const ids = state.ids, own = ids[name][i];
    return experts(name).reduce((mask, expert, e) => mask | ((ids[expert][i] === own) << e), 0);
  }
  function winnerAt(name, i) {
    const weights = state.frame.weights[name];
    const column = weights[0].length > 1 ? state.ids[name][i] : 0;
    return weights.reduce((best, of, e) => (of[column] > weights[best][column] ? e : best), 0);
  }
  function category(name, mask) {
    const found = state.set.mixtures[name].categories[mask];
    const colour = at("original").checked ? found.original : found.colour;
    return { name: found.name, colour };
  }
  function mixtures() { return state.set.models.filter((name) => name in state.set.mixtures); }
  function maps() {
    const of = Object.entries(state.set.maps ?? {});
    return of.flatMap(([name, scores]) => scores.map((score) => [`${name}.${score}`, `${score}: ${name}`]));
  }
  function choices() {
    return [
      ["photo", "photo"], ["label", "label"],
      ...state.set.models.map((name) => [`class:${name}`, `classes: ${name}`]),
      ...mixtures().map((name) => [`agreement:${name}`, `agreement: ${name}`]),
      ...state.set.models.map((name) => [`error:${name}`, `errors: ${name}`]),
      ...mixtures().map((name) => [`winner:${name}`, `winning expert: ${name}`]),
      ...maps().map(([name, text]) => [`doubt:${name}`, text]),
    ];
  }
  function needs(layer) {
    const [kind, name] = parse(layer);
    if (kind === "photo") return [];
    if (kind === "label") return ["label"];
    if (kind === "error") return [name, "label"];
    if (kind === "agreement") return [name, ...experts(name)];
    return [name];
  }
  function parse(layer) {
    const cut = layer.indexOf(":");
    return cut < 0 ? [layer, ""] : [layer.slice(0, cut), layer.slice(cut + 1)];
  }
  /** Return a function from pixel to {name, colour}; no colour is not painted. */
  function reader(layer) {
    const [kind, name] = parse(layer);
    const ids = state.ids;
    if (kind === "label" || kind === "class") {
      const source = ids[name || "label"];
      return (i) => ({ name: className(source[i]), colour: source[i] === IGNORE ? "" : classColour(source[i]) });
    }
    if (kind === "agreement") return (i) => category(name, maskAt(name, i));
    if (kind === "error") {
      const right = { name: "right", colour: "" }, wrong = { name: "wrong", colour: WRONG };
      const unlabelled = { name: "no label", colour: "" };
      return (i) => (ids.label[i] === IGNORE ? unlabelled : ids[name][i] === ids.label[i] ? right : wrong);
    }
    if (kind === "doubt") {
      const steps = DOUBT.map((colour, k) => ({ name: `${(k / 10).toFixed(1)} to ${((k + 1) / 10).toFixed(1)}`, colour }));
      return (i) => steps[ids[name][i]];
    }
    return (i) => {
      const e = winnerAt(name, i);
      return { name: experts(name)[e], colour: state.set.mixtures[name].colours[e] };
    };
  }

  // -- panes ---------------------------------------------------------------------------------------
  function paint(pane) {
    const layer = pane.select.value;
    const context = pane.canvas.getContext("2d");
    pane.canvas.width = width();
    pane.canvas.height = height();
    pane.legend.replaceChildren();
    const weights = parse(layer)[0] !== "winner" || state.frame.weights?.[parse(layer)[1]];
    const lacking = needs(layer).filter((name) => !state.ids[name]);
    if (layer === "photo" && !state.frame.photo) lacking.push("photo");
    pane.nothing.hidden = lacking.length === 0 && Boolean(weights);
    pane.nothing.textContent = weights ? `Missing: ${lacking.join(", ")}` : "Missing: gate weights";
    if (layer === "photo" || !pane.nothing.hidden) return;
    const read = reader(layer);
    const picture = context.createImageData(width(), height());
    const seen = new Map();
    for (let i = 0; i < width() * height(); i += 1) {
      const { name, colour } = read(i);
      const entry = seen.get(name) ?? { colour, rgb: colour && hex(colour), pixels: 0 };
      if (!entry.pixels) seen.set(name, entry);
      entry.pixels += 1;
      if (entry.rgb) picture.data.set([...entry.rgb, 255], 4 * i);
    }
    context.putImageData(picture, 0, 0);
    const order = [...seen].sort(([, a], [, b]) => b.pixels - a.pixels);
    pane.legend.replaceChildren(...order.slice(0, LEGEND).map(([name, { colour, pixels }]) => {
      const share = `${((100 * pixels) / (width() * height())).toFixed(pixels * 100 < width() * height() ? 1 : 0)} %`;
      return element("li", {}, ...(colour ? [swatch(colour)] : []), `${name}${colour ? "" : " (not painted)"} ${share}`);
    }));
    if (order.length > LEGEND) pane.legend.append(element("li", {}, `and ${order.length - LEGEND} more`));
  }
  const panes = [0, 1, 2].map((number) => {
    const pane = {
      select: element("select", { "aria-label": `Layer of pane ${number + 1}` }),
      photo: element("img", { alt: "", draggable: false }),
      canvas: element("canvas"),
      point: element("div", { className: "point", hidden: true }),
      nothing: element("p", { className: "nothing", hidden: true }),
      legend: element("ul", { className: "legend" }),
    };
    pane.stack = element("div", { className: "stack" }, pane.photo, pane.canvas);
    pane.view = element("div", { className: "view", tabIndex: 0, role: "img" }, pane.stack, pane.point, pane.nothing);
    pane.root = element("div", { className: "pane" }, pane.select, pane.view, pane.legend);
    pane.select.addEventListener("change", () => {
      state.layers[number] = pane.select.value;
      describe(pane);
      if (state.frame) paint(pane);
    });
    at("views").append(pane.root);
    listen(pane);
    return pane;
  });
  function describe(pane) {
    const layer = pane.select.selectedOptions[0]?.text ?? "";
    pane.view.setAttribute("aria-label", `${layer} of frame ${state.frame ? state.frame.key : "(none)"}`);
  }

  // -- zoom, pan, point: the same for all panes -----------------------------------------------------
  function place() {
    const most = 1 - 1 / state.scale;
    state.left = Math.min(Math.max(state.left, 0), most);
    state.top = Math.min(Math.max(state.top, 0), most);
    for (const pane of panes) {
      const { scale, left, top, point } = state;
      pane.stack.style.transform = `translate(${-100 * left * scale}%, ${-100 * top * scale}%) scale(${scale})`;
      pane.view.classList.toggle("near", scale > 1);
      pane.point.hidden = !point;
      if (!point) continue;
      pane.point.style.left = `${100 * scale * (point[0] / width() - left)}%`;
      pane.point.style.top = `${100 * scale * (point[1] / height() - top)}%`;
      pane.point.style.width = `${(100 * scale) / width()}%`;
      pane.point.style.height = `${(100 * scale) / height()}%`;
    }
  }
  function zoom(factor, u = 0.5, v = 0.5) {  // u, v: the place in the view that stays where it is
    const before = state.scale;
    state.scale = Math.min(Math.max(before * factor, 1), MOST);
    state.left += u / before - u / state.scale;
    state.top += v / before - v / state.scale;
    place();
  }
  function within(view, event) {
    const box = view.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  function pointAt(x, y) {
    state.point = [Math.min(Math.max(x, 0), width() - 1), Math.min(Math.max(y, 0), height() - 1)];
    place();
    read();
  }
  function listen(pane) {
    const fingers = new Map();
    const view = pane.view;
    const look = (event) => {
      const [u, v] = within(view, event);
      pointAt(
        Math.floor((u / state.scale + state.left) * width()),
        Math.floor((v / state.scale + state.top) * height()),
      );
    };
    view.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, within(view, event));
      view.setPointerCapture(event.pointerId);
      look(event);
    });
    view.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return look(event);
      const now = within(view, event);
      if (fingers.size === 1) {
        state.left -= (now[0] - before[0]) / state.scale;
        state.top -= (now[1] - before[1]) / state.scale;
        place();
      } else {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const apart = ([x, y]) => Math.hypot((x - other[0]) * view.clientWidth, (y - other[1]) * view.clientHeight);
        zoom(apart(now) / (apart(before) || 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      fingers.set(event.pointerId, now);
      return undefined;
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      view.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    view.addEventListener("wheel", (event) => {
      // the page scrolls as it always does until a pane was chosen, or the fingers pinch
      const outwards = event.deltaY > 0 && state.scale === 1;
      if (outwards || !(event.ctrlKey || document.activeElement === view)) return;
      event.preventDefault();
      zoom(2 ** (-event.deltaY / (event.ctrlKey ? 100 : 300)), ...within(view, event));
    }, { passive: false });
  }

  // -- values at the point --------------------------------------------------------------------------
  function read() {
    const box = at("read");
    if (!state.point || !state.frame) {
      box.replaceChildren(element("p", { className: "note" }, "Point at a pixel to read its classes here."));
      return;
    }
    const [x, y] = state.point;
    const i = y * width() + x;
    const ids = state.ids;
    const line = (name, colour, text) => element("li", {}, element("span", {}, name),
      element("span", { className: "is" }, ...(colour ? [swatch(colour)] : []), text));
    const truth = ids.label ? ids.label[i] : IGNORE;
    const agreement = [];
    const lines = [line("label", classColour(truth), ids.label ? className(truth) : "missing")];
    for (const name of state.set.models) {
      if (!ids[name]) {
        lines.push(line(name, "", "missing"));
        continue;
      }
      const mark = truth === IGNORE ? "" : ids[name][i] === truth ? "\u00a0\u2713" : "\u00a0\u2717";
      lines.push(line(name, classColour(ids[name][i]), className(ids[name][i]) + mark));
    }
    for (const name of mixtures()) {
      if (needs(`agreement:${name}`).every((layer) => ids[layer])) {
        const found = category(name, maskAt(name, i));
        agreement.push(line(`agreement of ${name}`, found.colour, found.name));
      }
    }
    box.replaceChildren(element("h3", {}, `Pixel x ${x}, y ${y}`), element("ul", {}, ...lines), element("ul", {}, ...agreement));
  }

  // -- gate weights of the frame ---------------------------------------------------------------------
  function gate() {
    const box = at("gate");
    const name = mixture();
    const weights = state.frame?.weights?.[name];
    box.replaceChildren();
    if (!weights) return;
    const colours = state.set.mixtures[name].colours;
    const bar = (title, shares) => element("div", { className: "weight" },
      element("span", { title }, title),
      element("span", {}, ...shares.map((share, e) => {
        const part = element("i", { title: `${experts(name)[e]}: ${share.toFixed(3)}` }, share > 0.2 ? told(share) : "");
        part.style.width = `${100 * share}%`;
        part.style.background = colours[e];
        const [r, g, b] = hex(colours[e]);
        part.style.color = 0.3 * r + 0.6 * g + 0.1 * b < 110 ? "#fff" : "#111";
        return part;
      })));
    const columns = weights[0].length;
    const mean = weights.map((of) => of.reduce((a, b) => a + b, 0) / columns);
    const bars = [bar(columns > 1 ? "mean of classes" : "weight", mean)];
    const own = state.ids[name];
    if (columns > 1 && own) {
      const counts = new Map();
      for (const id of own) counts.set(id, (counts.get(id) ?? 0) + 1);
      const present = [...counts].sort(([, a], [, b]) => b - a).slice(0, 12);
      bars.push(...present.map(([id]) => bar(className(id), weights.map((of) => of[id]))));
    }
    box.append(
      element("h3", {}, `Gate weights: ${name}`),
      element("ul", { className: "legend" }, ...experts(name).map((expert, e) => element("li", {}, swatch(colours[e]), expert))),
      ...bars,
    );
  }

  // -- which frame -----------------------------------------------------------------------------------
  function filter() {
    const least = Number(at("least").value) / 100;
    at("least-told").textContent = least.toFixed(2);
    const subset = at("subset").value;
    state.list = state.set.frames.filter((frame) =>
      (!subset || frame.subset === subset) && (least === 0 || (score(frame) ?? -1) >= least));
    const order = at("order").value;
    const rank = (frame) => (score(frame) === null ? Infinity : order === "high" ? -score(frame) : score(frame));
    state.list.sort((a, b) => {
      const [one, two] = order === "key" ? [a.key, b.key] : [rank(a), rank(b)];
      return one < two ? -1 : one > two ? 1 : 0;
    });
    const cards = state.list.map((frame) => {
      const title = `${frame.subset}, ${frame.key}`;
      const card = element("button", { type: "button", role: "option", title },
        element("img", { alt: "", src: frame.photo ?? "", loading: "lazy" }),
        element("span", {}, frame.subset), element("span", {}, `${told(score(frame))}  ${frame.key.split("/").pop()}`));
      card.style.setProperty("--shape", `${width()} / ${height()}`);
      card.addEventListener("click", () => choose(frame));
      return card;
    });
    at("strip").replaceChildren(...cards);
    choose(state.list.includes(state.frame) ? state.frame : state.list[0] ?? null);
  }
  async function choose(frame) {
    state.frame = frame;
    const number = state.list.indexOf(frame);
    [...at("strip").children].forEach((card, i) => {
      card.setAttribute("aria-selected", String(i === number));
      if (i === number) {
        const strip = at("strip");
        strip.scrollLeft = card.offsetLeft - strip.offsetLeft - (strip.clientWidth - card.clientWidth) / 2;
      }
    });
    at("views").hidden = !frame;
    at("back").disabled = number <= 0;
    at("next").disabled = number < 0 || number >= state.list.length - 1;
    if (!frame) {
      at("status").textContent = `None of ${state.set.frames.length} frames passes: lower "at least" or choose another subset.`;
      state.ids = {};
      read();
      gate();
      return;
    }
    const shown = ["label", ...state.set.models, ...maps().map(([name]) => name)];
    const arrays = await Promise.all(shown.map((name) => (frame.layers[name] ? idsOf(frame.layers[name]) : null)));
    if (state.frame !== frame) return;  // another one was chosen meanwhile
    state.ids = Object.fromEntries(shown.map((name, i) => [name, arrays[i]]));
    status(number);
    for (const pane of panes) {
      pane.photo.hidden = !frame.photo;
      if (frame.photo) pane.photo.src = frame.photo;
      pane.view.style.aspectRatio = `${width()} / ${height()}`;
      describe(pane);
      paint(pane);
    }
    read();
    gate();
    root.dataset.shown = frame.key;
  }
  function status(number) {
    const frame = state.frame;
    const names = [mixture(), ...(state.set.mixtures[mixture()]?.experts ?? [])].filter((name) => name in (frame.miou ?? {}));
    const mious = names.map((name) => `${name} ${told(frame.miou[name])}`).join(", ");
    at("status").textContent = `Frame ${number + 1} of ${state.list.length}: ${frame.key} (${frame.subset})`
      + (mious ? `; mIoU on this frame: ${mious}` : "");
  }
  function step(by) {
    const next = state.list[state.list.indexOf(state.frame) + by];
    if (next) choose(next);
  }

  // -- set up ----------------------------------------------------------------------------------------
  function open(number) {
    state.set = sets[number];
    decoded.clear();
    const { frames } = state.set;
    const subsets = [...new Set(frames.map((frame) => frame.subset))];
    options(at("subset"), [["", "all"], ...subsets.map((name) => [name, name])], at("subset").value);
    options(at("mixture"), mixtures().map((name) => [name, name]), at("mixture").value || root.dataset.headline);
    const scores = new Set(frames.flatMap((frame) => Object.values(frame.scores ?? {}).flatMap(Object.keys)));
    options(at("score"), [...scores].map((name) => [name, name.replaceAll("_", " ")]), at("score").value || "disagreement");
    const known = choices();
    const name = mixture();
    const first = name ? [`class:${name}`, `agreement:${name}`, `error:${name}`] : ["label", `class:${state.set.models[0]}`, "photo"];
    panes.forEach((pane, i) => {
      options(pane.select, known, known.some(([value]) => value === state.layers[i]) ? state.layers[i] : first[i]);
      state.layers[i] = pane.select.value;
    });
    filter();
    place();
  }
  function follow() {  // panes that show the old mixture turn to the new one
    panes.forEach((pane) => {
      const [kind, name] = parse(pane.select.value);
      const wanted = `${kind}:${mixture()}`;
      if (name in state.set.mixtures && [...pane.select.options].some((option) => option.value === wanted)) {
        pane.select.value = wanted;
      }
    });
    filter();
  }
  function columns() {
    const number = Number(at("panes").value);
    at("views").style.setProperty("--panes", number);
    panes.forEach((pane, i) => { pane.root.hidden = i >= number; });
  }
  function opacity() {
    at("opacity-told").textContent = `${at("opacity").value} %`;
    for (const pane of panes) pane.canvas.style.opacity = Number(at("opacity").value) / 100;
  }
  options(at("set"), sets.map((set, i) => [String(i), `${set.dataset}, ${set.condition}`]));
  at("set-label").hidden = sets.length < 2;
  at("set").addEventListener("change", () => open(Number(at("set").value)));
  at("mixture").addEventListener("change", follow);
  for (const id of ["subset", "score", "order"]) at(id).addEventListener("change", filter);
  at("least").addEventListener("input", filter);
  at("panes").addEventListener("change", columns);
  at("opacity").addEventListener("input", opacity);
  at("original").addEventListener("change", () => state.frame && choose(state.frame));
  at("back").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("in").addEventListener("click", () => zoom(1.5));
  at("out").addEventListener("click", () => zoom(1 / 1.5));
  at("fit").addEventListener("click", () => { state.scale = 1; place(); });
  document.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    const target = event.target;
    const typing = target.closest?.("input, select, textarea, .scroll");
    if (!move || typing || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.shiftKey) {
      if (!target.classList?.contains("view")) return;
      const [x, y] = state.point ?? [width() >> 1, height() >> 1];
      pointAt(x + move[0], y + move[1]);
    } else {
      const box = root.getBoundingClientRect();
      const inSight = box.top < innerHeight && box.bottom > 0;
      if (!move[0] || !(root.contains(target) || (target === document.body && inSight))) return;
      step(move[0]);
    }
    event.preventDefault();
  });
  columns();
  opacity();
  open(0);
}
