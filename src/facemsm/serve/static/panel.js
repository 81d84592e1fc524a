// A panel shows a part of a picture (canvas) with marks over it (SVG), both in the picture's pixels.

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export class Panel {
  constructor(root) {
    this.root = root;
    this.canvas = root.appendChild(document.createElement("canvas"));
    this.svg = root.appendChild(element("svg", { "aria-hidden": "true" }));
    this.content = null;
    new ResizeObserver(() => this.draw()).observe(root);
  }

  /** picture: anything that drawImage takes; part: {x, y, width, height}; marks: (pixels per CSS pixel) => SVG nodes. */
  show(picture, part, marks = () => []) {
    this.content = { picture, part, marks };
    this.draw();
  }

  /** Picture pixels per CSS pixel: the part is fitted into the panel and centred. */
  get step() {
    const { part } = this.content;
    return Math.max(part.width / this.root.clientWidth, part.height / this.root.clientHeight);
  }

  /** What the whole panel would show if the picture had no end; pixel centres are whole numbers. */
  get view() {
    const { part } = this.content;
    const [width, height] = [this.step * this.root.clientWidth, this.step * this.root.clientHeight];
    return { x: part.x + (part.width - width) / 2, y: part.y + (part.height - height) / 2, width, height };
  }

  /** Picture coordinates of a pointer event. */
  locate(event) {
    const { left, top } = this.root.getBoundingClientRect();
    const { x, y } = this.view;
    return [x - 0.5 + this.step * (event.clientX - left), y - 0.5 + this.step * (event.clientY - top)];
  }

  /** CSS pixels in the panel of picture coordinates. */
  place([px, py]) {
    const { x, y } = this.view;
    return [(px + 0.5 - x) / this.step, (py + 0.5 - y) / this.step];
  }

  draw() {
    if (!this.content || !this.root.clientWidth) return;
    const { picture } = this.content;
    const { x, y, width, height } = this.view;
    const density = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.root.clientWidth * density);
    this.canvas.height = Math.round(this.root.clientHeight * density);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const scale = this.canvas.width / width;
    context.setTransform(scale, 0, 0, scale, -x * scale, -y * scale);
    if (picture) context.drawImage(picture, 0, 0);
    this.svg.setAttribute("viewBox", `${x - 0.5} ${y - 0.5} ${width} ${height}`);
    this.redrawMarks();
  }

  redrawMarks() {
    if (this.content && this.root.clientWidth) this.svg.replaceChildren(...this.content.marks(this.step));
  }
}

/** Skeleton and points of one face. Attributes rather than styles, so that the SVG can be drawn elsewhere too.
 *  face: {points, scores}; rings: true for points that are rings, not discs; options: step (picture pixels per CSS pixel), edges, colours, selected, id. */
export function faceMarks(face, rings, { step, edges, colours, selected = -1, describe }) {
  const [x0, y0, x1, y1] = bounds([face.points]);
  const size = Math.sqrt((x1 - x0 + 1) * (y1 - y0 + 1));
  const radius = Math.max(0.0105 * size, Math.min(2 * step, 0.022 * size)); // large enough to see, but apart in small faces
  const line = Math.max(0.003 * size, 0.7 * step);
  const path = edges.map(([a, b]) => `M${face.points[a]}L${face.points[b]}`).join("");
  const nodes = [element("path", { d: path, stroke: "#fff", "stroke-opacity": 0.45, "stroke-width": line, fill: "none" })];
  face.points.forEach(([cx, cy], i) => {
    const colour = colourOf(face.scores[i], colours);
    const mark = element("g", describe ? { id: `point-${i}`, role: "option", "aria-label": describe(i), "aria-selected": i === selected } : {});
    if (rings[i]) {
      mark.append(
        element("circle", { cx, cy, r: 1.25 * radius, fill: "none", stroke: "#000", "stroke-opacity": 0.75, "stroke-width": 1.15 * radius }),
        element("circle", { cx, cy, r: 1.25 * radius, fill: "none", stroke: colour, "stroke-width": 0.75 * radius }),
      );
    } else {
      mark.append(element("circle", { cx, cy, r: radius, fill: colour, stroke: "#000", "stroke-opacity": 0.75, "stroke-width": 0.3 * radius }));
    }
    nodes.push(mark);
  });
  if (selected >= 0) nodes.push(...selection(face.points[selected], 2.3 * radius + 2 * step, step));
  return nodes;
}

/** Faces with a low score are faint. */
export function opacityOf(face, { low }) {
  return face.score < low ? 0.3 : 1;
}

/** A ring that shows on light and dark. */
function selection([cx, cy], r, step) {
  return [
    element("circle", { class: "selected", cx, cy, r, fill: "none", stroke: "#000", "stroke-opacity": 0.6, "stroke-width": 4 * step }),
    element("circle", { class: "selected", cx, cy, r, fill: "none", stroke: "#fff", "stroke-width": 1.75 * step }),
  ];
}

export function colourOf(score, colours) {
  return `rgb(${colours[Math.round(Math.min(1, Math.max(0, score)) * (colours.length - 1))]})`;
}

/** Smallest x, y and largest x, y of several lists of points. */
export function bounds(lists) {
  const points = lists.flat();
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** The square about points, with a margin, as a part of the picture. */
export function squareAbout(lists, margin = 0.12) {
  const [x0, y0, x1, y1] = bounds(lists);
  const side = (1 + 2 * margin) * Math.max(x1 - x0, y1 - y0, 1);
  return { x: (x0 + x1 - side) / 2 + 0.5, y: (y0 + y1 - side) / 2 + 0.5, width: side, height: side };
}
