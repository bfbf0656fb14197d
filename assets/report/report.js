"use strict";
// Zoom and crosshair, shared by every chart whose x is time. The charts are whole without this script: all it does is move
// each plot's contents (one transform), redraw its ticks, and say what lies under the crosshair.
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(NS, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.appendChild(element);
    return element;
  };
  const numbers = (text) => text.split(" ").map(Number);

  const charts = [];
  for (const plot of document.querySelectorAll('.plot[data-timed="true"]')) {
    const svg = plot.ownerSVGElement;
    const [left, top, width, height] = numbers(plot.dataset.frame);
    const data = plot.querySelector(".data");
    const step = Number(/scale\(([^)]+)\)/.exec(data.getAttribute("transform"))[1]);
    charts.push({ svg, plot, data, step, left, top, width, height, x: numbers(plot.dataset.x), y: numbers(plot.dataset.y),
      unit: plot.dataset.unit, axes: svg.querySelector(".axes"), still: null, over: make("g", {}, svg) });
  }
  if (!charts.length) return;
  const whole = charts[0].x.slice();
  const least = Math.min(10, (whole[1] - whole[0]) / 4); // seconds: there is nothing to see below the sampling
  let view = whole.slice();
  let hair = null;
  let tight = false; // y by the samples alone, rather than by what the tolerance allows

  // The points of a chart's lines in data units, read from the paths once, when they are first asked for.
  const lines = (c) => c.lines || (c.lines = [...c.data.querySelectorAll(".l.i-sample, .l.i-second, .l.i-third")].map((path) => {
    const points = [];
    let x = 0, y = 0;
    for (const match of path.getAttribute("d").matchAll(/[Ml](-?\d+) ?(-?\d+)/g)) {
      x += Number(match[1]); y += Number(match[2]);
      points.push([c.x[0] + (x * c.step - c.left) / c.width * (c.x[1] - c.x[0]), c.y[1] - (y * c.step - c.top) / c.height * (c.y[1] - c.y[0])]);
    }
    return points;
  }));

  const digits = (value, step) => value.toFixed(Math.min(9, Math.max(0, -Math.floor(Math.log10(step))))).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
  const written = (value, step, unit) => {
    if (unit === "ms") return digits(value, step) + " ms";
    if (unit !== "bytes") return digits(value, step);
    const size = Math.max(Math.abs(value), step);
    const [per, name] = size >= 1e9 && step >= 1e6 ? [1e9, "GB"] : size >= 1e6 && step >= 1e3 ? [1e6, "MB"] : size >= 1e3 ? [1e3, "kB"] : [1, "B"];
    return digits(value / per, step / per) + " " + name;
  };
  const two = (n) => String(n).padStart(2, "0");
  const clock = (t, seconds) => { const d = new Date(t * 1000); return two(d.getUTCHours()) + ":" + two(d.getUTCMinutes()) + (seconds ? ":" + two(d.getUTCSeconds()) : ""); };
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
  const day = (t) => { const d = new Date(t * 1000); return MONTHS[d.getUTCMonth()] + " " + d.getUTCDate(); };
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];
  const span = (s) => s >= 5400 ? (s / 3600).toFixed(1) + " h" : s >= 90 ? (s / 60).toFixed(1) + " min" : s.toFixed(0) + " s";

  const range = (c) => {
    if (!tight && view[0] === whole[0] && view[1] === whole[1]) return c.y;
    let lo = Infinity, hi = -Infinity;
    for (const line of lines(c)) for (const [t, v] of line) if (t >= view[0] && t <= view[1]) { lo = Math.min(lo, v); hi = Math.max(hi, v); }
    if (!(lo <= hi)) return c.y;
    const room = Math.max((hi - lo) * 0.25, (c.y[1] - c.y[0]) * 1e-3);
    return [lo - room, hi + room];
  };

  const ticks = (lo, hi, count) => {
    const rough = (hi - lo) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999) || power * 10;
    const out = [];
    for (let i = Math.ceil(lo / step - 1e-9); i <= Math.floor(hi / step + 1e-9); i++) out.push(i * step);
    return [out, step];
  };

  const axes = (c) => {
    if (c.now === c.y && !tight && view[0] === whole[0] && view[1] === whole[1]) { if (c.still !== null) c.axes.innerHTML = c.still; return; }
    if (c.still === null) c.still = c.axes.innerHTML;
    c.axes.textContent = "";
    const label = (x, y, anchor, text) => { make("text", { x, y, "text-anchor": anchor, "font-size": 11, class: "i-dim" }, c.axes).textContent = text; };
    const grid = (d) => make("path", { d, class: "l i-grid", "stroke-width": 1 }, c.axes);
    const [values, step] = ticks(c.now[0], c.now[1], Math.floor(c.height / 42));
    for (const v of values) {
      const y = c.top + (c.now[1] - v) / (c.now[1] - c.now[0]) * c.height;
      grid(`M${c.left} ${y}h${c.width}`);
      label(c.left - 7, y + 4, "end", written(v, step, c.unit));
    }
    const rough = (view[1] - view[0]) / Math.floor(c.width / 80), pace = STEPS.find((s) => s >= rough) || 2592000;
    for (let t = Math.ceil(view[0] / pace) * pace; t <= view[1]; t += pace) {
      const x = c.left + (t - view[0]) / (view[1] - view[0]) * c.width;
      grid(`M${x} ${c.top}v${c.height}`);
      label(x, c.top + c.height + 16, "middle", t % 86400 === 0 ? day(t) : clock(t, pace < 60));
    }
  };

  const draw = (c) => {
    c.now = range(c);
    const sx = (c.x[1] - c.x[0]) / (view[1] - view[0]), sy = (c.y[1] - c.y[0]) / (c.now[1] - c.now[0]);
    const tx = c.left - c.left * sx + (c.x[0] - view[0]) / (view[1] - view[0]) * c.width;
    const ty = c.top - c.top * sy + (c.now[1] - c.y[1]) / (c.now[1] - c.now[0]) * c.height;
    c.data.setAttribute("transform", `matrix(${sx * c.step} 0 0 ${sy * c.step} ${tx} ${ty})`);
    axes(c);
  };

  const crosshair = () => {
    for (const c of charts) {
      c.over.textContent = "";
      if (hair === null || hair < view[0] || hair > view[1] || !c.visible) continue;
      const x = c.left + (hair - view[0]) / (view[1] - view[0]) * c.width;
      make("line", { x1: x, x2: x, y1: c.top, y2: c.top + c.height, class: "hair" }, c.over);
      const read = [];
      for (const line of lines(c)) {
        let best = null;
        for (let lo = 0, hi = line.length - 1; lo <= hi;) { const m = (lo + hi) >> 1; if (best === null || Math.abs(line[m][0] - hair) < Math.abs(best[0] - hair)) best = line[m]; if (line[m][0] < hair) lo = m + 1; else hi = m - 1; }
        if (!best || Math.abs(best[0] - hair) > (view[1] - view[0]) / 50) continue;
        const y = c.top + (c.now[1] - best[1]) / (c.now[1] - c.now[0]) * c.height;
        if (y >= c.top && y <= c.top + c.height) make("circle", { cx: x, cy: y, r: 3.5, class: "dot" }, c.over);
        read.push(written(best[1], (c.now[1] - c.now[0]) / 500, c.unit));
      }
      const right = x > c.left + c.width * 0.75;
      const text = make("text", { x: x + (right ? -7 : 7), y: c.top + 14, class: "readout", "text-anchor": right ? "end" : "start" }, c.over);
      text.textContent = `${day(hair)} ${clock(hair, true)}  ${[...new Set(read)].join(" / ")}`;
      if (c === focused) tip.textContent = text.textContent;
    }
  };

  const tip = document.getElementById("tip"), output = document.getElementById("range");
  let focused = null, waiting = 0;
  const refresh = () => {
    if (waiting) return;
    waiting = requestAnimationFrame(() => {
      waiting = 0;
      for (const c of charts) if (c.visible) draw(c); else c.stale = true;
      crosshair();
      const zoomed = view[0] !== whole[0] || view[1] !== whole[1];
      output.textContent = zoomed ? `${day(view[0])} ${clock(view[0], true)} to ${day(view[1])} ${clock(view[1], true)} (${span(view[1] - view[0])})` : `whole run (${span(whole[1] - whole[0])})`;
    });
  };
  const show = (from, to) => {
    let length = Math.min(whole[1] - whole[0], Math.max(least, to - from));
    let start = Math.min(Math.max(whole[0], from), whole[1] - length);
    view = length >= whole[1] - whole[0] ? whole.slice() : [start, start + length];
    refresh();
  };
  const zoom = (factor, at) => { const middle = at === undefined ? (view[0] + view[1]) / 2 : at; show(middle - (middle - view[0]) * factor, middle + (view[1] - middle) * factor); };
  const move = (share) => { const by = (view[1] - view[0]) * share; show(view[0] + by, view[1] + by); };
  const actions = { in: () => zoom(0.5, hair === null ? undefined : hair), out: () => zoom(2), left: () => move(-0.25), right: () => move(0.25), all: () => show(whole[0], whole[1]), fit: () => { tight = !tight; fit.setAttribute("aria-pressed", tight); refresh(); } };

  const fit = document.querySelector('[data-do="fit"]');
  document.querySelector(".controls").hidden = false;
  document.querySelector(".hint").hidden = false;
  tip.hidden = false;
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) for (const c of charts) if (c.svg === entry.target) {
      c.visible = entry.isIntersecting;
      if (c.visible && c.stale) { c.stale = false; draw(c); }
    }
  }, { rootMargin: "200px" });

  for (const c of charts) {
    seen.observe(c.svg);
    // A picture that answers to keys is an application to a screen reader: it hands the keys on instead of keeping them.
    c.svg.setAttribute("tabindex", "0");
    c.svg.setAttribute("role", "application");
    c.svg.setAttribute("aria-roledescription", "chart");
    c.svg.setAttribute("aria-keyshortcuts", "+ - 0 y [ ] ArrowLeft ArrowRight Escape");
    const time = (event) => {
      const box = c.svg.getBoundingClientRect(), x = (event.clientX - box.left) * (c.svg.viewBox.baseVal.width / box.width);
      return view[0] + (Math.min(c.left + c.width, Math.max(c.left, x)) - c.left) / c.width * (view[1] - view[0]);
    };
    let from = null, pointer = null;
    c.svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      from = time(event); pointer = event.pointerId;
    });
    c.svg.addEventListener("pointermove", (event) => {
      hair = time(event);
      crosshair();
      if (from !== null) {
        c.svg.setPointerCapture(pointer);
        const [a, b] = [from, hair].sort((p, q) => p - q).map((t) => c.left + (t - view[0]) / (view[1] - view[0]) * c.width);
        make("rect", { x: a, y: c.top, width: b - a, height: c.height, class: "brush" }, c.over);
      }
    });
    c.svg.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const to = time(event), [a, b] = from < to ? [from, to] : [to, from];
      from = null;
      if (b - a > (view[1] - view[0]) / 100) show(a, b); else crosshair();
    });
    c.svg.addEventListener("pointerleave", () => { if (from === null) { hair = null; crosshair(); } });
    c.svg.addEventListener("dblclick", actions.all);
    c.svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, time(event));
    }, { passive: false });
    c.svg.addEventListener("focus", () => { focused = c; });
    c.svg.addEventListener("keydown", (event) => {
      const keys = { "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.all, y: actions.fit, ArrowLeft: actions.left, ArrowRight: actions.right,
        "[": () => step(-1), "]": () => step(1), Escape: () => { hair = null; crosshair(); } };
      const action = keys[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    });
    const step = (by) => { hair = Math.min(view[1], Math.max(view[0], (hair === null ? (view[0] + view[1]) / 2 : hair) + by * (view[1] - view[0]) / 50)); crosshair(); };
  }
  // Paper cannot be opened: hardware and what is not judged go out with the rest, and are closed again afterwards.
  let closed = [];
  addEventListener("beforeprint", () => {
    hair = null; tight = false; view = whole.slice();
    closed = [...document.querySelectorAll("details.more:not([open])")];
    for (const part of closed) part.open = true;
    for (const c of charts) draw(c);
    crosshair();
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
  refresh();
})();
