
// The page. Texts of the policy only ever go into text nodes, attributes and a canvas.
const map = JSON.parse(document.getElementById("map").textContent);
const problems = map.problems.problems;
const USED = ["consumes", "replays", "found_as", "discovers", "audits"].filter(verb => map.services.some(s => s.entries.some(e => e.verb === verb)));
const VERBS = ["owns", "reads", "publishes", "subscribes", "answers", "calls", ...USED];
const KINDS = ["values", "messages", "requests", "names"];
const MOST_BOXES = 30, MOST_LINES = 110, MOST_DRAWN = 150, MOST_AROUND = 80, MOST_ROWS = 1000, MOST_LABELS = 45, NARROW = 700;
const byId = id => document.getElementById(id);
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;

function make(tag, attributes, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "title", "defs", "marker"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ""));
  return node;
}

// ---- the map, indexed
// Object stores are shown where buckets are.
const services = map.services, buckets = map.buckets.concat(map.stores), streams = map.streams, names = map.found;
for (const service of services) for (const entry of service.entries) {
  entry.bucket = entry.bucket || entry.store || null;
  entry.streams = entry.streams || [];
}
const places = list => new Map(list.map((node, i) => [node.name, i]));
const serviceAt = places(services), bucketAt = places(buckets), streamAt = places(streams), nameAt = places(names);
const focusable = { service: serviceAt, bucket: bucketAt, stream: streamAt, name: nameAt };
const streamOf = name => streams[streamAt.get(name)];
const once = list => [...new Set(list)];
const takers = stream => once(stream.consumers.flatMap(c => c.users).concat(stream.replayers)).sort();
const aroundStream = stream => once(stream.writers.concat(takers(stream)));
// Who is on the other side of the streams of an entry.
const throughStreams = entry => once(entry.streams.map(streamOf).flatMap(stream => ["consumes", "replays"].includes(entry.verb) ? stream.writers : takers(stream))).sort();
const key = (service, entry) => service + ":" + entry;
const sides = new Map();
for (const link of map.links) {
  const a = key(link.from, link.from_entry), b = key(link.to, link.to_entry);
  if (!sides.has(a)) sides.set(a, []);
  if (!sides.has(b)) sides.set(b, []);
  sides.get(a).push([link.to, link.to_entry]);
  sides.get(b).push([link.from, link.from_entry]);
}
const text = s => [s.name, s.description, s.account, ...s.entries.map(e => e.name)].join("\n").toLowerCase();
services.forEach(s => { s.text = text(s); });
for (const node of buckets.concat(names)) node.text = (node.name + "\n" + (node.description || "")).toLowerCase();
streams.forEach(s => { s.text = [s.name, s.description, ...s.consumers.flatMap(c => [c.name, c.description, ...c.filter])].join("\n").toLowerCase(); });
const accounts = [...new Set(services.map(s => s.account).filter(Boolean))].sort();
const conflicts = [];
problems.forEach((problem, index) => {
  if (problem.code !== "two-owners") return;
  const ends = [];
  services.forEach((s, i) => s.entries.forEach((e, j) => { if (e.verb === "owns" && e.problems.includes(index)) ends.push([i, j]); }));
  for (const end of ends.slice(1)) conflicts.push({ kind: "conflict", from: ends[0][0], from_entry: ends[0][1], to: end[0], to_entry: end[1] });
});

// ---- state, kept in the address
const VIEWS = ["Picture", "Matrix", "Services", "Buckets", "Streams", "Problems"];
const state = { whole: false, view: "Picture", focus: null, q: "", bad: false, account: "", values: true, messages: true, requests: true, names: true };
function load() {
  const from = new URLSearchParams(location.hash.slice(1));
  const view = VIEWS.find(v => v === from.get("view"));
  state.view = view || "Picture";
  const [kind, ...name] = (from.get("focus") || "").split(":");
  const there = Object.hasOwn(focusable, kind) && focusable[kind].has(name.join(":"));
  state.focus = there ? { kind, name: name.join(":") } : null;
  state.q = from.get("q") || "";
  state.whole = from.get("whole") === "1";
  state.bad = from.get("bad") === "1";
  state.account = from.get("account") || "";
  for (const kind of KINDS) state[kind] = from.get(kind) !== "0";
}
function go(change, replace) {
  Object.assign(state, change);
  const to = new URLSearchParams();
  if (state.view !== "Picture") to.set("view", state.view);
  if (state.focus) to.set("focus", state.focus.kind + ":" + state.focus.name);
  if (state.q) to.set("q", state.q);
  if (state.whole) to.set("whole", "1");
  if (state.bad) to.set("bad", "1");
  if (state.account) to.set("account", state.account);
  for (const kind of KINDS) if (!state[kind]) to.set(kind, "0");
  history[replace ? "replaceState" : "pushState"](null, "", "#" + to);
  render();
}
const focusOn = (kind, name) => go({ focus: { kind, name }, q: "" });
const isFocus = (kind, name) => state.focus && state.focus.kind === kind && state.focus.name === name;

const words = () => state.q.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text, list) => list.every(word => text.includes(word));
const hasProblem = node => node.severity === "error" || node.severity === "warning";
// The names of what the focus has to do with; null when there is no focus.
function near() {
  if (!state.focus) return null;
  const { kind, name } = state.focus, found = { services: new Set(), buckets: new Set(), streams: new Set() };
  if (kind === "bucket") {
    const bucket = buckets[bucketAt.get(name)];
    bucket.owners.concat(bucket.readers).forEach(s => found.services.add(s));
    found.buckets.add(name);
  } else if (kind === "stream") {
    aroundStream(streamOf(name)).forEach(s => found.services.add(s));
    found.streams.add(name);
  } else if (kind === "name") {
    const node = names[nameAt.get(name)];
    node.services.concat(node.finders).forEach(s => found.services.add(s));
  } else {
    const index = serviceAt.get(name);
    found.services.add(name);
    services[index].entries.forEach((e, j) => {
      if (e.bucket) found.buckets.add(e.bucket);
      e.streams.forEach(stream => found.streams.add(stream));
      throughStreams(e).forEach(s => found.services.add(s));
      for (const [other] of sides.get(key(index, j)) || []) found.services.add(services[other].name);
    });
  }
  return found;
}
function shownServices() {
  const list = words(), around = state.view === "Services" && near();
  return services.filter(s => (!around || around.services.has(s.name)) && matches(s.text, list) && (!state.bad || hasProblem(s)) && (!state.account || s.account === state.account));
}
function shownBuckets() {
  const list = words(), around = near();
  return buckets.filter(b => (!around || around.buckets.has(b.name)) && (!state.bad || hasProblem(b)) &&
    (matches(b.text, list) || b.owners.concat(b.readers).some(name => matches(name.toLowerCase(), list))));
}
function shownStreams() {
  const list = words(), around = near();
  return streams.filter(s => (!around || around.streams.has(s.name)) && (!state.bad || hasProblem(s)) &&
    (matches(s.text, list) || aroundStream(s).some(name => matches(name.toLowerCase(), list))));
}
const bad = node => node.severity === "error" ? "error" : node.severity === "warning" ? "warning" : "";
const button = (kind, name) => make("button", { class: "link", type: "button", onclick: () => focusOn(kind, name) }, name);
const joined = (list, most = 12) => {
  const shown = list.slice(0, most).flatMap((node, i) => i ? [", ", node] : [node]);
  return list.length > most ? [...shown, ` and ${list.length - most} more`] : shown;
};

