// Grouped bars as SVG: one group for each condition, one bar for each backend. The same figures
// belong in a table beside it.

import { svg } from "./dom.js";

const WIDTH = 500;
const BAR = 18;
const GAP = 12;
const LEFT = 165;
const RIGHT = 90;

/** groups: [{label, bars: [{series, value, text}]}]; series: names, in the order of colours. */
export function bars(title, groups, series) {
  const most = Math.max(...groups.flatMap(({ bars: each }) => each.map(({ value }) => value)), 0) || 1;
  const height = groups.reduce((sum, each) => sum + each.bars.length * BAR + GAP, GAP) + 24;
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": title });
  legend(plot, series);
  let y = 24 + GAP;
  for (const { label, bars: each } of groups) {
    plot.append(text(0, y + BAR * 0.75, label));
    for (const { series: name, value, text: shown } of each) {
      const width = Math.max(1, ((WIDTH - LEFT - RIGHT) * value) / most);
      plot.append(svg("rect", { x: LEFT, y, width, height: BAR - 3, class: `series${series.indexOf(name) % 3}` }));
      plot.append(text(LEFT + width + 6, y + BAR * 0.7, shown));
      y += BAR;
    }
    y += GAP;
  }
  plot.append(svg("line", { x1: LEFT, x2: LEFT, y1: 24, y2: height, class: "axis" }));
  return plot;
}

function legend(plot, series) {
  series.forEach((name, place) => {
    const x = LEFT + place * 120;
    plot.append(svg("rect", { x, y: 4, width: 12, height: 12, class: `series${place % 3}` }), text(x + 18, 14, name));
  });
}

function text(x, y, content) {
  const element = svg("text", { x, y });
  element.textContent = content;
  return element;
}
