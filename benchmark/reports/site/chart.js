"use strict";
// Charts: axes, labels that do not overlap, and keyboard navigation between points.

const TICKS = 6;

function linearTicks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / TICKS || 1));
  const wide = [1, 2, 5, 10].map((times) => times * step).find((each) => (high - low) / each <= TICKS);
  const ticks = [];
  for (let at = Math.ceil(low / wide); at * wide <= high; at++) ticks.push(+(at * wide).toPrecision(12));
  return ticks;
}

// A logarithmic axis; zero gets a separate position at the left.
function logAxis(values, left, right) {
  const positive = values.filter((value) => value > 0);
  const zero = positive.length < values.length;
  const start = left + (zero ? 64 : 0);
  const low = Math.log10(Math.min(...positive)) - 0.15;
  const high = Math.log10(Math.max(...positive)) + 0.25;
  const at = (value) => (value > 0 ? start + ((Math.log10(value) - low) / (high - low)) * (right - start) : left + 20);
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const times of high - low < 1 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : high - low < 3 ? [1, 2, 5] : [1]) {
      const value = times * 10 ** power;
      if (Math.log10(value) >= low && Math.log10(value) <= high) ticks.push(value);
    }
  }
  return { at: positive.length ? at : () => left + 20, ticks: zero ? [0, ...ticks] : ticks, start, zero };
}

// The Pareto front: points for which no other point at the same or a lower cost is as good.
function front(points) {
  const order = [...points].sort((a, b) => a.x - b.x || b.y - a.y);
  let best = -Infinity;
  return order.filter((point) => point.y > best && ((best = point.y), true));
}

// Labels next to their points where there is room; earlier points have priority.
function place(points, bounds) {
  const taken = points.map((point) => ({ left: point.px - 5, right: point.px + 5, top: point.py - 5, bottom: point.py + 5 }));
  const free = (box) => box.left >= bounds.left && box.right <= bounds.right && box.top >= bounds.top && box.bottom <= bounds.bottom
    && taken.every((other) => box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom);
  return points.flatMap((point) => {
    const width = point.label.length * 6.6 + 4;
    const places = [
      { anchor: "start", x: point.px + 9, y: point.py + 4, left: point.px + 7 },
      { anchor: "end", x: point.px - 9, y: point.py + 4, left: point.px - 7 - width },
      { anchor: "middle", x: point.px, y: point.py - 10, left: point.px - width / 2 },
      { anchor: "middle", x: point.px, y: point.py + 19, left: point.px - width / 2 },
    ];
    for (const { anchor, x, y, left } of places) {
      const box = { left, right: left + width, top: y - 11, bottom: y + 3 };
      if (free(box)) {
        taken.push(box);
        return [{ point, anchor, x, y }];
      }
    }
    return [];
  });
}

// The chart is one tab stop; arrow keys move between marks, Enter opens one.
function keys(nodes, show, open) {
  let now = 0;
  const go = (to) => {
    nodes[now].setAttribute("tabindex", "-1");
    now = (to + nodes.length) % nodes.length;
    nodes[now].setAttribute("tabindex", "0");
    nodes[now].focus();
  };
  nodes.forEach((node, at) => {
    node.setAttribute("tabindex", at ? "-1" : "0");
    node.addEventListener("focus", () => show(at));
    node.addEventListener("blur", () => tip(null));
    node.addEventListener("pointerenter", () => show(at));
    node.addEventListener("pointerleave", () => tip(null));
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) go(now + step);
      else if (event.key === "Home") go(0);
      else if (event.key === "End") go(nodes.length - 1);
      else if (event.key === "Enter" && open) open(at);
      else return;
      event.preventDefault();
    });
    node.addEventListener("mousedown", () => {
      nodes[now].setAttribute("tabindex", "-1");
      now = at;
    });
  });
}

function picker(id, label, options, value, change) {
  const select = el("select", { id, change: (event) => change(options[event.target.value][0]) },
    options.map(([key, text], at) => el("option", { value: at, selected: key === value }, cut(text, 80))));
  return el("div", { class: "field" }, el("label", { for: id }, label), select);
}
