// Keeps the numbers of an open page fresh, draws the chart, and sends forms without leaving the page. Without it everything works too.
"use strict";
(() => {
  const main = document.getElementById("main");
  const base = main?.dataset.base;
  const numbers = document.getElementById("numbers");
  const said = document.getElementById("said");

  // Chart

  let plot = null;
  let observer = null;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const formats = {
    "quarter-hour": { hour: "2-digit", minute: "2-digit", weekday: "short", hourCycle: "h23" },
    "hour": { hour: "2-digit", minute: "2-digit", weekday: "short", day: "numeric", month: "short", hourCycle: "h23" },
    "day": { weekday: "short", day: "numeric", month: "short", year: "numeric" },
    "week": { day: "numeric", month: "short", year: "numeric" },
    "month": { month: "long", year: "numeric" },
  };

  // extras draws what lies under and over the lines: times of which events are missing, and notes.
  const extras = (data) => ({
    hooks: {
      drawClear: (u) => {
        u.ctx.save();
        u.ctx.fillStyle = color("--warn-bg");
        for (const gap of data.gaps) {
          const from = Math.max(u.valToPos(gap.from, "x", true), u.bbox.left);
          const to = Math.min(u.valToPos(gap.to, "x", true), u.bbox.left + u.bbox.width);
          if (to > from) u.ctx.fillRect(from, u.bbox.top, to - from, u.bbox.height);
        }
        u.ctx.restore();
      },
      draw: (u) => {
        u.ctx.save();
        u.ctx.fillStyle = color("--soft");
        for (const mark of data.marks) {
          const x = u.valToPos(mark.at, "x", true);
          if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
          u.ctx.beginPath();
          u.ctx.arc(x, u.bbox.top + u.bbox.height - 5 * devicePixelRatio, 3 * devicePixelRatio, 0, 2 * Math.PI);
          u.ctx.fill();
        }
        u.ctx.restore();
      },
    },
  });

  const tip = (data) => {
    const box = document.createElement("div");
    box.className = "tip";
    box.hidden = true;
    const format = new Intl.DateTimeFormat("en-GB", { ...formats[data.interval], timeZone: data.zone });
    return {
      hooks: {
        init: (u) => {
          u.over.append(box);
          u.over.addEventListener("mouseleave", () => { box.hidden = true; });
        },
        setCursor: (u) => {
          const i = u.cursor.idx;
          box.hidden = i == null || u.cursor.left < 0;
          if (box.hidden) return;
          const say = (n, one, many) => (n == null ? "unknown " + many : n.toLocaleString("en-GB") + " " + (n === 1 ? one : many));
          box.replaceChildren(format.format(new Date(u.data[0][i] * 1000)), document.createElement("br"),
            say(u.data[1][i], "view", "views") + ", " + say(u.data[2][i], "click", "clicks"));
          const x = u.valToPos(u.data[0][i], "x");
          box.style.left = Math.min(Math.max(x - box.offsetWidth / 2, 0), u.over.offsetWidth - box.offsetWidth) + "px";
          box.style.top = "0px";
        },
      },
    };
  };

  const draw = () => {
    const place = numbers?.querySelector("[data-chart]");
    plot?.destroy();
    observer?.disconnect();
    plot = null;
    if (!place || typeof uPlot === "undefined") return;
    const data = JSON.parse(place.dataset.chart);
    if (data.times.length === 0) return;
    const bars = data.times.length <= 2;
    const line = (label, name) => ({
      label, stroke: color("--" + name), width: 2.25, spanGaps: false,
      fill: name === "views" ? color("--views-soft") + (matchMedia("(prefers-color-scheme: dark)").matches ? "88" : "99") : undefined,
      points: { show: bars, size: 8, fill: color("--" + name) },
    });
    const axis = { stroke: color("--soft"), font: "12px system-ui", grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    const size = () => ({ width: place.clientWidth, height: place.clientHeight });
    plot = new uPlot({
      ...size(),
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), data.zone),
      legend: { show: false },
      cursor: { y: false, points: { size: 8 }, drag: { x: false, y: false } },
      scales: { y: { range: (u, min, max) => [0, Math.max(max, 4)] } },
      axes: [
        { ...axis, grid: { show: false }, space: 70, values: [
          [86400 * 28, "{MMM} {YYYY}", null, null, null, null, null, null, 1],
          [86400, "{D} {MMM}", null, null, null, null, null, null, 1],
          [3600, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
          [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
        ] },
        { ...axis, size: 46, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7],
          values: (u, list) => list.map((n) => (n >= 1e6 ? n / 1e6 + "M" : n >= 1e4 ? n / 1e3 + "k" : n)) },
      ],
      series: [{}, line("Views", "views"), line("Clicks", "clicks")],
      plugins: [extras(data), tip(data)],
    }, [data.times, data.views, data.clicks], place);
    observer = new ResizeObserver(() => plot?.setSize(size()));
    observer.observe(place);
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // Parts of the page that are replaced keep what the reader has opened and where the keyboard is.

  const key = (element) => element?.dataset?.focus || element?.id || (element?.name ? element.form?.getAttribute("action") + " " + element.name + " " + element.value : "") || element?.getAttribute?.("href");
  const replace = (part, html) => {
    const open = new Set([...part.querySelectorAll("details[data-keep][open]")].map((d) => d.dataset.keep));
    const held = part.contains(document.activeElement) ? key(document.activeElement) : null;
    const scrolled = [...part.querySelectorAll(".scroll")].map((s) => s.scrollTop);
    part.innerHTML = html;
    for (const d of part.querySelectorAll("details[data-keep]")) if (open.has(d.dataset.keep)) d.open = true;
    [...part.querySelectorAll(".scroll")].forEach((s, i) => { s.scrollTop = scrolled[i] || 0; });
    if (held) for (const e of part.querySelectorAll("a,button,summary,input,select,textarea")) if (key(e) === held) { e.focus({ preventScroll: true }); break; }
  };

  // Live numbers

  let loading = false;
  let again = false;
  const refresh = async () => {
    if (loading) { again = true; return; }
    loading = true;
    try {
      const query = new URLSearchParams(location.search);
      query.set("part", "numbers");
      const answer = await fetch(base + "?" + query, { cache: "no-store" });
      // Whoever writes into the form of a free range is not disturbed.
      if (answer.ok && !numbers.querySelector(".free input:focus")) {
        const before = new Map([...numbers.querySelectorAll("[data-number]")].map((e) => [e.dataset.number, e.textContent]));
        replace(numbers, await answer.text());
        for (const e of numbers.querySelectorAll("[data-number]")) {
          if (before.has(e.dataset.number) && before.get(e.dataset.number) !== e.textContent) {
            e.classList.add("fresh");
            setTimeout(() => e.classList.remove("fresh"), 700);
          }
        }
        draw();
      }
    } catch { /* the stream says when there is something new again */ }
    setTimeout(() => { loading = false; if (again) { again = false; refresh(); } }, 700);
  };
  if (base && numbers && window.EventSource) {
    let source = null;
    const watch = () => {
      source = new EventSource(base + "/live?seen=" + (numbers.querySelector("[data-state]")?.dataset.state ?? ""));
      source.addEventListener("changed", refresh);
      source.addEventListener("through", (event) => {
        const place = numbers.querySelector("[data-through]");
        if (place) place.textContent = event.data;
      });
      source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) setTimeout(watch, 5000); });
    };
    watch();
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) watch(); });
    setInterval(() => { if (!document.hidden) refresh(); }, 60000); // ranges move with the clock
  }

  // Forms

  const manage = document.getElementById("manage");
  const settle = (html) => {
    replace(manage, html);
    const done = manage.querySelector("[data-done]")?.textContent;
    if (done) said.textContent = done;
    const frame = manage.querySelector("iframe");
    // Visitors' pages follow within a second.
    if (frame) setTimeout(() => { if (frame.isConnected) frame.src = frame.getAttribute("src"); }, 1200);
    soon();
  };
  // A message on its way to a webhook is looked after until it has arrived, unless somebody is writing or a secret is to be copied.
  let looking = 0;
  const soon = () => {
    clearTimeout(looking);
    if (!manage?.querySelector("[data-soon]") || manage.querySelector(".secret")) return;
    looking = setTimeout(async () => {
      if (manage.matches(".busy") || manage.querySelector("input:focus,textarea:focus,.edit[open],.drag")) { soon(); return; }
      try {
        const answer = await fetch(base + "?part=manage", { cache: "no-store" });
        if (answer.ok && !answer.redirected && !manage.matches(".busy")) replace(manage, await answer.text());
      } catch { /* the next look may find it */ }
      soon();
    }, 1500);
  };
  soon();
  // One change after the other: the answers come in the order of the changes.
  let last = Promise.resolve();
  const send = (action, body) => { last = last.then(() => change(action, body)); return last; };
  const change = async (action, body) => {
    manage.classList.add("busy");
    try {
      const answer = await fetch(action, { method: "POST", body, headers: { "X-Part": "manage" } });
      if (answer.headers.get("X-Location")) { location.assign(answer.headers.get("X-Location")); return; }
      if (answer.redirected || !(answer.ok || answer.status === 422)) { location.reload(); return; }
      settle(await answer.text());
      if (answer.ok) refresh();
      else manage.querySelector("[role=alert]")?.closest("form,section")?.querySelector("input")?.focus();
    } catch {
      said.textContent = "This could not be saved: the server does not answer.";
      alert(said.textContent);
    } finally {
      manage.classList.remove("busy");
    }
  };
  manage?.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-part]")) return;
    event.preventDefault();
    const question = event.submitter?.dataset.confirm;
    if (question && !confirm(question)) return;
    const body = new URLSearchParams(new FormData(form));
    if (event.submitter?.name) body.set(event.submitter.name, event.submitter.value);
    send(form.getAttribute("action"), body);
  });

  // Order by drag

  manage?.addEventListener("pointerdown", (event) => {
    const item = event.target.closest?.(".grip")?.closest(".link");
    if (!item || event.button !== 0) return;
    event.preventDefault();
    const list = item.parentElement;
    const grip = item.querySelector(".grip");
    grip.setPointerCapture(event.pointerId);
    item.classList.add("drag");
    let from = event.clientY;
    const before = [...list.children].indexOf(item);
    const middle = (e) => { const box = e.getBoundingClientRect(); return box.top + box.height / 2; };
    const follow = (y) => { item.style.transform = "translateY(" + (y - from) + "px)"; };
    const move = (e) => {
      if (e.pointerId !== event.pointerId) return;
      follow(e.clientY);
      // A quick hand passes several links between two events.
      for (;;) {
        const above = item.previousElementSibling;
        const below = item.nextElementSibling;
        const was = item.offsetTop;
        // The others are moved: taking the link out of the page, even for a moment, would let go of the pointer.
        if (above && e.clientY < middle(above)) list.insertBefore(above, below);
        else if (below && e.clientY > middle(below)) list.insertBefore(below, item);
        else return;
        from += item.offsetTop - was;
        follow(e.clientY);
      }
    };
    const end = (e) => {
      if (e.pointerId !== event.pointerId) return;
      if (e.type === "pointerup") move(e);
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      item.classList.remove("drag");
      item.style.transform = "";
      if ([...list.children].indexOf(item) === before) return;
      const body = new URLSearchParams();
      for (const one of list.children) body.append("link", one.dataset.link);
      send(list.dataset.order, body);
    };
    // Wherever the pointer is let go.
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  });

  // Copying, and the browser's own time zone for a new page

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    event.preventDefault();
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      said.textContent = "Copied";
    } catch { button.textContent = "Copy by hand"; }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const zone = document.querySelector("[data-zone]");
  if (zone && zone.value === "UTC") zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
})();
