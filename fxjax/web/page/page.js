// The page. Text from outside goes into the document as text alone; nothing is asked of other sites.

const find = (selector, inside = document) => inside.querySelector(selector);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const make = (tag, options = {}, ...children) => {
  const { data = {}, ...rest } = options;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
};
const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));

const STAGES = {
  start: "Loading the models",
  faces: "Looking at the faces",
  inversion: "Finding both faces in the generator",
  tuning: "Fitting the generator to the person",
  masks: "Trying every mix of the two",
  refinement: "Bringing the best mix to the expression",
  writing: "Putting the face back, and judging it",
};
const PICTURES = {
  first: "A first look, by landmarks alone",
  inversions: "Both faces as the generator draws them",
};

let known = {};            // what the server said at the start
let current = "";          // the result that is shown
const results = new Map(); // states by id
const slots = {};

// ---- talking to the server

async function start() {
  known = await (await fetch("/api/start")).json();
}

async function ask(path, body, { method = "POST", again = true } = {}) {
  const binary = body instanceof Blob;
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: { "x-token": known.token, "content-type": binary ? "application/octet-stream" : "application/json" },
      body: binary ? body : JSON.stringify(body ?? {}),
    });
  } catch {
    throw new Error("the program does not answer: is it still running?");
  }
  if (answer.status === 403 && again) { // it was started anew since the page was loaded
    await start();
    return ask(path, body, { method, again: false });
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error || `the program answers ${answer.status}`);
  return told;
}

function alarm(error) {
  const place = find("#alert");
  place.textContent = error ? sentence(error.message) : "";
  place.hidden = !error;
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);

// ---- the two photos

class Slot {
  constructor(name) {
    this.name = name;
    this.root = find(`#${name}`);
    this.drop = find(".drop", this.root);
    this.input = find("input", this.root);
    this.photo = null;
    this.face = "0";
    this.turn = 0;
    this.input.addEventListener("change", () => {
      if (this.input.files.length) this.give(this.input.files[0]);
      this.input.value = "";
    });
    for (const sample of known.samples) {
      const image = make("img", { src: `/samples/${encodeURIComponent(sample)}.png`, alt: "", loading: "lazy" });
      const number = known.samples.indexOf(sample) + 1;
      const button = make("button", { type: "button", ariaLabel: `${this.title}: made-up face ${number}` }, image);
      button.addEventListener("click", () => this.read(() => ask("/api/samples", { name: sample })));
      find(".samples div", this.root).append(button);
    }
    const kept = JSON.parse(sessionStorage.getItem(name) || "null");
    if (kept) this.show(kept.photo, kept.face);
  }

  get title() { return find("h2", this.root).textContent; }

  give(file) {
    if (file.size > known.most_bytes) {
      this.fail(new Error(`this file has ${Math.ceil(file.size / 2 ** 20)} MB: at most ${known.most_bytes >> 20} MB`));
      return;
    }
    this.read(() => ask("/api/photos", file));
  }

  async read(asked) {
    const turn = ++this.turn;
    this.fail(null);
    find(".busy", this.root).hidden = false;
    try {
      const photo = await asked();
      if (turn === this.turn) this.show(photo, this.largest(photo));
    } catch (error) {
      if (turn === this.turn) this.fail(error);
    }
    if (turn === this.turn) find(".busy", this.root).hidden = true;
  }

  largest(photo) {
    const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
    const areas = photo.faces.map(area);
    return String(areas.indexOf(Math.max(...areas)));
  }

  fail(error) {
    const place = find(".wrong", this.root);
    place.textContent = error ? sentence(error.message) : "";
    place.hidden = !error;
    if (error) this.show(null);
  }

  show(photo, face = "0") {
    this.photo = photo;
    this.face = face;
    this.drop.classList.toggle("filled", Boolean(photo));
    find("u", this.root).textContent = photo ? "another photo" : "choose a file";
    const seen = find(".seen", this.root), faces = find(".faces", this.root);
    seen.replaceChildren();
    faces.replaceChildren();
    seen.hidden = faces.hidden = !photo;
    if (photo) {
      const image = make("img", { src: `/photos/${photo.id}.jpg`, alt: `The photo for ${this.title}` });
      image.addEventListener("error", () => { if (this.photo === photo) this.show(null); });
      seen.append(image);
      photo.faces.forEach(([left, top, right, bottom], number) => {
        const box = make("button", { type: "button", className: "box", ariaLabel: `${this.title}: face ${number + 1}` });
        Object.assign(box.style, {
          left: `${100 * left}%`, top: `${100 * top}%`,
          width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
        });
        box.addEventListener("click", () => this.choose(String(number)));
        box.dataset.face = String(number);
        seen.append(box);
      });
      const count = photo.faces.length;
      faces.append(count === 1 ? "One face was found." : `${count} faces were found: choose one`);
      if (count > 1 && this.name === "person") {
        const button = make("button", { type: "button", className: "quiet", data: { face: "all" } }, "All of them");
        button.addEventListener("click", () => this.choose("all"));
        faces.append(button);
      }
    }
    this.choose(face);
  }

