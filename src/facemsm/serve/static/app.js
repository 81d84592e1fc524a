import { align, getModel } from "./api.js";
import { save, toCsv, toJson, toPng, toPts } from "./files.js";
import { Panel, colourOf, element, faceMarks, squareAbout } from "./panel.js";

const ACCEPTED = ["image/jpeg", "image/png", "image/webp"];
const GROUPS = ["contour", "features"];
const $ = (selector) => document.querySelector(selector);

const model = await getModel();
const panels = Object.fromEntries(["main", "crop", "canonical", "heatmap", "before", "after"].map((id) => [id, new Panel($(`#${id}`))]));
const onContour = new Set(model.contour);
const state = {
  photo: null, // the Blob that was sent
  picture: null, // the same as an ImageBitmap
  name: "photo",
  answer: null,
  asked: "", // the thresholds that the answer is for
  face: 0,
  point: 0,
  zoomed: false,
};

// A photo, from wherever it comes

let opening = 0;

async function open(blob, name) {
  const turn = ++opening;
  say("Reading the photo …");
  complain("");
  let picture;
  try {
    picture = await createImageBitmap(blob);
  } catch {
    say("");
    complain(`${name}: this browser cannot read it as a photo.`);
    return;
  }
  document.body.dataset.busy = "";
  say("Finding faces …");
  const started = performance.now();
  try {
    const asked = chosen();
    let photo = ACCEPTED.includes(blob.type) ? blob : await reencoded(picture);
    let answer = await find(photo);
    if (answer.width !== picture.width || answer.height !== picture.height) {
      // the browser turned the photo another way than the server did
      photo = await reencoded(picture);
      answer = await find(photo);
    }
    await Promise.all(answer.faces.map(loadPictures));
    if (turn !== opening) return; // a newer photo has been given
    Object.assign(state, { photo, picture, name, answer, asked, face: 0, point: 0, zoomed: false });
    document.body.dataset.state = "ready";
    const count = answer.faces.length;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    say(count ? `${name}: ${count} face${count > 1 ? "s" : ""} in ${seconds} s` : `${name}: no face found`);
    showFaces();
    thresholdsChanged();
  } catch (error) {
    if (turn !== opening) return;
    say("");
    complain(error.message);
  } finally {
    if (turn === opening) delete document.body.dataset.busy;
  }
}

async function find(photo) {
  const { upload_bytes, pixels } = model.limits;
  if (photo.size > 0.99 * upload_bytes) {
    throw new Error(`The photo has ${(photo.size / 1e6).toFixed(0)} MB, above the limit of ${upload_bytes / 1e6}; make it smaller (${pixels / 1e6} megapixels at most).`);
  }
  return align(photo, { ...thresholds(), include: ["crop", "canonical", "heatmaps"] });
}

/** Kinds that the server does not take, but this browser can read. */
async function reencoded(picture) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
}

async function loadPictures(face) {
  face.pictures = {};
  const given = ["crop", "canonical", "heatmaps"].filter((name) => face[name]);
  await Promise.all(given.map(async (name) => {
    const image = new Image();
    image.src = face[name];
    await image.decode();
    face.pictures[name] = image;
  }));
}

const openFile = (file) => file && open(file, file.name || "photo");

const camera = {
  dialog: $("#camera"),
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) return $("#capture").click(); // not a secure origin: the phone's own camera
    complain("");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1920 } } });
    } catch (error) {
      return complain(`The camera cannot be used (${error.name === "NotAllowedError" ? "not allowed" : error.message}).`);
    }
    $("#camera video").srcObject = this.stream;
    this.dialog.showModal();
  },
  async shoot() {
    const video = $("#camera video");
    if (!video.videoWidth) return;
    const photo = await reencoded(await createImageBitmap(video));
    this.dialog.close();
    open(photo, "camera.jpg");
  },
  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    $("#camera video").srcObject = null;
  },
};
camera.dialog.addEventListener("close", () => camera.stop());

// Thresholds: what they mean for the marks shows at once, where the points go comes from the server

/** Those of the sliders; none while they are untouched, so that the model's own way is taken. */
function thresholds() {
  const values = Object.fromEntries(GROUPS.map((group) => [group, Number($(`#${group}`).value)]));
  return GROUPS.every((group) => values[group] === model.thresholds[group]) ? {} : values;
}
const chosen = () => JSON.stringify(thresholds());
let asking = false;

function setThresholds(values) {
  for (const group of GROUPS) $(`#${group}`).value = values[group];
  thresholdsChanged();
}

function thresholdsChanged() {
  for (const group of GROUPS) $(`output[for=${group}]`).value = Number($(`#${group}`).value).toFixed(2);
  if (!state.answer) return;
  if (chosen() !== state.asked) {
    if (chosen() !== "{}") state.answer.faces.forEach(markAtOnce);
    askAgain();
  }
  show();
}

