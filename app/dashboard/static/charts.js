"use strict";
// Charts, drawn from the tables beside them in the colours of the theme. uPlot sets styles by script, which the page's
// policy allows, and writes no markup.

const HOURS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const HEIGHT = 170;
const clock = (seconds) => HOURS.format(new Date(seconds * 1000));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The values of a table by column, one for each step of the chart; null where the table has no row.
function readTable(box) {
  const [from, to, step] = [box.dataset.from, box.dataset.to, box.dataset.step].map(Number);
  const rows = new Map();
  for (const row of document.getElementById(box.dataset.table).tBodies[0].rows) rows.set(Number(row.dataset.x), row);
  const times = [];
  for (let time = from; time < to; time += step) times.push(time);
  const column = (number) => times.map((time) => {
    const value = Number.parseFloat(rows.get(time)?.cells[number].textContent);
    return Number.isNaN(value) ? null : value;
  });
  const minutes = times.map((time) => Number(rows.get(time)?.dataset.minutes ?? 1));
  return { from, to, times, column, minutes };
}

const sum = (...columns) => columns[0].map((_, at) => columns.reduce(
  (total, column) => (column[at] === null || total === null ? null : total + column[at]), 0));

function bars(label, name, values, digits) {
  return {
    label, stroke: colour(name), fill: colour(name), width: 0, points: { show: false },
    paths: uPlot.paths.bars({ size: [0.85, 60], align: 1 }),
    value: (_, __, ___, at) => (at == null || values[at] == null ? "–" : values[at].toFixed(digits)),
  };
}

function sessionPlots(table) {
  const [completed, failed, cancelled] = [1, 2, 3].map(
    (number) => table.column(number).map((value, at) => (value === null ? null : value / table.minutes[at])));
  const rate = table.column(5);
  return [
    {
      title: "Sessions a minute",
      // Each bar stands before the longer one that has the others in it.
      data: [table.times, sum(completed, failed, cancelled), sum(completed, failed), completed],
      series: [
        bars("cancelled", "--soft", cancelled, 1),
        bars("without success", "--bad", failed, 1),
        bars("completed", "--accent", completed, 1),
      ],
      range: (_, __, most) => [0, Math.max(1, most * 1.1)],
    },
    {
      title: "Completed, percent",
      data: [table.times, rate],
      series: [{
        label: "completed", stroke: colour("--good"), width: 2, points: { show: true, size: 5 },
        value: (_, value) => (value == null ? "–" : `${value} %`),
      }],
      range: () => [0, 100],
    },
  ];
}

function expiryPlots(table) {
  const tokens = table.column(1);
  return [{
    title: "Tokens by the hour",
    data: [table.times, tokens],
    series: [bars("tokens", "--accent", tokens, 0)],
    range: (_, __, most) => [0, Math.max(1, most * 1.1)],
  }];
}

const PLOTS = { sessions: sessionPlots, expiry: expiryPlots };

function axis(size) {
  return {
    stroke: colour("--soft"), font: "12px system-ui, sans-serif", size, gap: 4,
    grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 },
  };
}

function draw(box) {
  const table = readTable(box);
  const plots = PLOTS[box.dataset.chart](table).map((each) => {
    const frame = document.createElement("div");
    const title = document.createElement("p");
    title.textContent = each.title;
    title.className = "plot-title";
    frame.append(title);
    box.append(frame);
    const options = {
      width: box.clientWidth, height: HEIGHT, padding: [8, 8, 0, 0],
      scales: { x: { time: true, range: [table.from, table.to] }, y: { range: each.range } },
      axes: [
        { ...axis(28), space: 60, values: (_, times) => times.map(clock) },
        { ...axis(38), space: 34, incrs: [0.5, 1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000] },
      ],
      series: [{ label: "from", value: (_, time) => (time == null ? "–" : clock(time)) }, ...each.series],
      cursor: { drag: { x: false, y: false }, y: false },
    };
    return new uPlot(options, each.data, frame);
  });
  drawn.push({ box, plots });
  widths.observe(box);
}

const drawn = [];
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    for (const plot of drawn.find((each) => each.box === target)?.plots ?? []) {
      if (plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  }
});

// Forget charts that a newer part of the page has replaced, and draw the new ones.
function drawCharts() {
  for (let at = drawn.length - 1; at >= 0; at -= 1) {
    if (!drawn[at].box.isConnected) {
      widths.unobserve(drawn[at].box);
      for (const plot of drawn[at].plots) plot.destroy();
      drawn.splice(at, 1);
    }
  }
  for (const box of document.querySelectorAll("[data-chart]:empty")) draw(box);
}

document.addEventListener("htmx:load", drawCharts);
// A table that somebody reads stays as it is.
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (event.target.querySelector("details[open]")) event.preventDefault();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { box } of drawn.splice(0)) {
    widths.unobserve(box);
    box.replaceChildren();
  }
  drawCharts();
});
drawCharts();