  choose(face) {
    this.face = face;
    for (const button of all("[data-face]", this.root))
      pressed(button, face === "all" || button.dataset.face === face);
    if (this.photo) sessionStorage.setItem(this.name, JSON.stringify({ photo: this.photo, face }));
    else sessionStorage.removeItem(this.name);
    check();
  }
}

function given(files, slot) {
  const pictures = [...files].slice(0, 2);
  if (!pictures.length) {
    alarm(new Error("that was no file: save the picture first, then drop its file"));
    return;
  }
  alarm(null);
  const order = [slot, slots.person === slot ? slots.driver : slots.person];
  pictures.forEach((file, place) => order[place].give(file));
}

const empty = () => (slots.person.photo ? slots.driver : slots.person);

function slotAt(target) {
  return Object.values(slots).find(slot => slot.root.contains(target));
}

function listen() {
  let over = null;
  const mark = slot => {
    over?.drop.classList.remove("over");
    over = slot;
    over?.drop.classList.add("over");
  };
  addEventListener("dragover", event => { event.preventDefault(); mark(slotAt(event.target) ?? null); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) mark(null); });
  addEventListener("drop", event => {
    event.preventDefault();
    mark(null);
    if (find("#ask").hidden) open("");
    given(event.dataTransfer.files, slotAt(event.target) ?? empty());
  });
  addEventListener("paste", event => {
    if (!event.clipboardData.files.length || find("#ask").hidden) return;
    given(event.clipboardData.files, slotAt(document.activeElement) ?? empty());
  });
}

// ---- what is wished

function wish() {
  const number = name => Number(find(`#${name}`).value);
  return {
    face: slots.person.face,
    driver_face: slots.driver.face,
    parts: all("#parts input:checked").map(box => box.value),
    quick: find("#speed input:checked").value === "quick",
    strength: number("strength") / 100,
    weight: number("weight"),
    steps: number("steps"),
    tuning: number("tuning"),
    refine: number("refine"),
    keep_pose: find("#keep_pose").checked,
    covered: find("#covered").checked,
  };
}

let checks = 0;

async function check() {
  const turn = ++checks, list = find("#warnings"), button = find("#start");
  const say = words => list.replaceChildren(...words.map(word => make("li", {}, sentence(word))));
  const { person, driver } = slots;
  button.disabled = true;
  if (!person?.photo || !driver?.photo) { say([]); return; }
  if (!all("#parts input:checked").length) { say(["choose what changes: mouth, eyes or brows"]); return; }
  if (!find("#settings").checkValidity()) { say(["a number under Advanced is out of its range"]); return; }
  try {
    const found = await ask("/api/check", { person: person.photo.id, driver: driver.photo.id, wish: wish() });
    if (turn !== checks) return;
    const hidden = found.hidden ? ["what is covered cannot be read: take another photo, or go on all the same (Advanced)"] : [];
    say([...found.words, ...hidden]);
    button.disabled = found.hidden;
  } catch (error) {
    if (turn === checks) { say([error.message]); button.disabled = false; }
  }
}

function settings() {
  const form = find("#settings"), strength = find("#strength");
  const preset = () => {
    const chosen = known[find("#speed input:checked").value];
    for (const name of ["steps", "tuning", "refine"]) find(`#${name}`).value = chosen[name];
  };
  preset();
  find("#speed").addEventListener("change", preset);
  strength.addEventListener("input", () => { find("#strength-shown").textContent = `${strength.value} %`; });
  form.addEventListener("change", check);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    find("#start").disabled = true;
    try {
      const body = { person: slots.person.photo.id, driver: slots.driver.photo.id, wish: wish() };
      open((await ask("/api/results", body)).id);
      alarm(null);
    } catch (error) {
      alarm(error);
    }
    find("#start").disabled = false;
  });
}

// ---- results