/** Which points the paper's stage 3 rebuilds: those that are not reliable (V of Algorithm 2), unless none is. */
function markAtOnce(face) {
  const limits = { ...model.thresholds, ...thresholds() };
  const best = Math.max(...face.intensity) || 1;
  const relative = face.intensity.map((value) => value / best);
  const least = Math.ceil(limits.minimum_reliable * relative.length);
  let reliable = relative.map((value, i) => value > limits[onContour.has(i) ? "contour" : "features"]);
  if (reliable.filter(Boolean).length < least) {
    const last = [...relative].sort((a, b) => b - a)[least - 1];
    reliable = relative.map((value) => value >= last && value > 0);
  }
  face.rebuilt = reliable.map((is) => Number(!is && reliable.includes(true)));
  if (model.marks === "rebuilt") face.occluded = face.rebuilt;
  face.points = face.points.map((point, i) => (face.rebuilt[i] ? point : face.preliminary[i]));
}

/** One request at a time; the newest thresholds are the next to be asked for. */
async function askAgain() {
  if (asking) return;
  asking = true;
  try {
    while (state.answer.faces.length && chosen() !== state.asked) {
      const { answer, photo } = state;
      const asked = chosen();
      const boxes = JSON.stringify(answer.faces.map((face) => face.box));
      const fresh = await align(photo, { ...JSON.parse(asked), boxes });
      if (answer !== state.answer) continue; // another photo by now
      state.asked = asked;
      if (asked !== chosen()) continue; // the marks are ahead of it
      fresh.faces.forEach(({ points, occluded, rebuilt }, i) => Object.assign(answer.faces[i], { points, occluded, rebuilt }));
      show();
    }
    complain("");
  } catch (error) {
    complain(error.message);
  } finally {
    asking = false;
  }
}

// What is shown

const say = (text) => ($("#status").textContent = text);
const complain = (text) => ($("#problem").textContent = text);

/** What the rings are: points that were rebuilt, or, where stage 3 weighs all of them, points that are hidden. */
const marked = (face) => face.rebuilt ?? face.occluded;
const ringed = (face) => (face.rebuilt ? "rebuilt" : model.marks);

function describe(face, i) {
  const said = [face.rebuilt?.[i] && "rebuilt", face.occluded[i] && model.marks].filter(Boolean);
  const how = [...new Set(said)].join(", ") || "seen";
  return { title: `${i} · ${model.labels[i]}`, score: face.scores[i].toFixed(2), how };
}

/** How far stage 3 moved a point, pixels; 0 for less than can be shown. */
function shift(face, i) {
  const [[x, y], [px, py]] = [face.points[i], face.preliminary[i]];
  const distance = Math.hypot(x - px, y - py);
  return distance < 0.05 ? 0 : distance;
}

function showFaces() {
  const { faces } = state.answer;
  $("#faces").hidden = faces.length < 2;
  $("#faces .thumbs").replaceChildren(...faces.map((face, i) => {
    const [label, input, image] = ["label", "input", "img"].map((name) => document.createElement(name));
    Object.assign(input, { type: "radio", name: "face", checked: i === state.face, ariaLabel: `Face ${i + 1} of ${faces.length}` });
    input.addEventListener("change", () => select(i, state.point));
    Object.assign(image, { src: face.canonical, alt: "" });
    label.append(input, image);
    return label;
  }));
}

function select(face, point) {
  Object.assign(state, { face, point });
  const radio = document.querySelectorAll("#faces input")[face];
  if (radio) radio.checked = true;
  show();
}

/** Everything that depends on the state. */
function show() {
  const { answer, picture } = state;
  const face = answer.faces[state.face];
  document.body.classList.toggle("faceless", !face);
  $("#zoom").setAttribute("aria-pressed", state.zoomed);
  const whole = { x: 0, y: 0, width: picture.width, height: picture.height };
  const part = state.zoomed && face ? squareAbout([face.points], 0.08) : whole;
  panels.main.show(picture, part, mainMarks);
  for (const node of document.querySelectorAll("aside, #steps, #zoom")) node.hidden = !face;
  if (!face) return;
  showSteps(face);
  showPoint();
}

const look = (step) => ({ step, edges: model.edges, colours: model.colours });

function mainMarks(step) {
  return state.answer.faces.map((face, i) => {
    const chosen = i === state.face;
    const text = (p) => { const { title, score, how } = describe(face, p); return `${title}, score ${score}, ${how}`; };
    const options = chosen ? { selected: state.point, describe: text } : {};
    return element("g", chosen ? {} : { opacity: 0.8 }, ...faceMarks(face, marked(face), { ...look(step), ...options }));
  });
}

