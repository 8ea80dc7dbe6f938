// Figures as people read them; "–" where a figure is not known.

const NONE = "–";
const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 1024 ** 3) return `${(value / 1024 ** 3).toFixed(1)} GiB`;
  if (value >= 1024 ** 2) return `${Math.round(value / 1024 ** 2)} MiB`;
  return `${Math.round(value / 1024)} KiB`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 90) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function speed(value) {
  return value === null || value === undefined ? NONE : `${value < 10 ? value.toFixed(1) : Math.round(value)} tokens/s`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** The name of a client by its user agent, as "OpenAI/Python 3.54.0". */
export function client(agent) {
  if (!agent) return "unnamed client";
  if (agent.startsWith("Mozilla/")) return "browser";
  return agent.length > 60 ? `${agent.slice(0, 59)}…` : agent;
}