function follow() {
  const stream = new EventSource("/api/events");
  stream.addEventListener("message", event => {
    const { results: list, result, removed } = JSON.parse(event.data);
    if (list) {
      results.clear();
      for (const state of list) results.set(state.id, state);
    }
    if (result) results.set(result.id, result);
    if (removed) results.delete(removed);
    if (list || removed || result.id === current) show();
    history();
  });
}

function open(id) {
  location.hash = id;
  if (current !== id) {
    current = id;
    shown = null;
    scrollTo({ top: 0 });
  }
  show();
  history();
}

function show() {
  const state = results.get(current);
  const place = !state ? "ask" : { done: "result", waiting: "running", running: "running" }[state.status] ?? "ended";
  for (const name of ["ask", "running", "ended", "result"]) find(`#${name}`).hidden = name !== place;
  find("#fresh").hidden = place === "ask";
  document.title = place === "running" ? `${Math.round(100 * (state.share || 0))} % – fxjax` : "fxjax";
  if (place === "running") running(state);
  if (place === "ended") {
    find("#ended h2").textContent = state.status === "cancelled" ? "Cancelled" : "This did not work";
    find("#ended p").textContent = state.status === "cancelled" ? "" : sentence(state.error || "");
  }
  if (place === "result") result(state);
}

function running(state) {
  const waiting = state.status === "waiting";
  find("#stage").textContent = waiting ? "Waiting for its turn" : STAGES[state.stage] || "Working";
  const bar = find("#share");
  if (waiting || state.stage === "start") bar.removeAttribute("value");
  else bar.value = state.share;
  find("#left").textContent = state.left == null ? "" : duration(state.left);
  const looks = find("#looks");
  for (const figure of all("figure", looks))
    if (figure.dataset.of !== state.id) figure.remove();
  for (const [name, version] of Object.entries(state.pictures || {})) {
    const src = `/results/${state.id}/${name}.jpg?${version}`;
    const image = find(`[data-name=${name}] img`, looks);
    if (!image)
      looks.append(make("figure", { data: { name, of: state.id } },
        make("img", { src, alt: PICTURES[name] }), make("figcaption", {}, PICTURES[name])));
    else if (image.getAttribute("src") !== src) image.src = src;
  }
}

function duration(seconds) {
  if (seconds < 10) return "A few seconds left";
  if (seconds < 90) return `About ${Math.ceil(seconds / 10) * 10} seconds left`;
  return `About ${Math.round(seconds / 60)} minutes left`;
}

let shown = null; // what is drawn of the current result: its id, which face, a mask ("" is the result's own), a strength

const placeOf = (state, face) => `/results/${state.id}/${state.faces.length > 1 ? `face${face}/` : ""}`;
const masksOf = state => state.faces[shown.face].masks;

function result(state) {
  const fresh = shown?.id !== state.id;
  if (fresh) {
    shown = { id: state.id, face: Math.max(0, state.faces.findIndex(face => !face.kept)) };
    find("#before").src = `/results/${state.id}/before.jpg`;
    find("#divide").value = 50;
    divide();
    const words = state.command.split(" ").flatMap(word => [" ", make("span", {}, word)]).slice(1);
    find("#command").replaceChildren(...words);
    find("#report").href = `/results/${state.id}/report.html`;
    const beside = find("#beside");
    beside.href = `/results/${state.id}/side_by_side.png`;
    beside.download = `fxjax-${state.id}-side-by-side.png`;
    find("#masks .grid").replaceChildren();
    plain(state);
  }
  whose(state);
  const own = masksOf(state);
  find("#live").hidden = !own;
  find("#masks").hidden = !own?.length;
  find("#making").hidden = state.faces.every(face => face.kept || face.masks);
  if (own && !find("#masks .grid").childElementCount) masks(state);
}

function whose(state) { // of several faces, the one whose mixes are shown
  const place = find("#whose"), count = state.faces.length;
  place.hidden = count < 2;
  if (place.childElementCount !== count)
    place.replaceChildren(...state.faces.map((face, number) => {
      const button = make("button", { type: "button", className: "quiet", data: { number } }, `Face ${number + 1}`);
      button.addEventListener("click", () => {
        const now = results.get(current);
        shown.face = number;
        find("#masks .grid").replaceChildren();
        next = null;
        plain(now);
        result(now);
      });
      return button;
    }));
  all("button", place).forEach((button, number) => {
    button.disabled = !state.faces[number].masks;
    pressed(button, number === shown.face);
  });
}