// ---- details
function otherSide(service, index) {
  const entry = services[service].entries[index];
  const reads = ["consumes", "replays"].includes(entry.verb);
  const others = reads ? throughStreams(entry) : once((sides.get(key(service, index)) || []).map(([s]) => services[s].name)).sort();
  const nobody = { reads: "nobody owns it", publishes: "nobody subscribes", subscribes: "nobody publishes", answers: "nobody calls", calls: "nobody answers",
    consumes: "nobody writes the stream", replays: "nobody writes the stream", found_as: "nobody discovers it", discovers: "nobody is found by it" }[entry.verb] || "";
  const what = { owns: "read by ", reads: "owned by ", publishes: "to ", subscribes: "from ", answers: "called by ", calls: "answered by ",
    consumes: "written by ", replays: "written by ", found_as: "discovered by ", discovers: "finds " }[entry.verb];
  const kept = reads ? [] : entry.streams;
  return [others.length ? [what, ...joined(others.map(name => button("service", name)))] : kept.length ? "" : nobody,
    kept.length ? [others.length ? "; " : "", "kept by ", ...joined(kept.map(name => button("stream", name)))] : ""].flat();
}
function problemList(indices) {
  if (!indices.length) return [];
  return [make("h3", {}, "Problems"), make("ul", {}, indices.map(i => problems[i]).map(p =>
    make("li", { class: p.severity }, `${p.severity}: ${p.message}`, p.help ? make("div", { class: "others" }, p.help) : "",
      p.place ? make("div", { class: "others mono" }, placeText(p.place)) : "")))];
}
const placeText = place => `${place.file}:${place.line}:${place.column}`;
function serviceDetail(service) {
  const index = serviceAt.get(service.name);
  const parts = VERBS.flatMap(verb => {
    const list = service.entries.map((e, j) => [e, j]).filter(([e]) => e.verb === verb);
    return list.length ? [make("h3", {}, verb), make("ul", {}, list.map(([entry, j]) => {
      const [kind, target] = entry.bucket ? ["bucket", entry.bucket] : entry.found ? ["name", entry.found] : ["consumes", "replays"].includes(verb) ? ["stream", entry.streams[0]] : [];
      const name = kind ? make("button", { class: "link mono", type: "button", onclick: () => focusOn(kind, target) }, entry.name)
        : make("span", { class: "mono" }, entry.name);
      return make("li", { class: bad(entry), title: entry.at }, name, entry.role ? make("span", { class: "others" }, ` by role ${entry.role}`) : "",
        make("div", { class: "others" }, otherSide(index, j)));
    }))] : [];
  });
  return [service.description ? make("p", {}, service.description) : "",
    make("p", { class: "soft" }, [plural(service.keys, "key"), service.account ? `account ${service.account}` : "", service.at].filter(Boolean).join(" · ")),
    service.disabled !== null ? make("p", {}, make("span", { class: "badge warning" }, "disabled"), " " + service.disabled) : "",
    service.observed ? make("p", {}, make("span", { class: "badge warning" }, "observed"), " it may still do what it could before") : "",
    ...problemList(service.problems), ...parts];
}
function bucketDetail(bucket) {
  const list = (names, verb) => names.flatMap(name => services[serviceAt.get(name)].entries.filter(e => e.bucket === bucket.name && e.verb === verb)
    .map(e => make("li", { class: bad(e), title: e.at }, button("service", name), " ", make("span", { class: "mono others" }, e.name === bucket.name ? "" : e.name))));
  return [bucket.description ? make("p", {}, bucket.description) : "",
    make("p", { class: "soft" }, (map.stores.includes(bucket) ? "object store · " : "bucket · ") + (bucket.at || "not declared")), ...problemList(bucket.problems),
    ...section(bucket.owners.length > 1 ? "Owners" : "Owner", list(bucket.owners, "owns"), "Nobody: nothing can be written."),
    ...section("Readers", list(bucket.readers, "reads"), "Nobody but who owns it.")];
}
const section = (title, items, none) => [make("h3", {}, title), items.length ? make("ul", {}, items) : make("p", { class: "soft" }, none)];
function streamDetail(stream) {
  const entries = (list, verbs, shown) => list.flatMap(name => services[serviceAt.get(name)].entries.filter(e => verbs.includes(e.verb) && e.streams.includes(stream.name))
    .map(e => make("li", { class: bad(e), title: e.at }, button("service", name), " ", make("span", { class: "mono others" }, shown(e)))));
  const consumers = stream.consumers.map(c => make("li", { class: bad(c), title: c.at || "not declared" }, make("span", { class: "mono" }, c.name), c.filter.length ? make("span", { class: "mono others" }, " " + c.filter.join(", ")) : "",
    c.description ? make("div", { class: "others" }, c.description) : "",
    make("div", { class: "others" }, c.users.length ? ["consumed by ", ...joined(c.users.map(name => button("service", name)))] : "nobody consumes it")));
  return [stream.description ? make("p", {}, stream.description) : "",
    make("p", { class: "soft" }, "stream · " + (stream.at || "not declared")), ...problemList(stream.problems),
    ...section("Writers", entries(stream.writers, ["publishes", "calls"], e => e.name), "Nobody: nothing is kept."),
    ...section("Consumers", consumers, "None."),
    ...section("Replayed by", entries(stream.replayers, ["replays"], e => e.name === stream.name ? "" : e.name.slice(stream.name.length + 1)), "Nobody.")];
}
function nameDetail(node) {
  const list = names => names.map(name => make("li", {}, button("service", name)));
  return [make("p", { class: "soft" }, "name of a service"), ...problemList(node.problems),
    ...section("Found", list(node.services), "Nobody."), ...section("Discovered by", list(node.finders), "Nobody.")];
}
function renderDetail() {
  const pane = byId("detail");
  pane.hidden = !state.focus;
  if (!state.focus) return pane.replaceChildren();
  const { kind, name } = state.focus;
  const node = { service: services, bucket: buckets, stream: streams, name: names }[kind][focusable[kind].get(name)];
  pane.replaceChildren(make("div", { class: "head" }, make("h2", {}, name),
    make("button", { class: "plain", type: "button", onclick: () => go({ focus: null }) }, "Show all (Esc)")),
    ...({ service: serviceDetail, bucket: bucketDetail, stream: streamDetail, name: nameDetail })[kind](node).filter(Boolean));
  pane.scrollTop = 0;
}

