// Elements from descriptions. Text is always set as text: nothing is parsed as HTML.

/** h("p", {class: "dim", onclick: f, "aria-label": "x", hidden: true}, "text", child) */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && !name.includes("-") && name !== "list") element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
}

/** Change the text of an element only where it differs, so that a selection stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A list of elements that follows a list of items: elements are kept by key, so that focus,
 * selection and open details survive an update.
 */
export class Keyed {
  /** create(item) returns {element, update(item)}. */
  constructor(parent, key, create) {
    this.parent = parent;
    this.key = key;
    this.create = create;
    this.shown = new Map();
  }

  show(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, { element }] of this.shown) {
      if (!keys.has(key)) {
        element.remove();
        this.shown.delete(key);
      }
    }
    items.forEach((item, place) => {
      const key = this.key(item);
      if (!this.shown.has(key)) this.shown.set(key, this.create(item));
      const { element, update } = this.shown.get(key);
      update(item);
      if (this.parent.children[place] !== element) this.parent.insertBefore(element, this.parent.children[place] ?? null);
    });
  }
}

let fields = 0;

/** A label and its control, which gets an id of its own. */
export function field(label, control, properties = {}) {
  control.id ||= `field-${(fields += 1)}`;
  return h("div", properties, h("label", { htmlFor: control.id }, label), control);
}

/** A table that scrolls on narrow screens, and can be scrolled by keys. */
export function table(caption, columns, body) {
  const head = columns.map(({ title, number }) => h("th", { scope: "col", class: number ? "number" : "" }, title));
  return h(
    "div",
    { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), body),
  );
}