function plain(state) { // the result as it was found
  shown = { id: state.id, face: shown.face, mask: "", strength: state.wish.strength };
  find("#compare").classList.remove("waiting");
  find("#after").src = `/results/${state.id}/after.jpg`;
  const link = find("#download");
  link.href = `/results/${state.id}/result.png`;
  link.download = `fxjax-${state.id}.png`;
  find("#amount").value = Math.round(100 * state.wish.strength);
  amounts();
  verdict(state);
  chosen(state);
}

function verdict(state) {
  const lines = [];
  const line = (good, text, note) =>
    lines.push(make("p", { className: good ? "" : "bad" }, make("i", {}, good ? "✓" : "!"),
      make("span", {}, make("b", {}, text), make("small", {}, note))));
  const changed = state.faces.filter(face => !face.kept);
  const faces = changed.length ? changed : state.faces;
  const words = [...new Set(faces.flatMap(face => face.verdict))];
  const short = "expression hardly reached";
  if (!changed.length) {
    line(true, "Nothing was changed", `${sentence(faces[0].kept)}.`);
  } else {
    const gain = Math.min(...faces.map(face => face.gain ?? 0));
    const way = Math.round(100 * Math.max(0, gain));
    const taken = words.includes(short) ? "The expression is hardly reached"
      : gain < 0.5 ? "Only a part of the expression is taken over" : "The expression is taken over";
    line(gain >= 0.5 && !words.includes(short), taken, `${way} % of the way to the second face's, as landmarks are read.`);
    const far = Math.max(...faces.map(face => face.identity ?? 9));
    line(far < 0.6, far < 0.6 ? "Still the same person" : "It may look like somebody else",
      far < 9 ? `Distance ${far.toFixed(2)}; below 0.6 two faces count as one person.` : "No face was found to compare.");
    const other = words.filter(word => word !== short);
    line(!other.length, other.length ? sentence(other.join(", ")) : "Nothing suspicious was found",
      "By landmarks, colours and sharpness. They do not see everything: look yourself.");
  }
  if (state.warnings.length) line(false, "What was said before the start", `${sentence(state.warnings.join("; "))}.`);
  find("#verdict").replaceChildren(...lines);
}

function bits(mask) {
  const draw = (name, values, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };
  const picture = draw("svg", { class: "bits", viewBox: `0 0 ${6 * mask.length - 1} 5`, "aria-hidden": "true" });
  [...mask].forEach((bit, row) => draw("rect", { x: 6 * row, width: 5, height: 5, class: bit === "1" ? "on" : "off" }, picture));
  return picture;
}

const front = state => masksOf(state).filter(one => one.front).sort((a, b) => a.appearance - b.appearance);

function masks(state) {
  for (const one of masksOf(state)) {
    const image = make("img", { src: `${placeOf(state, shown.face)}masks/${one.mask}.jpg`, alt: "", loading: "lazy" });
    const text = make("span", {}, bits(one.mask), String(one.rank));
    const label = `Mix ${one.rank}: ${rows(one.mask)}`;
    const button = make("button", { type: "button", title: label, ariaLabel: label, className: one.front ? "dot" : "", data: { mask: one.mask } }, image, text);
    button.addEventListener("click", () => { draw(state, one.mask, shown.strength); scrollTo({ top: 0, behavior: "smooth" }); });
    find("#masks .grid").append(button);
  }
  find("#front").max = Math.max(0, front(state).length - 1);
  chosen(state);
}

const rows = mask => {
  const taken = [...mask].flatMap((bit, row) => (bit === "1" ? [row] : []));
  return taken.length ? `rows ${taken.join(", ")} from the second face` : "nothing from the second face";
};

function chosen(state) {
  for (const button of all("#masks .grid button")) pressed(button, button.dataset.mask === shown.mask);
  find("#back").hidden = shown.mask === "" && shown.strength === state.wish.strength;
  find("#which").textContent = shown.mask ? `Shown: ${rows(shown.mask)}, as the generator draws it.` : "Shown: the result.";
  if (!masksOf(state)?.length) return;
  const place = front(state).findIndex(one => one.mask === (shown.mask || masksOf(state)[0].mask));
  if (place >= 0) find("#front").value = place;
}

const amounts = () => { find("#amount-shown").textContent = `${find("#amount").value} %`; };

let drawing = null, next = null; // one at a time; of what is wished meanwhile only the last is drawn