// ---- picture
const ruler = document.createElement("canvas").getContext("2d");
function fit(name, font, most) {
  ruler.font = font;
  if (ruler.measureText(name).width <= most) return name;
  let low = 0, high = name.length;
  while (low < high) {
    const half = (low + high + 1) >> 1;
    if (ruler.measureText(name.slice(0, half) + "…").width <= most) low = half; else high = half - 1;
  }
  return name.slice(0, low) + "…";
}
const NAME = "650 14px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", ROW = "12.5px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const measured = (text, font) => { ruler.font = font; return ruler.measureText(text).width; };
const rowed = e => e.verb === "owns" || e.verb === "found_as";
// Boxes and lines of some links. A service's box holds a row for each keyspace and store that it owns
// and each name that it is found by; a stream's box, one for each consumer.
function boxesOf(chosen, links, unowned, kept, wholly) {
  const boxes = [], at = new Map(), rowOf = new Map(), used = new Set();
  for (const link of links) if (link.kind !== "messages" && link.kind !== "requests") {
    used.add(key(link.from, link.from_entry));
    if (link.kind === "conflict") used.add(key(link.to, link.to_entry));
  }
  const add = (id, box) => {
    const more = box.more ? `and ${box.more} more` : "";
    const texts = box.rows.map(r => measured(r.name, ROW) + 34).concat(measured(box.name, NAME) + 30, measured(more, ROW) + 20);
    box.w = Math.min(270, Math.max(120, ...texts));
    box.h = 34 + box.rows.length * 24 + (box.more ? 20 : 0) + (box.rows.length ? 5 : 0);
    at.set(id, boxes.length);
    boxes.push(box);
  };
  for (const index of chosen) {
    const service = services[index];
    const owned = service.entries.map((e, j) => [e, j]).filter(([e]) => rowed(e));
    owned.sort(([a, i], [b, j]) => (used.has(key(index, j)) - used.has(key(index, i))) || i - j);
    const needed = owned.filter(([e, j]) => used.has(key(index, j)) || bad(e)).length;
    const most = wholly === index ? 40 : Math.min(20, Math.max(needed, links.length > MOST_AROUND || wholly !== undefined ? 3 : 8));
    const rows = owned.slice(0, most).map(([e, j]) => {
      rowOf.set(key(index, j), rowOf.size);
      const said = `${e.verb === "owns" ? "owns" : "found as"} ${e.name}`;
      return { name: e.verb === "owns" ? e.name : said, said, class: bad(e), at: key(index, j) };
    });
    add("s" + index, { kind: "service", name: service.name, class: bad(service) + (service.disabled !== null ? " disabled" : "") + (wholly === index ? " middle" : ""), rows, more: owned.length - rows.length });
  }
  if (unowned.length) {
    const rows = unowned.slice(0, 12).map(name => ({ name, bucket: name, class: bad(buckets[bucketAt.get(name)]) }));
    add("nobody", { kind: "nobody", name: "owned by nobody", class: "nobody", rows, more: unowned.length - rows.length });
  }
  for (const stream of kept) {
    const rows = stream.consumers.slice(0, 12).map(c => ({ name: c.name.slice(stream.name.length + 1), said: `consumer ${c.name}`, class: bad(c), consumer: c.name }));
    add("t" + stream.name, { kind: "stream", name: stream.name, class: "stream " + bad(stream) + (isFocus("stream", stream.name) ? " middle" : ""), rows, more: stream.consumers.length - rows.length });
  }
  const rowY = (box, found) => {
    const row = box.rows.findIndex(found);
    return row < 0 ? (box.more && box.rows.length ? box.h - 14 : 17) : 34 + row * 24 + 11;
  };
  const lines = new Map();
  const line = (from, to, fromY, kind, label, level) => {
    const id = [from, to, fromY, kind].join();
    const old = lines.get(id);
    if (old) { if (label && !old.labels.includes(label)) old.labels.push(label); if (level === "error") old.level = level; }
    else lines.set(id, { from, to, fromY, kind, labels: label ? [label] : [], level });
  };
  for (const link of links) {
    const from = at.get("s" + link.from), to = at.get("s" + link.to);
    if (from === undefined || to === undefined || from === to) continue;
    const a = services[link.from].entries[link.from_entry], b = services[link.to].entries[link.to_entry];
    const plainly = link.kind === "messages" || link.kind === "requests";
    const fromY = plainly ? 17 : rowY(boxes[from], row => row.at === key(link.from, link.from_entry));
    const label = link.kind === "conflict" ? "two owners" : plainly ? (a.name.length >= b.name.length ? a.name : b.name) : b.name !== a.name ? b.name : "";
    const level = link.kind === "conflict" || a.severity === "error" && plainly || b.severity === "error" ? "error" : "";
    line(from, to, fromY, link.kind, label, level);
  }
  const nobody = at.get("nobody");
  if (nobody !== undefined && state.values) for (const index of chosen) for (const e of services[index].entries)
    if (e.verb === "reads" && unowned.includes(e.bucket))
      line(nobody, at.get("s" + index), rowY(boxes[nobody], row => row.bucket === e.bucket), "values", e.name === e.bucket ? "" : e.name, bad(e));
  for (const index of chosen) for (const e of services[index].entries) for (const name of e.streams) {
    const service = at.get("s" + index), stream = at.get("t" + name);
    if (stream === undefined) continue;
    const reads = e.verb === "consumes" || e.verb === "replays";
    const label = e.verb === "consumes" ? "" : e.verb === "replays" ? e.name.replace(name, "replays").replace("/", " ") : e.name;
    const y = e.verb === "consumes" ? rowY(boxes[stream], row => row.consumer === e.consumer) : 17;
    line(reads ? stream : service, reads ? service : stream, y, "messages", label, e.severity === "error" ? "error" : "");
  }
  return { boxes, lines: [...lines.values()] };
}
const shownLinks = () => map.links.filter(l => state[l.kind] && l.from !== l.to).concat(conflicts);
function drawPicture() {
  const focus = state.focus, all = shownLinks();
  if (focus) {
    let links, chosen, unowned = [], kept = [], left = 0, middle;
    if (focus.kind === "service") {
      middle = serviceAt.get(focus.name);
      links = all.filter(l => l.from === middle || l.to === middle);
      if (state.messages) kept = once(services[middle].entries.flatMap(e => e.streams)).map(streamOf);
      unowned = [...new Set(services[middle].entries.map(e => e.bucket).filter(name => name && !buckets[bucketAt.get(name)].owners.length))];
    } else if (focus.kind === "stream") {
      links = [];
      kept = [streamOf(focus.name)];
    } else if (focus.kind === "name") {
      links = all.filter(l => l.kind === "names" && services[l.from].entries[l.from_entry].found === focus.name);
    } else {
      links = all.filter(l => services[l.from].entries[l.from_entry].bucket === focus.name && services[l.to].entries[l.to_entry].bucket === focus.name);
      if (!buckets[bucketAt.get(focus.name)].owners.length) unowned = [focus.name];
    }
    chosen = new Set(middle === undefined ? [] : [middle]);
    const there = focus.kind === "service" ? (state.messages ? once(services[middle].entries.flatMap(throughStreams)) : []) : near().services;
    for (const name of there) {
      if (chosen.size < MOST_AROUND) chosen.add(serviceAt.get(name)); else left++;
    }
    for (const link of links) for (const end of [link.from, link.to]) {
      if (chosen.has(end)) continue;
      if (chosen.size <= MOST_AROUND) chosen.add(end); else left++;
    }
    links = links.filter(l => chosen.has(l.from) && chosen.has(l.to));
    const picture = boxesOf([...chosen].sort((a, b) => a - b), links, unowned, kept, middle === undefined ? -1 : middle);
    if (picture.boxes.length) return paint(picture, left ? `${plural(left, "more connection")} not drawn; all are listed beside.` : "", false);
    return note(`Nothing is connected with ${focus.name}.`);
  }
  const found = shownServices();
  const chosen = new Set(found.map(s => serviceAt.get(s.name)));
  if (state.q) for (const link of all) if (chosen.size <= MOST_BOXES && matches(services[link.from].text, words())) chosen.add(link.to);
  const links = all.filter(l => chosen.has(l.from) && chosen.has(l.to));
  const unowned = state.q || state.account ? [] : buckets.filter(b => !b.owners.length && (!state.bad || hasProblem(b))).map(b => b.name);
  const through = s => aroundStream(s).some(name => chosen.has(serviceAt.get(name)));
  const kept = !state.messages ? [] : state.q || state.account ? streams.filter(through) : streams.filter(s => !state.bad || hasProblem(s));
  if (chosen.size + kept.length > (state.whole ? MOST_DRAWN : MOST_BOXES) || links.length > 3000) return drawCards(found);
  const picture = boxesOf([...chosen].sort((a, b) => a - b), links, unowned, kept);
  if (picture.lines.length > (state.whole ? 3000 : MOST_LINES)) return drawCards(found);
  if (!picture.boxes.length) return note("Nothing here fits the search and the filters.");
  paint(picture, "", true);
}
const note = text => byId("view").replaceChildren(make("p", { class: "note" }, text));
let zoom = 1;
function paint(picture, remark) {
  const { boxes, lines } = picture, size = layoutPicture(boxes, lines), view = byId("view"), pad = 26;
  const svg = make("svg", { viewBox: `${-pad} ${-pad} ${size.width + 2 * pad} ${size.height + 2 * pad}`, role: "group", "aria-label": "Picture: services, what they own, and what flows between them" });
  const defs = make("defs", {}, [...KINDS, "error"].map(kind =>
    make("marker", { id: "to-" + kind, class: kind, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" },
      make("path", { d: "M0,0L10,5L0,10z" }))));
  const under = make("g"), over = make("g"), labels = make("g");
  const taken = boxes.map(b => [b.x, b.y, b.x + b.w, b.y + b.h]);
  const drawn = lines.map(line => {
    const kind = line.level === "error" ? "error" : line.kind;
    const path = make("path", { class: `line ${line.kind} ${line.level}`, d: smoothPath(line.points), "marker-end": line.kind === "conflict" ? null : `url(#to-${kind})` });
    const parts = [path];
    under.append(path);
    const label = line.labels.slice(0, 2).join(", ") + (line.labels.length > 2 ? `, ${line.labels.length - 2} more` : "");
    path.append(make("title", {}, `${boxes[line.from].name} → ${boxes[line.to].name}: ${line.labels.join(", ") || line.kind}`));
    if (label && (lines.length <= MOST_LABELS || line.kind === "conflict")) {
      const shown = fit(label, "11.5px sans-serif", 190), width = measured(shown, "11.5px sans-serif");
      const length = path.getTotalLength();
      let best = null;
      for (const t of [0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2, 0.88]) {
        const p = path.getPointAtLength(length * t), r = [p.x - width / 2 - 2, p.y - 10, p.x + width / 2 + 2, p.y + 6];
        const free = taken.every(o => r[2] < o[0] || r[0] > o[2] || r[3] < o[1] || r[1] > o[3]);
        if (free || !best) best = { p, r, free };
        if (free) break;
      }
      if (best.free || line.level === "error" || lines.length <= 25) {
        taken.push(best.r);
        const text = make("text", { class: `label ${line.level}`, x: best.p.x, y: best.p.y + 3, "text-anchor": "middle" }, shown);
        labels.append(text);
        parts.push(text);
      }
    }
    return { line, parts };
  });
  boxes.forEach((box, index) => {
    const rows = box.rows.map((row, i) => make("g", { class: `row ${row.class || ""}` },
      make("rect", { x: box.x + 7, y: box.y + 33 + i * 24, width: box.w - 14, height: 21, rx: 4 }),
      make("text", { x: box.x + 15, y: box.y + 48 + i * 24 }, fit(row.name, ROW, box.w - 28)), make("title", {}, row.name)));
    const open = () => box.kind !== "nobody" ? focusOn(box.kind, box.name) : go({ view: "Buckets", focus: null });
    const node = make("g", { class: `box ${box.class || ""}`, tabindex: 0, role: "button",
      "aria-label": `${box.name}${box.rows.map(r => ", " + (r.said || r.name)).join("")}${/error/.test(box.class) ? ", has errors" : ""}`,
      onclick: open, onkeydown: event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } } },
      make("title", {}, box.name), make("rect", { class: "back", x: box.x, y: box.y, width: box.w, height: box.h, rx: 8 }),
      make("text", { class: "name", x: box.x + 12, y: box.y + 22 }, fit(box.name, NAME, box.w - 20)), rows,
      box.more ? make("text", { class: "faint", x: box.x + 15, y: box.y + box.h - 10 }, `and ${box.more} more`) : "");
    box.node = node;
    const show = () => {
      const near = new Set([index]);
      for (const { line, parts } of drawn) {
        const mine = line.from === index || line.to === index;
        if (mine) { near.add(line.from); near.add(line.to); }
        parts.forEach(part => part.classList.toggle("dim", !mine));
      }
      boxes.forEach((b, i) => b.node.classList.toggle("dim", !near.has(i)));
      svg.classList.add("quietly");
    };
    const hide = () => svg.classList.remove("quietly");
    node.addEventListener("mouseenter", show); node.addEventListener("mouseleave", hide);
    node.addEventListener("focus", () => { if (node.matches(":focus-visible")) show(); }); node.addEventListener("blur", hide);
    over.append(node);
  });
  svg.append(defs, under, over, labels);
  const frame = make("div", { class: "frame" }, svg);
  const scale = z => {
    zoom = Math.min(3, Math.max(0.1, z));
    svg.setAttribute("width", Math.round((size.width + 2 * pad) * zoom));
    svg.setAttribute("height", Math.round((size.height + 2 * pad) * zoom));
  };
  const whole = least => scale(Math.min(1.15, Math.max(least, Math.min(frame.clientWidth / (size.width + 2 * pad), frame.clientHeight / (size.height + 2 * pad)))));
  const tool = (name, sign, act) => make("button", { class: "plain", type: "button", "aria-label": name, title: name, onclick: act }, sign);
  frame.addEventListener("wheel", event => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); scale(zoom * (event.deltaY < 0 ? 1.15 : 0.87)); } }, { passive: false });
  view.classList.add("flush");
  view.replaceChildren(frame, make("div", { class: "zoom" }, remark ? make("span", { class: "badge" }, remark) : "",
    state.whole && !state.focus ? make("button", { class: "plain", type: "button", onclick: () => go({ whole: false }) }, "Cards") : "",
    tool("Smaller", "−", () => scale(zoom / 1.25)), tool("Larger", "+", () => scale(zoom * 1.25)), tool("Fit all", "Fit", () => whole(0.1))));
  // Small enough to see, large enough to read; on a narrow screen all of its width, to be enlarged.
  const across = frame.clientWidth / (size.width + 2 * pad);
  if (frame.clientWidth < NARROW && across > 0.12) scale(Math.min(1, across)); else whole(0.72);
  // What was chosen is in the middle; otherwise the first box is at the top left.
  const middle = over.querySelector(".middle");
  const first = boxes.reduce((a, b) => b.x < a.x || b.x === a.x && b.y < a.y ? b : a, boxes[0]);
  const at = (middle || first.node).getBoundingClientRect(), edge = frame.getBoundingClientRect();
  frame.scrollTop += middle ? at.top + at.height / 2 - edge.top - edge.height / 2 : at.top - edge.top - pad;
  frame.scrollLeft += middle ? at.left + at.width / 2 - edge.left - edge.width / 2 : at.left - edge.left - pad;
}
const rank = node => node.severity === "error" ? 0 : node.severity === "warning" ? 1 : 2;
function drawCards(found) {
  const shown = [...found].sort((a, b) => (rank(a) === 0 ? 0 : 1) - (rank(b) === 0 ? 0 : 1) || a.name.localeCompare(b.name, "en", { numeric: true })).slice(0, MOST_ROWS);
  const card = s => {
    const index = serviceAt.get(s.name), owned = s.entries.filter(e => e.verb === "owns");
    owned.sort((a, b) => rank(a) - rank(b));
    const others = new Set();
    s.entries.forEach((e, j) => { if (e.verb === "owns") for (const [o] of sides.get(key(index, j)) || []) others.add(o); });
    const count = verb => s.entries.filter(e => e.verb === verb).length;
    const counts = [others.size ? plural(others.size, "reader") : "", count("reads") ? `reads ${count("reads")}` : "",
      ...VERBS.slice(2).map(verb => count(verb) ? `${verb} ${count(verb)}` : "")].filter(Boolean).join(" · ");
    return make("button", { class: `card ${bad(s)}`, type: "button", onclick: () => focusOn("service", s.name) }, make("strong", {}, s.name),
      owned.slice(0, 3).map(e => make("span", { class: `own mono ${bad(e)}`, title: e.name }, e.name)),
      owned.length > 3 ? make("span", { class: "counts" }, `and ${owned.length - 3} more keyspaces`) : "", make("span", { class: "counts" }, counts || "nothing granted"));
  };
  const sections = groupsOf(shown).map(([name, list]) => make("section", {},
    name ? make("h2", { class: "group" }, make("span", { class: "mono" }, name), " ", make("span", { class: "soft" }, plural(list.length, "service"))) : "",
    make("div", { class: "cards" }, list.map(card))));
  byId("view").replaceChildren(make("p", { class: "note" }, found.length ? `${plural(found.length, "service")}, too much to read in one picture: each card shows what the service owns, errors first. ` +
    `Choose one to see it with its neighbours, search, or use the matrix.` : "Nothing here fits the search and the filters.",
    found.length > shown.length ? ` The first ${shown.length} are shown.` : "", " ",
    found.length <= MOST_DRAWN && found.length ? make("button", { class: "link", type: "button", onclick: () => go({ whole: true }) }, "Draw all of it anyway") : ""), ...sections);
}
// Services that belong together: those of one file of the policy, where there are several; otherwise
// those whose names begin alike. Errors first, then by name. One group has no name.
function groupsOf(list) {
  const by = name => {
    const groups = new Map();
    for (const s of list) { const n = name(s); if (!groups.has(n)) groups.set(n, []); groups.get(n).push(s); }
    return groups;
  };
  let groups = by(s => s.at.replace(/:\d+:\d+$/, ""));
  if (groups.size < 2) {
    groups = by(s => (s.name.match(/^(.*?)[-._]/) || ["", ""])[1]);
    const others = [...groups].filter(([name, members]) => !name || members.length < 2);
    for (const [name] of others) groups.delete(name);
    if (others.length) groups.set(groups.size ? "others" : "", others.flatMap(([, members]) => members));
  }
  const first = members => Math.min(...members.map(rank)) === 0 ? 0 : 1;
  const last = name => name === "others" ? 1 : 0;
  return [...groups].sort(([a, x], [b, y]) => first(x) - first(y) || last(a) - last(b) || a.localeCompare(b, "en", { numeric: true }));
}

