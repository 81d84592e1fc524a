// Downloads, in the formats that `facemsm align` writes.

import { element, faceMarks, opacityOf } from "./panel.js";

/** One line of landmarks.jsonl. */
export function toJson(name, answer) {
  const faces = answer.faces.map(({ box, detection_score, score, points, scores, occluded, preliminary, theta }) => ({
    box, detection_score, score, points, scores, occluded, preliminary, theta,
  }));
  const { width, height, scheme } = answer;
  return JSON.stringify({ image: name, width, height, scheme, faces }) + "\n";
}

/** One row per face. */
export function toCsv(name, answer, count) {
  const columns = ["x", "y", "score", "occluded"].flatMap((c) => Array.from({ length: count }, (_, i) => `${c}_${i}`));
  const rows = [["image", "face", "x_min", "y_min", "x_max", "y_max", "detection_score", "score", ...columns]];
  answer.faces.forEach((face, i) => {
    const [xs, ys] = [0, 1].map((axis) => face.points.map((p) => p[axis]));
    rows.push([quoted(name), i + 1, ...face.box, face.detection_score ?? "", face.score, ...xs, ...ys, ...face.scores, ...face.occluded]);
  });
  return rows.map((row) => row.join(",") + "\n").join("");
}

/** The points of one face as iBUG's format, which counts pixels from 1. */
export function toPts(points) {
  const rows = points.map(([x, y]) => `${(x + 1).toFixed(3)} ${(y + 1).toFixed(3)}\n`).join("");
  return `version: 1\nn_points: ${points.length}\n{\n${rows}}\n`;
}

/** The photo with all faces drawn, `rings` of each as rings: small ones enlarged, so that the marks can be seen; at most 16 megapixels, because
 *  some browsers have no larger canvas. */
export async function toPng(picture, answer, rings, options) {
  const { width, height } = answer;
  const scale = Math.min(Math.max(1, Math.ceil(1600 / Math.max(width, height))), Math.sqrt(16e6 / (width * height)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const marks = answer.faces.map((face) =>
    element("g", { opacity: opacityOf(face, options) }, ...faceMarks(face, rings(face), { ...options, step: 1 / scale })));
  const svg = element("svg", { xmlns: "http://www.w3.org/2000/svg", width: canvas.width, height: canvas.height,
    viewBox: `-0.5 -0.5 ${width} ${height}` }, ...marks);
  const overlay = new Image();
  overlay.src = URL.createObjectURL(new Blob([svg.outerHTML], { type: "image/svg+xml" }));
  await overlay.decode();
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.drawImage(overlay, 0, 0);
  URL.revokeObjectURL(overlay.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function quoted(text) {
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