async function draw(state, mask, strength) {
  if (mask === "" && strength === state.wish.strength) { next = null; plain(state); return; }
  const { face } = shown;
  shown = { id: state.id, face, mask, strength };
  chosen(state);
  next = { state, face, mask, strength };
  if (drawing) return;
  find("#compare").classList.add("waiting");
  while (next) {
    drawing = next;
    next = null;
    try {
      const { state: { id }, face } = drawing;
      const found = await ask(`/api/results/${id}/draw`, { face, mask: drawing.mask, strength: drawing.strength });
      if (shown?.id === id && shown.face === face && (shown.mask || shown.strength !== drawing.state.wish.strength)) {
        find("#after").src = `${placeOf(drawing.state, face)}drawn/${found.name}.jpg?${Date.now()}`;
        const words = found.verdict.length ? sentence(found.verdict.join(", ")) : "Nothing suspicious was found";
        find("#verdict").replaceChildren(make("p", { className: found.verdict.length ? "bad" : "" },
          make("i", {}, found.verdict.length ? "!" : "✓"), make("span", {}, make("b", {}, words),
            make("small", {}, "Expression and person are measured of results alone."))));
      }
      alarm(null);
    } catch (error) {
      alarm(error);
      next = null;
    }
  }
  drawing = null;
  find("#compare").classList.remove("waiting");
}

const divide = () => find("#compare").style.setProperty("--at", `${find("#divide").value}%`);

function viewer() {
  const state = () => results.get(current);
  find("#divide").addEventListener("input", divide);
  find("#amount").addEventListener("input", () => {
    amounts();
    draw(state(), shown.mask, Number(find("#amount").value) / 100);
  });
  find("#front").addEventListener("input", () => draw(state(), front(state())[find("#front").value].mask, shown.strength));
  find("#back").addEventListener("click", () => { next = null; plain(state()); });
  find("#download").addEventListener("click", async event => {
    if (find("#back").hidden) return;
    event.preventDefault();
    try {
      const { id, face, mask, strength } = shown;
      const { name } = await ask(`/api/results/${id}/draw`, { face, mask, strength, whole: true });
      make("a", { href: `${placeOf(state(), face)}drawn/${name}.png`, download: `fxjax-${shown.id}-${name}.png` }).click();
    } catch (error) {
      alarm(error);
    }
  });
  find("#copy").addEventListener("click", async event => {
    const text = find("#command");
    try {
      await navigator.clipboard.writeText(text.textContent);
      event.target.textContent = "Copied";
    } catch { // without a secure context
      getSelection().selectAllChildren(text);
      event.target.textContent = "Selected: copy it";
    }
    setTimeout(() => { event.target.textContent = "Copy"; }, 2000);
  });
  find("#cancel").addEventListener("click", () => ask(`/api/results/${current}/cancel`).catch(alarm));
  find("#ended button").addEventListener("click", () => open(""));
  find("#fresh").addEventListener("click", () => open(""));
  addEventListener("hashchange", () => open(location.hash.slice(1)));
}

// ---- earlier results

const SHORT = { waiting: "Waiting", running: "Running", failed: "Did not work", cancelled: "Cancelled" };

function history() {
  const list = find("#history ul"), focused = document.activeElement?.dataset?.of;
  const order = [...results.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  find("#history").hidden = !order.length;
  const keep = new Map(all("li", list).map(item => [item.dataset.key, item]));
  list.replaceChildren(...order.map(state => {
    const key = `${state.id} ${state.status} ${state.id === current}`;
    return keep.get(key) ?? entry(state, key);
  }));
  if (focused && document.activeElement === document.body) find(`[data-of="${focused}"]`, list)?.focus();
}

function entry(state, key) {
  const when = new Date(1000 * state.created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const image = make("img", { src: `/results/${state.id}/${state.status === "done" ? "after" : "person"}.jpg`, alt: "", loading: "lazy" });
  const text = make("span", {}, SHORT[state.status] ? `${SHORT[state.status]}, ${when}` : when);
  const button = make("button", { type: "button", data: { of: state.id } }, image, text);
  button.addEventListener("click", () => open(state.id));
  const item = make("li", { className: state.id === current ? "now" : "", data: { key } }, button);
  if (state.status !== "running" && state.status !== "waiting") {
    const away = make("button", { type: "button", className: "delete", ariaLabel: `Delete the result of ${when}`, title: "Delete" }, "×");
    away.addEventListener("click", async () => {
      if (!confirm("Delete this result and its photos?")) return;
      try {
        await ask(`/api/results/${state.id}`, {}, { method: "DELETE" });
        if (current === state.id) open("");
      } catch (error) {
        alarm(error);
      }
    });
    item.append(away);
  }
  return item;
}

await start();
for (const name of ["person", "driver"]) slots[name] = new Slot(name);
current = location.hash.slice(1);
settings();
viewer();
listen();
follow();
check();