// ---- tables
function table(heads, rows, total) {
  byId("view").replaceChildren(...[state.focus ? make("p", { class: "note" }, `Only what has to do with ${state.focus.name}. Esc shows all.`) : "",
    total > rows.length ? make("p", { class: "note" }, `The first ${rows.length} of ${total}; search for the others.`) : "",
    rows.length ? make("table", {}, make("thead", {}, make("tr", {}, heads.map(h => make("th", { scope: "col" }, h)))), make("tbody", {}, rows))
      : make("p", { class: "note" }, "Nothing here fits the search and the filters.")].filter(Boolean));
}
const listed = (entries, most = 5) => [...entries.slice(0, most).map(e => make("span", { class: `mono ${bad(e)}` }, e.name)),
  entries.length > most ? make("span", { class: "soft" }, `and ${entries.length - most} more`) : ""];
const badge = node => { const n = node.problems.filter(i => problems[i].severity === node.severity).length;
  return node.severity && node.severity !== "note" ? make("span", { class: `badge ${node.severity}` }, plural(n, node.severity)) : ""; };
function drawServices() {
  const found = shownServices();
  table(["Service", ...VERBS.map(v => v[0].toUpperCase() + v.slice(1).replace("_", " "))], found.slice(0, MOST_ROWS).map(s => make("tr", { class: bad(s) },
    make("th", { scope: "row" }, button("service", s.name), s.description ? make("div", { class: "soft" }, s.description) : "", badge(s)),
    VERBS.map(verb => make("td", {}, listed(s.entries.filter(e => e.verb === verb)))))), found.length);
}
function drawBuckets() {
  const found = shownBuckets();
  table([map.stores.length ? "Bucket or object store" : "Bucket", "Owner", "Readers", "Declared"], found.slice(0, MOST_ROWS).map(b => make("tr", { class: bad(b) },
    make("th", { scope: "row" }, button("bucket", b.name), b.description ? make("div", { class: "soft" }, b.description) : "", badge(b)),
    make("td", {}, b.owners.length ? joined(b.owners.map(n => button("service", n)), 6) : make("span", { class: "soft" }, "nobody")),
    make("td", {}, joined(b.readers.map(n => button("service", n)), 8)), make("td", { class: "mono soft" }, b.at || "no"))), found.length);
}
function drawStreams() {
  const shown = shownStreams();
  table(["Stream", "Writers", "Consumers", "Replayed by", "Declared"], shown.slice(0, MOST_ROWS).map(s => make("tr", { class: bad(s) },
    make("th", { scope: "row" }, button("stream", s.name), s.description ? make("div", { class: "soft" }, s.description) : "", badge(s)),
    make("td", {}, s.writers.length ? joined(s.writers.map(n => button("service", n)), 6) : make("span", { class: "soft" }, "nobody")),
    make("td", {}, joined(s.consumers.map(c => make("div", { class: bad(c) }, make("span", { class: `mono ${bad(c)}` }, c.name.slice(s.name.length + 1)), " ", c.users.length ? joined(c.users.map(n => button("service", n)), 4) : make("span", { class: "soft" }, "nobody"))), 8).filter(part => part !== ", ")),
    make("td", {}, joined(s.replayers.map(n => button("service", n)), 8)), make("td", { class: "mono soft" }, s.at || "no"))), shown.length);
}
function drawProblems() {
  const list = words();
  const found = problems.map((p, i) => [p, i]).filter(([p]) => matches([p.message, p.code, p.help, p.place && placeText(p.place)].join(" ").toLowerCase(), list) && (!state.bad || p.severity !== "note"));
  const worst = { error: 0, warning: 1, note: 2 };
  found.sort(([a], [b]) => worst[a.severity] - worst[b.severity]);
  const about = new Map();
  services.forEach(s => s.problems.forEach(i => { if (!about.has(i)) about.set(i, []); about.get(i).push(button("service", s.name)); }));
  for (const [kind, list] of [["bucket", buckets], ["stream", streams], ["name", names]])
    list.forEach(node => node.problems.forEach(i => { if (!about.has(i)) about.set(i, []); about.get(i).push(button(kind, node.name)); }));
  byId("view").replaceChildren(...found.map(([p, i]) => make("div", { class: `problem ${p.severity}` },
    make("p", {}, make("span", { class: `badge ${p.severity}` }, p.severity), " ", make("strong", {}, p.message)),
    p.place ? make("p", { class: "soft" }, make("span", { class: "mono" }, placeText(p.place)), p.place.label ? ` · ${p.place.label}` : "") : "",
    p.related.map(r => make("p", { class: "soft" }, make("span", { class: "mono" }, placeText(r)), r.label ? ` · ${r.label}` : "")),
    p.help ? make("p", {}, p.help) : "", about.has(i) ? make("p", { class: "soft" }, "About ", joined(about.get(i))) : "")),
  map.problems.unreported ? make("p", { class: "note" }, `And ${map.problems.unreported} more.`) : "", found.length ? "" : make("p", { class: "note" }, problems.length ? "No problem fits the search." : "No problems."));
}