function showSteps(face) {
  const { picture } = state;
  const { crop, canonical } = face.pictures;
  const all = (image) => ({ x: 0, y: 0, width: image.width, height: image.height });
  panels.crop.show(crop, all(crop), (step) => [frame(face.theta, crop.width, step)]);
  panels.canonical.show(canonical, all(canonical));
  const near = squareAbout([face.points, face.preliminary]);
  const marks = (points, rings) => (step) => faceMarks({ ...face, points }, rings, { ...look(step), selected: state.point });
  panels.before.show(picture, near, marks(face.preliminary, []));
  panels.after.show(picture, near, (step) => [...paths(face, step), ...marks(face.points, marked(face))(step)]);
  const moved = face.points.map((_, i) => shift(face, i)).filter((distance) => distance > 0);
  const mean = moved.reduce((sum, distance) => sum + distance, 0) / moved.length;
  $("#moved").textContent = moved.length
    ? `: ${moved.length} of ${face.points.length} points moved, by ${mean.toFixed(1)} px on average.`
    : ": no point is moved.";
  const count = marked(face).filter(Boolean).length;
  $("#marked").textContent = `${count} of ${face.points.length} points ${count === 1 ? "is" : "are"} ${ringed(face)}.`;
  $("#ring").textContent = ringed(face);
}

/** Where θ puts the canonical face in the crop. */
function frame(theta, size, step) {
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) =>
    theta.map(([a, b, c]) => ((a * x + b * y + c + 1) * size - 1) / 2));
  return element("path", { d: `M${corners.join("L")}Z`, fill: "none", stroke: "#fff", "stroke-width": 2 * step });
}

/** From where to where stage 3 moved the points. */
function paths(face, step) {
  const d = face.points.map((to, i) => (shift(face, i) > 0 ? `M${face.preliminary[i]}L${to}` : "")).join("");
  return [element("path", { d, fill: "none", stroke: "#fff", "stroke-width": 1.5 * step, "stroke-linecap": "round" })];
}

/** The parts that follow the chosen point; they change with every move of the pointer. */
function showPoint() {
  const face = state.answer.faces[state.face];
  const { title, score, how } = describe(face, state.point);
  const [strong, more] = [document.createElement("b"), document.createElement("span")];
  strong.textContent = title;
  const by = shift(face, state.point);
  more.textContent = `score ${score}, ${how}${by > 0 ? `, moved ${by.toFixed(1)} px` : ""}`;
  $("#readout").replaceChildren(strong, more);
  panels.main.svg.setAttribute("aria-label", `Landmarks of face ${state.face + 1}`);
  for (const id of ["main", "before", "after"]) panels[id].redrawMarks();
  panels.main.svg.setAttribute("aria-activedescendant", `point-${state.point}`);
  $("#steps li:nth-child(3)").hidden = !face.pictures.heatmaps; // some models give none
  if (!face.pictures.heatmaps) return;
  const peak = showHeatmap(face);
  $("#heatmap-of").textContent = `of point ${state.point}, stage 2’s. It peaks at ${peak.toFixed(2)}.`;
}

/** The chosen point's heatmap over the canonical face, as bright as its own peak allows. Returns the peak. */
function showHeatmap(face) {
  const { canonical, heatmaps } = face.pictures;
  const size = heatmaps.naturalWidth; // they lie below each other
  const small = new OffscreenCanvas(size, size);
  const context = small.getContext("2d", { willReadFrequently: true });
  context.drawImage(heatmaps, 0, -size * state.point);
  const pixels = context.getImageData(0, 0, size, size);
  const peak = pixels.data.reduce((top, value, i) => (i % 4 === 0 ? Math.max(top, value) : top), 0);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const value = peak ? pixels.data[i] / peak : 0;
    const colour = model.colours[Math.round(value * (model.colours.length - 1))];
    pixels.data.set([...colour, 255 * Math.min(1, 1.6 * value)], i);
  }
  context.putImageData(pixels, 0, 0);
  const side = canonical.width;
  const blend = new OffscreenCanvas(4 * side, 4 * side);
  const onto = blend.getContext("2d");
  onto.filter = "grayscale(1) brightness(0.7)";
  onto.drawImage(canonical, 0, 0, 4 * side, 4 * side);
  onto.filter = "none";
  onto.drawImage(small, 0, 0, 4 * side, 4 * side);
  panels.heatmap.show(blend, { x: 0, y: 0, width: 4 * side, height: 4 * side });
  return peak / 255;
}

// Pointer and keyboard

