// Grouped bars as SVG: one group for each condition, one bar for each backend. The same figures
// belong in a table beside it.

import { svg } from "./dom.js";

// As wide as a card on a narrow screen, so that text is readable there.
const WIDTH = 360;
const BAR = 18;
const GAP = 12;
const RIGHT = 95;

/** groups: [{label, bars: [{series, value, text}]}]; series: names, in the order of colours. */
export function bars(title, groups, series) {
  const most = Math.max(...groups.flatMap(({ bars: each }) => each.map(({ value }) => value)), 0) || 1;
  const height = groups.reduce((sum, each) => sum + (each.bars.length + 1) * BAR + GAP, GAP) + 24;
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": title });
  legend(plot, series);
  let y = 24 + GAP;
  for (const { label, bars: each } of groups) {
    plot.append(text(0, y + BAR * 0.7, label));
    y += BAR;
    for (const { series: name, value, text: shown } of each) {
      const width = Math.max(1, ((WIDTH - RIGHT) * value) / most);
      plot.append(svg("rect", { x: 0, y, width, height: BAR - 3, class: `series${series.indexOf(name) % 3}` }));
      plot.append(text(width + 6, y + BAR * 0.7, shown));
      y += BAR;
    }
    y += GAP;
  }
  return plot;
}

function legend(plot, series) {
  series.forEach((name, place) => {
    const x = place * 120;
    plot.append(svg("rect", { x, y: 4, width: 12, height: 12, class: `series${place % 3}` }), text(x + 18, 14, name));
  });
}

function text(x, y, content) {
  const element = svg("text", { x, y });
  element.textContent = content;
  return element;
}