// ---- matrix: services against buckets, in the order of ownership, so that owners form a diagonal
function drawMatrix() {
  const CELL = 20, view = byId("view");
  let rows = shownServices();
  const list = words(), wanted = new Set();
  if (list.length && state.q) buckets.forEach(b => { if (matches(b.text, list)) wanted.add(b.name); });
  rows = rows.filter(s => s.entries.some(e => e.bucket));
  if (state.focus && (state.focus.kind === "stream" || state.focus.kind === "name")) {
    const around = near().services;
    rows = rows.filter(s => around.has(s.name));
  } else if (state.focus) {
    const f = state.focus;
    const b = f.kind === "bucket" ? [f.name] : services[serviceAt.get(f.name)].entries.map(e => e.bucket).filter(Boolean);
    const set = new Set(b);
    rows = services.filter(s => s.entries.some(e => set.has(e.bucket)));
    set.forEach(name => wanted.add(name));
  }
  const cells = rows.map(s => {
    const row = new Map();
    for (const e of s.entries) if (e.bucket) {
      const cell = row.get(e.bucket) || { owns: "", reads: "", names: [], level: "" };
      const part = e.name.includes("/") ? "part" : "whole";
      if (cell[e.verb] !== "whole") cell[e.verb] = part;
      cell.names.push(`${e.verb} ${e.name}`);
      if (e.severity === "error") cell.level = "error";
      row.set(e.bucket, cell);
    }
    return row;
  });
  const columns = [], seen = new Set();
  const take = name => { if (!seen.has(name) && (!wanted.size || wanted.has(name))) { seen.add(name); columns.push(name); } };
  cells.forEach(row => row.forEach((cell, name) => { if (cell.owns) take(name); }));
  cells.forEach(row => [...row.keys()].forEach(take));
  if (!rows.length || !columns.length) return note("No keyspace here fits the search and the filters.");
  const font = "12.5px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  const left = Math.min(230, Math.max(...rows.map(s => measured(s.name, font))) + 22);
  const top = Math.min(180, Math.max(...columns.map(c => measured(c, font))) + 22) + 26;
  const canvas = make("canvas", { "aria-hidden": "true" });
  const space = make("div");
  space.style.width = left + columns.length * CELL + 90 + "px";
  space.style.height = top + rows.length * CELL + 20 + "px";
  let at = [0, 0], hover = null;
  const grid = make("div", { id: "grid", tabindex: 0, role: "application", "aria-label": "Matrix of services and buckets. Arrow keys move, Enter opens the service, B opens the bucket." }, space);
  space.append(canvas);
  view.classList.add("flush");
  view.replaceChildren(grid);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name);
  const paintGrid = () => {
    const w = grid.clientWidth, h = grid.clientHeight, dense = window.devicePixelRatio || 1, c = canvas.getContext("2d");
    if (canvas.width !== Math.round(w * dense) || canvas.height !== Math.round(h * dense)) {
      canvas.width = Math.round(w * dense); canvas.height = Math.round(h * dense);
      canvas.style.width = w + "px"; canvas.style.height = h + "px";
    }
    c.setTransform(dense, 0, 0, dense, 0, 0);
    c.fillStyle = colour("--back"); c.fillRect(0, 0, w, h);
    c.font = font;
    const x0 = left - grid.scrollLeft, y0 = top - grid.scrollTop;
    const r0 = Math.max(0, Math.floor(grid.scrollTop / CELL)), r1 = Math.min(rows.length, r0 + Math.ceil((h - top) / CELL) + 1);
    const c0 = Math.max(0, Math.floor(grid.scrollLeft / CELL)), c1 = Math.min(columns.length, c0 + Math.ceil((w - left) / CELL) + 1);
    const mark = hover || at;
    c.save(); c.beginPath(); c.rect(left, top, w, h); c.clip();
    c.fillStyle = colour("--paper"); c.fillRect(x0, y0, columns.length * CELL, rows.length * CELL);
    c.fillStyle = colour("--hover"); c.fillRect(x0, y0 + mark[0] * CELL, columns.length * CELL, CELL); c.fillRect(x0 + mark[1] * CELL, y0, CELL, rows.length * CELL);
    c.strokeStyle = colour("--line"); c.lineWidth = 0.5; c.beginPath();
    for (let r = r0; r <= r1; r++) { c.moveTo(x0 + c0 * CELL, y0 + r * CELL + .5); c.lineTo(x0 + c1 * CELL, y0 + r * CELL + .5); }
    for (let k = c0; k <= c1; k++) { c.moveTo(x0 + k * CELL + .5, y0 + r0 * CELL); c.lineTo(x0 + k * CELL + .5, y0 + r1 * CELL); }
    c.stroke();
    for (let r = r0; r < r1; r++) for (let k = c0; k < c1; k++) {
      const cell = cells[r].get(columns[k]);
      if (!cell) continue;
      const x = x0 + k * CELL, y = y0 + r * CELL;
      c.fillStyle = c.strokeStyle = cell.level ? colour("--error") : colour("--values");
      if (cell.owns === "whole") c.fillRect(x + 4, y + 4, CELL - 7, CELL - 7);
      else if (cell.owns) { c.beginPath(); c.moveTo(x + 4, y + 4); c.lineTo(x + CELL - 3, y + CELL - 3); c.lineTo(x + 4, y + CELL - 3); c.fill(); }
      else { c.lineWidth = 1.8; c.beginPath(); c.arc(x + CELL / 2 + .5, y + CELL / 2 + .5, 4.5, 0, cell.reads === "whole" ? 7 : Math.PI); c.stroke(); }
    }
    c.strokeStyle = colour("--accent"); c.lineWidth = 2; c.strokeRect(x0 + at[1] * CELL + 1, y0 + at[0] * CELL + 1, CELL - 1, CELL - 1);
    c.restore();
    c.save(); c.beginPath(); c.rect(0, top, left, h); c.clip();
    for (let r = r0; r < r1; r++) {
      c.fillStyle = rows[r].severity === "error" ? colour("--error") : r === mark[0] ? colour("--accent") : colour("--ink");
      c.fillText(fit(rows[r].name, font, left - 18), 10, y0 + r * CELL + 14);
    }
    c.restore();
    c.save(); c.beginPath(); c.rect(left - 8, 0, w, top); c.clip();
    for (let k = c0; k < c1; k++) {
      c.save();
      c.translate(x0 + k * CELL + 14, top - 6); c.rotate(-Math.PI / 2);
      const b = buckets[bucketAt.get(columns[k])];
      c.fillStyle = b.severity === "error" ? colour("--error") : k === mark[1] ? colour("--accent") : colour("--ink");
      c.fillText(fit(columns[k], font, top - 40), 0, 0);
      c.restore();
    }
    c.restore();
    c.fillStyle = colour("--soft"); c.fillText("■ owns   ◣ owns a part   ○ reads   ◡ reads a part", 10, 17);
  };
  const say = ([r, k]) => { const cell = cells[r].get(columns[k]); return `${rows[r].name}: ${cell ? cell.names.join(", ") : `nothing in ${columns[k]}`}`; };
  const under = event => {
    const box = grid.getBoundingClientRect(), r = Math.floor((event.clientY - box.top - top + grid.scrollTop) / CELL), k = Math.floor((event.clientX - box.left - left + grid.scrollLeft) / CELL);
    return [r, k];
  };
  const inside = ([r, k]) => r >= 0 && k >= 0 && r < rows.length && k < columns.length;
  grid.addEventListener("scroll", paintGrid);
  grid.addEventListener("mousemove", event => { const p = under(event); hover = inside(p) ? p : null; grid.title = hover ? say(hover) : ""; paintGrid(); });
  grid.addEventListener("mouseleave", () => { hover = null; paintGrid(); });
  grid.addEventListener("click", event => {
    const p = under(event), box = grid.getBoundingClientRect();
    if (event.clientX - box.left < left && rows[p[0]] && event.clientY - box.top > top) focusOn("service", rows[p[0]].name);
    else if (event.clientY - box.top < top && columns[p[1]]) focusOn("bucket", columns[p[1]]);
    else if (inside(p)) { const cell = cells[p[0]].get(columns[p[1]]); if (cell) focusOn("service", rows[p[0]].name); else { at = p; paintGrid(); } }
  });
  grid.addEventListener("keydown", event => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-15, 0], PageDown: [15, 0] }[event.key];
    if (event.key === "Enter") return focusOn("service", rows[at[0]].name);
    if (event.key === "b") return focusOn("bucket", columns[at[1]]);
    if (!step) return;
    event.preventDefault();
    hover = null;
    at = [Math.min(rows.length - 1, Math.max(0, at[0] + step[0])), Math.min(columns.length - 1, Math.max(0, at[1] + step[1]))];
    const x = at[1] * CELL, y = at[0] * CELL;
    grid.scrollLeft = Math.min(x, Math.max(grid.scrollLeft, x + CELL * 2 + left - grid.clientWidth));
    grid.scrollTop = Math.min(y, Math.max(grid.scrollTop, y + CELL * 2 + top - grid.clientHeight));
    byId("live").textContent = say(at);
    paintGrid();
  });
  new ResizeObserver(paintGrid).observe(grid);
  paintGrid();
}