/** The point next to a pointer event, within 20 CSS pixels. */
function nearest(event) {
  const [x, y] = panels.main.locate(event);
  let found = null;
  let least = 20 * panels.main.step;
  state.answer.faces.forEach((face, f) => face.points.forEach(([px, py], p) => {
    const distance = Math.hypot(px - x, py - y);
    if (distance < least) [least, found] = [distance, { face: f, point: p }];
  }));
  return found;
}

function hover(event) {
  if (!state.answer) return;
  const found = nearest(event);
  const tip = $("#tip");
  tip.hidden = !found;
  if (!found) return;
  const face = state.answer.faces[found.face];
  const { title, score, how } = describe(face, found.point);
  tip.textContent = `${title} · score ${score}${how === "seen" ? "" : ` · ${how}`}`;
  const [x, y] = panels.main.place(face.points[found.point]);
  const room = panels.main.root.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(room, x + 14))}px`;
  tip.style.top = `${Math.max(8, y - 40)}px`;
  if (found.face === state.face && found.point !== state.point) {
    state.point = found.point;
    showPoint();
  }
}

function press(event) {
  const found = state.answer && nearest(event);
  if (found) select(found.face, found.point);
  hover(event);
}

function step(by) {
  const { faces } = state.answer;
  const count = faces[state.face].points.length;
  state.point = (state.point + by + count) % count;
  showPoint();
}

const KEYS = {
  ArrowRight: () => step(1),
  ArrowDown: () => step(1),
  ArrowLeft: () => step(-1),
  ArrowUp: () => step(-1),
  Home: () => step(-state.point),
  End: () => step(-state.point - 1),
  PageDown: () => select((state.face + 1) % state.answer.faces.length, state.point),
  PageUp: () => select((state.face + state.answer.faces.length - 1) % state.answer.faces.length, state.point),
};

const stage = panels.main.svg;
stage.removeAttribute("aria-hidden");
for (const [key, value] of Object.entries({ role: "listbox", tabindex: 0, "aria-label": "Landmarks" })) stage.setAttribute(key, value);
stage.addEventListener("pointermove", hover);
stage.addEventListener("pointerdown", press);
stage.addEventListener("pointerleave", () => ($("#tip").hidden = true));
stage.addEventListener("keydown", (event) => {
  if (!state.answer?.faces.length || !KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});

async function sample() {
  const response = await fetch("sample.jpg");
  open(await response.blob(), "sample.jpg");
}

const ACTIONS = {
  choose: () => $("#file").click(),
  camera: () => camera.start(),
  shoot: () => camera.shoot(),
  sample,
  previous: () => step(-1),
  next: () => step(1),
  reset: () => setThresholds(model.thresholds),
};

const stem = () => state.name.replace(/\.[^.]*$/, "") || "photo";
const DOWNLOADS = {
  json: () => [new Blob([toJson(state.name, state.answer)], { type: "application/json" }), `${stem()}.json`],
  csv: () => [new Blob([toCsv(state.name, state.answer, model.labels.length)], { type: "text/csv" }), `${stem()}.csv`],
  pts: () => [new Blob([toPts(state.answer.faces[state.face].points)], { type: "text/plain" }), `${stem()}_${state.face + 1}.pts`],
  png: async () => [await toPng(state.picture, state.answer, marked, look()), `${stem()}.png`],
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) ACTIONS[button.dataset.do]();
  if (button.dataset.download) save(...(await DOWNLOADS[button.dataset.download]()));
});
$("#zoom").addEventListener("click", () => { state.zoomed = !state.zoomed; show(); });
for (const group of GROUPS) $(`#${group}`).addEventListener("input", thresholdsChanged);
for (const input of [$("#file"), $("#capture")]) {
  input.addEventListener("change", () => { openFile(input.files[0]); input.value = ""; });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
  if (file) { event.preventDefault(); openFile(file); }
});
let inside = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; document.body.classList.add("dragging"); });
addEventListener("dragleave", () => { if (--inside <= 0) document.body.classList.remove("dragging"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dragging");
  openFile(event.dataTransfer.files[0]);
});

// The page itself

setThresholds(model.thresholds);
$("#how").textContent = model.method === "paper"
  ? "Points whose heatmap is fainter than this share of the face’s best are rebuilt from the others."
  : "Untouched, stage 3 weighs every point by its heatmap. Move one, and points whose heatmap is fainter than this share of the face’s best are rebuilt from the others.";
$("#model").textContent = `Model ${model.weights}, ${model.labels.length} landmarks.`;
const scale = $("#scale").getContext("2d");
model.colours.forEach((_, i) => {
  scale.fillStyle = colourOf(i / (model.colours.length - 1), model.colours);
  scale.fillRect(i, 0, 1, 1);
});
document.body.dataset.loaded = "";
