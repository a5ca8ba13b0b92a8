
"use strict";
// Where boxes and lines go: layers from left to right, so that what flows, flows to the right.
// layoutPicture(boxes, lines): boxes have w and h; lines have from and to (indices), and fromY (the
// height at the box where they leave). Sets x, y of boxes and points of lines; returns the size.
function layoutPicture(boxes, lines) {
  const GAP_X = lines.some(line => line.labels.length) && lines.length <= 60 ? 190 : 110, GAP_Y = 22, THIN = 6;
  const gap = (a, b) => a && b ? (a.box || b.box ? GAP_Y - (a.box && b.box ? 0 : 8) : 7) : 0;
  const out = boxes.map(() => new Set()), into = boxes.map(() => new Set());
  for (const line of lines) if (line.from !== line.to) { out[line.from].add(line.to); into[line.to].add(line.from); }
  const connected = boxes.map((_, i) => out[i].size + into[i].size > 0);

  // Lines that would close a circle are turned round for the layering.
  const state = new Array(boxes.length).fill(0), back = new Set();
  const order = [...boxes.keys()].sort((a, b) => (into[a].size - out[a].size) - (into[b].size - out[b].size) || a - b);
  for (const root of order) {
    if (state[root]) continue;
    const stack = [[root, [...out[root]]]];
    state[root] = 1;
    while (stack.length) {
      const [node, rest] = stack[stack.length - 1];
      const next = rest.shift();
      if (next === undefined) { state[node] = 2; stack.pop(); continue; }
      if (state[next] === 1) back.add(node + ">" + next);
      else if (!state[next]) { state[next] = 1; stack.push([next, [...out[next]]]); }
    }
  }
  const forward = boxes.map(() => new Set()), behind = boxes.map(() => new Set());
  out.forEach((set, a) => set.forEach(b => {
    const [from, to] = back.has(a + ">" + b) ? [b, a] : [a, b];
    forward[from].add(to); behind[to].add(from);
  }));

  // Each as far left as what is before it allows; then sources move next to what they feed.
  const layer = new Array(boxes.length).fill(0), left = behind.map(set => set.size);
  const ready = [...boxes.keys()].filter(i => !left[i]), sorted = [];
  while (ready.length) {
    const node = ready.shift();
    sorted.push(node);
    for (const next of forward[node]) {
      layer[next] = Math.max(layer[next], layer[node] + 1);
      if (--left[next] === 0) ready.push(next);
    }
  }
  for (const node of sorted.reverse())
    if (!behind[node].size && forward[node].size) layer[node] = Math.min(...[...forward[node]].map(n => layer[n])) - 1;

  // Layers of places: boxes, and thin places where a long line passes.
  const layers = [];
  const put = (at, place) => { (layers[at] = layers[at] || []).push(place); return place; };
  const places = boxes.map((box, i) => connected[i] ? put(layer[i], { box, h: box.h, up: [], down: [], y: 0 }) : null);
  const routes = new Map();
  for (let a = 0; a < boxes.length; a++) for (const b of forward[a]) {
    const route = [];
    let last = places[a];
    for (let at = layer[a] + 1; at < layer[b]; at++) {
      const thin = put(at, { h: THIN, up: [], down: [], y: 0 });
      last.down.push(thin); thin.up.push(last); route.push(thin); last = thin;
    }
    last.down.push(places[b]); places[b].up.push(last);
    routes.set(a + ">" + b, route);
  }
  for (let i = 0; i < layers.length; i++) layers[i] = layers[i] || [];

  // Order within layers by the average of the neighbours, there and back.
  const number = () => layers.forEach(list => list.forEach((p, i) => { p.at = i / Math.max(1, list.length - 1) ; }));
  number();
  const mean = (list, of, or) => list.length ? list.reduce((sum, p) => sum + of(p), 0) / list.length : or;
  for (let sweep = 0; sweep < 24; sweep++) {
    const list = sweep % 2 ? [...layers].reverse() : layers;
    for (const places of list) {
      for (const p of places) p.wish = mean(sweep % 2 ? p.down : p.up, q => q.at, p.at);
      places.sort((a, b) => a.wish - b.wish);
      places.forEach((p, i) => { p.at = i / Math.max(1, places.length - 1); });
    }
  }

  // Heights: each near its neighbours' middle, none over another (pool adjacent violators).
  const middle = p => p.y + p.h / 2;
  const stack = places => { let y = 0; places.forEach((p, i) => { y += gap(places[i - 1], p); p.y = y; y += p.h; }); return y; };
  const heights = layers.map(stack), tallest = Math.max(0, ...heights);
  layers.forEach((list, i) => list.forEach(p => { p.y += (tallest - heights[i]) / 2; }));
  for (let sweep = 0; sweep < 16; sweep++) {
    for (const places of sweep % 2 ? [...layers].reverse() : layers) {
      const blocks = [];
      let offset = 0;
      for (const [i, p] of places.entries()) {
        offset += gap(places[i - 1], p);
        const near = sweep % 2 ? p.down : p.up;
        const wish = mean(near.length ? near : p.up.concat(p.down), middle, middle(p)) - p.h / 2 - offset;
        let block = { sum: wish, n: 1, list: [[p, offset]] };
        while (blocks.length && blocks[blocks.length - 1].sum / blocks[blocks.length - 1].n > block.sum / block.n) {
          const before = blocks.pop();
          block = { sum: before.sum + block.sum, n: before.n + block.n, list: before.list.concat(block.list) };
        }
        blocks.push(block);
        offset += p.h;
      }
      for (const block of blocks) for (const [p, offset] of block.list) p.y = block.sum / block.n + offset;
    }
  }
  const top = Math.min(0, ...layers.flat().map(p => p.y));
  layers.flat().forEach(p => { p.y -= top; if (p.box) p.box.y = p.y; });

  let x = 0, height = 0;
  for (const places of layers) {
    const width = Math.max(0, ...places.map(p => p.box ? p.box.w : 0));
    for (const p of places) { p.x = x; p.w = width; if (p.box) p.box.x = x + (width - p.box.w) / 2; height = Math.max(height, p.y + p.h); }
    x += width + GAP_X;
  }
  let width = Math.max(0, x - GAP_X);

  // What has no line goes below, in rows.
  const alone = boxes.filter((_, i) => !connected[i]);
  if (alone.length) {
    const most = Math.max(width, 900);
    let ax = 0, ay = height ? height + 50 : 0, row = 0;
    for (const box of alone) {
      if (ax && ax + box.w > most) { ax = 0; ay += row + GAP_Y; row = 0; }
      box.x = ax; box.y = ay; ax += box.w + 24; row = Math.max(row, box.h);
      width = Math.max(width, box.x + box.w);
    }
    height = ay + row;
  }

  // Lines come in spread over the side they come to, in the order of where they come from.
  const arriving = new Map();
  for (const line of lines) {
    const turned = back.has(line.from + ">" + line.to);
    line.turned = turned;
    const key = line.to + (turned ? "r" : "l");
    if (!arriving.has(key)) arriving.set(key, []);
    arriving.get(key).push(line);
  }
  for (const list of arriving.values()) {
    list.sort((a, b) => (boxes[a.from].y + a.fromY) - (boxes[b.from].y + b.fromY));
    const box = boxes[list[0].to];
    list.forEach((line, i) => { line.toY = box.h * (i + 1) / (list.length + 1); });
  }
  for (const line of lines) {
    const from = boxes[line.from], to = boxes[line.to];
    const route = line.turned
      ? [...(routes.get(line.to + ">" + line.from) || [])].reverse()
      : routes.get(line.from + ">" + line.to) || [];
    const points = [[line.turned ? from.x : from.x + from.w, from.y + line.fromY]];
    for (const thin of route) {
      const y = thin.y + thin.h / 2, ends = [[thin.x, y], [thin.x + thin.w, y]];
      points.push(...(line.turned ? ends.reverse() : ends));
    }
    points.push([line.turned ? to.x + to.w : to.x, to.y + line.toY]);
    line.points = points;
  }
  return { width, height };
}

// A smooth path through points that are left and right ends of straight pieces.
function smoothPath(points) {
  let path = `M${points[0][0]},${points[0][1]}`;
  for (let i = 1; i < points.length; i++) {
    const [ax, ay] = points[i - 1], [bx, by] = points[i];
    const bend = (bx - ax) * 0.5;
    path += ay === by ? `L${bx},${by}` : `C${ax + bend},${ay} ${bx - bend},${by} ${bx},${by}`;
  }
  return path;
}