// ---- head
function renderHead() {
  const count = map.problems, errors = count.errors;
  byId("summary").replaceChildren([plural(services.length, "service"), plural(map.buckets.length, "bucket"), map.stores.length ? plural(map.stores.length, "object store") : "", streams.length ? plural(streams.length, "stream") : "", "revision "].filter(Boolean).join(", "), make("span", { class: "mono", title: map.revision }, map.revision.slice(0, 12)), " · ",
    errors ? make("span", { class: "bad" }, `${plural(errors, "error")}: this policy does not hold`) : "no errors",
    count.warnings ? `, ${plural(count.warnings, "warning")}` : "", map.links_left_out ? " · too many connections; not all are here" : "");
  byId("tabs").replaceChildren(...VIEWS.map(view => make("button", { type: "button", role: "tab", "aria-selected": String(view === state.view), tabindex: view === state.view ? 0 : -1,
    onclick: () => go({ view }), onkeydown: event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); go({ view: VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length] }); byId("tabs").querySelector("[tabindex='0']").focus(); }
    } }, view === "Problems" && problems.length ? `Problems (${count.problems.length + count.unreported})` : view)));
  const check = (name, label, swatch) => make("label", {}, make("input", { type: "checkbox", checked: state[name], onchange: event => go({ [name]: event.target.checked }) }),
    swatch ? make("span", { class: `swatch ${name}` }) : "", label);
  const held = document.activeElement && document.activeElement.parentElement && document.activeElement.closest("#filters") ? [...byId("filters").querySelectorAll("input,select")].indexOf(document.activeElement) : -1;
  byId("filters").replaceChildren(...(state.view === "Picture" ? [check("values", "values to readers", true), check("messages", "messages", true), check("requests", "requests", true), ...(names.length ? [check("names", "found names", true)] : [])] : []),
    check("bad", "only with problems"), ...(accounts.length > 1 ? [make("label", {}, "account", make("select", { onchange: event => go({ account: event.target.value }) },
      make("option", { value: "" }, "all"), accounts.map(a => make("option", { value: a, selected: a === state.account }, a))))] : []));
  if (held >= 0) { const again = byId("filters").querySelectorAll("input,select")[held]; if (again) again.focus(); }
  const search = byId("search");
  if (document.activeElement !== search) search.value = state.q;
}
function render() {
  renderHead();
  renderDetail();
  const view = byId("view");
  view.classList.remove("flush");
  view.setAttribute("aria-label", state.view);
  ({ Picture: drawPicture, Matrix: drawMatrix, Services: drawServices, Buckets: drawBuckets, Streams: drawStreams, Problems: drawProblems })[state.view]();
  byId("live").textContent = state.focus ? `${state.focus.kind} ${state.focus.name}` : "";
}

