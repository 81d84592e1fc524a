// Detector and models on ONNX Runtime's WebAssembly, beside the page so that it stays alive.

import * as ort from "./ort.js";

const beside = (file) => new URL(file, import.meta.url).href;
ort.env.wasm.wasmPaths = { mjs: beside("ort-wasm.js"), wasm: beside("ort-wasm.wasm") };
// 0, the default: a thread for every second core, four at most, or one where pages may not share memory
ort.env.wasm.numThreads = Number(new URLSearchParams(self.location.search).get("threads"));
const about = fetch(beside("models.json")).then((response) => response.json());
const sessions = {};

/** The session of a file, loaded when it is first asked for. */
function session(file) {
  sessions[file] ??= ort.InferenceSession.create(beside(file), { executionProviders: ["wasm"] }).catch((error) => {
    delete sessions[file];
    throw new Error(`The networks cannot be loaded (${error.message}). Load the page again; old browsers cannot run them.`);
  });
  return sessions[file];
}

const floats = (values, ...dims) => new ort.Tensor("float32", Float32Array.from(values), dims);
const rounded = (value, digits = 3) => Number(value.toFixed(digits));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The pixels of a photo, upright, as the file has them: (H, W, 3) bytes. Read in strips, as some browsers have no large canvas. */
async function decode(blob, most) {
  const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = picture;
  if (width * height > most) throw new Error(`The photo has ${width} x ${height} pixels, above the limit of ${most / 1e6} megapixels; make it smaller.`);
  const rows = Math.min(height, Math.max(1, Math.floor(4e6 / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  const pixels = new Uint8Array(3 * width * height);
  for (let top = 0, to = 0; top < height; top += rows) {
    context.drawImage(picture, 0, -top);
    const { data } = context.getImageData(0, 0, width, Math.min(rows, height - top));
    for (let from = 0; from < data.length; from += 4) {
      pixels[to++] = data[from];
      pixels[to++] = data[from + 1];
      pixels[to++] = data[from + 2];
    }
  }
  picture.close();
  return new ort.Tensor("uint8", pixels, [height, width, 3]);
}

/** Faces that the detector finds, best first. As in Python a small look is enough where it leaves no doubt. */
async function detect(photo, { size, threshold, glance, doubt, smallest, pays_from: paysFrom }) {
  const longest = Math.max(photo.dims[0], photo.dims[1]);
  if (Math.min(size, longest) > paysFrom * glance) {
    const faces = await look(photo, glance, doubt);
    const least = (smallest * longest / glance) ** 2;
    const large = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0) >= least;
    if (faces.length && faces.at(-1).detection_score >= threshold && faces.every(large)) return faces;
  }
  return look(photo, size, threshold);
}

async function look(photo, size, threshold) {
  const { boxes, scores } = await (await session("detector.onnx")).run({ photo, size: floats([size], 1), threshold: floats([threshold], 1) });
  return Array.from(scores.data, (score, i) => ({ box: Array.from(boxes.data.slice(4 * i, 4 * i + 4)), detection_score: rounded(score) }));
}

let last = {}; // the photo that was asked for last

async function align({ photo: blob, number, fields }) {
  const { all: models, first, detector } = await about;
  const model = models[fields.model ?? first];
  if (last.number !== number) last = { number, photo: await decode(blob, model.limits.pixels) };
  const { photo } = last;
  const method = fields.method ?? model.method;
  const { contour, features } = { ...model.thresholds, ...fields };
  const found = fields.boxes
    ? JSON.parse(fields.boxes).map((box) => ({ box, detection_score: null }))
    : await detect(photo, detector);
  const kept = found.slice(0, model.limits.faces);
  const outputs = await (await session(model.file)).run({
    photo,
    boxes: floats(kept.flatMap(({ box }) => box), kept.length, 4),
    paper: new ort.Tensor("bool", [method === "paper"], [1]),
    thresholds: floats([contour, features], 2),
  });
  const least = method === "paper" ? 0.5 : model.occluded_from;
  const faces = await Promise.all(kept.map(async (face, i) => {
    const own = Object.fromEntries(Object.entries(outputs).map(([name, { data, dims }]) => {
      const length = data.length / dims[0];
      return [name, Array.from(data.subarray(i * length, (i + 1) * length))];
    }));
    const occluded = own.occlusion.map((value) => Number(value >= least));
    const pictures = (fields.include ?? []).map(async (name) => [name, await png(own[name], outputs[name].dims)]);
    return {
      ...face,
      score: rounded(mean(own.scores)),
      points: rows(own.points, 2),
      scores: own.scores.map((value) => rounded(value)),
      occluded,
      intensity: own.intensity.map((value) => rounded(value, 6)),
      rebuilt: method === "paper" ? occluded : null,
      preliminary: rows(own.preliminary, 2),
      theta: rows(own.theta, 3, 6),
      ...Object.fromEntries(await Promise.all(pictures)),
    };
  }));
  const [height, width] = photo.dims;
  return { width, height, scheme: model.scheme, method, faces_found: fields.boxes ? null : found.length, faces };
}

function rows(values, width, digits) {
  return Array.from({ length: values.length / width }, (_, i) =>
    values.slice(width * i, width * (i + 1)).map((value) => rounded(value, digits)));
}

/** A PNG as a data URL: of RGB (S, S, 3), or of grey pictures (L, S, S) below each other. */
async function png(values, dims) {
  const [width, channels] = dims[3] === 3 ? [dims[2], 3] : [dims[3], 1];
  const image = new ImageData(width, values.length / channels / width);
  for (let i = 0; i < values.length / channels; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = values[channels * i + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return new FileReaderSync().readAsDataURL(await canvas.convertToBlob());
}

// One call at a time; what the first one needs is loaded meanwhile.

let queue = about
  .then(({ all, first }) => Promise.all([session("detector.onnx"), session(all[first].file)]))
  .then(() => self.postMessage({}), () => {}); // who asks for faces is told
self.addEventListener("message", ({ data }) => {
  queue = queue.then(() => align(data)).then(
    (answer) => self.postMessage({ call: data.call, answer }),
    (error) => self.postMessage({ call: data.call, problem: error.message }),
  );
});