// ---- search
let chosen = -1, timer = 0;
function suggestions() {
  const list = words();
  if (!list.length) return [];
  const score = name => { const n = name.toLowerCase(); return n === list[0] ? 0 : n.startsWith(list[0]) ? 1 : n.includes(list[0]) ? 2 : 3; };
  const found = [["service", services], ["bucket", buckets], ["stream", streams], ["name", names]].flatMap(([kind, nodes]) => nodes.filter(node => matches(node.text, list)).map(node => [kind, node.name]));
  return found.map(f => [score(f[1]), f]).sort((a, b) => a[0] - b[0]).slice(0, 10).map(f => f[1]);
}
function showFound() {
  const box = byId("search"), list = byId("found"), found = document.activeElement === box ? suggestions() : [];
  chosen = Math.min(chosen, found.length - 1);
  list.hidden = !found.length;
  box.setAttribute("aria-expanded", String(!!found.length));
  list.replaceChildren(...found.map(([kind, name], i) => make("li", { id: "found-" + i, role: "option", "aria-selected": String(i === chosen),
    onmousedown: event => { event.preventDefault(); pick(kind, name); } }, make("span", {}, name), make("span", {}, kind))));
  if (chosen >= 0) box.setAttribute("aria-activedescendant", "found-" + chosen); else box.removeAttribute("aria-activedescendant");
}
function pick(kind, name) {
  clearTimeout(timer);
  byId("search").value = "";
  byId("search").blur();
  byId("found").hidden = true;
  focusOn(kind, name);
  byId("view").focus();
}
byId("search").addEventListener("input", event => {
  chosen = -1;
  state.q = event.target.value.trim();
  showFound();
  clearTimeout(timer);
  timer = setTimeout(() => go({ focus: null }, true), 160);
});
byId("search").addEventListener("focus", showFound);
byId("search").addEventListener("blur", () => { byId("found").hidden = true; byId("search").setAttribute("aria-expanded", "false"); });
byId("search").addEventListener("keydown", event => {
  const found = suggestions();
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    chosen = Math.max(-1, Math.min(found.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
    showFound();
  } else if (event.key === "Enter" && found.length) pick(...found[Math.max(0, chosen)]);
  else if (event.key === "Escape") { event.stopPropagation(); event.target.value = ""; clearTimeout(timer); event.target.blur(); go({ q: "" }, true); }
});
document.addEventListener("keydown", event => {
  if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); byId("search").focus(); byId("search").select(); }
  else if (event.key === "Escape" && state.focus) go({ focus: null });
});

// ---- theme: the system's, unless told otherwise
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = null;
try { theme = localStorage.getItem("solewriter-theme"); } catch { /* a file may have no storage */ }
function setTheme() {
  const now = theme === "dark" || theme === "light" ? theme : dark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = now;
  byId("theme").textContent = now === "dark" ? "Light" : "Dark";
  return now;
}
byId("theme").addEventListener("click", () => {
  theme = setTheme() === "dark" ? "light" : "dark";
  try { localStorage.setItem("solewriter-theme", theme); } catch { /* then for now only */ }
  setTheme();
  render();
});
dark.addEventListener("change", () => { setTheme(); render(); });
addEventListener("popstate", () => { load(); render(); });
addEventListener("hashchange", () => { load(); render(); });
setTheme();
load();
render();
