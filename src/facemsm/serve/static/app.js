import { align, getModel, getSample } from "./api.js";
import { save, toCsv, toJson, toPng, toPts } from "./files.js";
import { Panel, colourOf, element, faceMarks, opacityOf, squareAbout } from "./panel.js";

const ACCEPTED = ["image/jpeg", "image/png", "image/webp"];
const EXTRAS = ["crop", "canonical", "heatmaps"];
const GROUPS = ["contour", "features"];
const LIVE_WIDTH = 640; // pixels of a camera's picture that is followed: a frame must not take long
const $ = (selector) => document.querySelector(selector);

const say = (text) => ($("#status").textContent = text);
const complain = (text) => ($("#problem").textContent = text);

/** What discs and rings are. */
const WORDS = { calibrated: { disc: "not hidden", ring: "hidden", sure: "seen" }, paper: { disc: "kept", ring: "rebuilt", sure: "kept" } };

const models = {}; // descriptions by name
let model = null; // of the answer that is shown
const panels = Object.fromEntries(["main", "crop", "canonical", "heatmap", "before", "after"].map((id) => [id, new Panel($(`#${id}`))]));
const state = {
  photo: null, // the Blob that was sent
  picture: null, // the same as an ImageBitmap
  name: "photo",
  answer: null,
  asked: "", // the model, method and thresholds that the answer is for
  face: 0,
  point: 0,
  zoomed: false,
  drawing: false, // whether the pointer draws a box
  box: null, // while it does: two corners
};

// A photo, from wherever it comes

let opening = 0;

async function open(blob, name, note = "") {
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
    await loaded;
    const asked = chosen();
    let photo = ACCEPTED.includes(blob.type) ? blob : await reencoded(picture);
    let answer = await find(photo);
    if (answer.width !== picture.width || answer.height !== picture.height) {
      // the browser turned the photo another way than the server did
      photo = await reencoded(picture);
      answer = await find(photo);
    }
    await Promise.all(answer.faces.map(prepare));
    if (turn !== opening) return; // a newer photo has been given
    model = models[JSON.parse(asked).model];
    Object.assign(state, { photo, picture, name, answer, asked, face: 0, point: 0, zoomed: false, drawing: false, box: null });
    document.body.dataset.state = "ready";
    const seconds = answer.faces.length ? ` in ${((performance.now() - started) / 1000).toFixed(1)} s` : "";
    say(`${name}: ${counted(answer)}${seconds}${note && `. ${note}`}`);
    showFaces();
    show();
    methodChanged(); // it may have been, meanwhile
  } catch (error) {
    if (turn !== opening) return;
    say("");
    complain(error.message);
  } finally {
    if (turn === opening) delete document.body.dataset.busy;
  }
}

function counted({ faces, faces_found: found }) {
  const low = faces.filter((face) => face.score < model.low_score).length;
  const doubtful = low ? ` (${low} with a low score)` : "";
  if (found > faces.length) {
    const why = found > model.limits.faces ? "no more are taken from one photo" : "the others score too low";
    return `${faces.length} of ${found} faces, the clearest (${why}),${doubtful}`;
  }
  const turned = $("#turned").hidden ? "" : "; “Photo lies on its side” looks in all orientations";
  if (!faces.length) return `no face found. “Add a face” draws a box around one${turned}`;
  return `${faces.length} face${faces.length > 1 ? "s" : ""}${doubtful}`;
}

async function find(photo) {
  const { upload_bytes, pixels } = model.limits;
  if (photo.size > 0.99 * upload_bytes) {
    throw new Error(`The photo has ${(photo.size / 1e6).toFixed(0)} MB, above the limit of ${upload_bytes / 1e6}; make it smaller (${pixels / 1e6} megapixels at most).`);
  }
  return align(photo, { ...asking(), include: EXTRAS });
}

/** Kinds that the server does not take, but this browser can read. */
const reencoded = (picture) => jpeg(picture, picture.width, picture.height, 0.95);

function jpeg(source, width, height, quality) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
}

/** Loads a face's pictures, and keeps what the server said of it, which the sliders run ahead of. */
async function prepare(face) {
  face.pictures = {};
  await Promise.all(EXTRAS.filter((name) => face[name]).map(async (name) => {
    const image = new Image();
    image.src = face[name];
    await image.decode();
    face.pictures[name] = image;
  }));
  face.given = { ...face };
}

/** One photo at a time; says so where there are more. */
function openFiles(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  const note = files.length > 1 ? `This is one of ${files.length} files; the page takes one photo at a time.` : "";
  if (file) open(file, file.name || "photo", note);
}

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
    this.follow(this.stream).catch((error) => this.tell(error.message));
  },
  tell(text) {
    $("#camera [role=status]").textContent = text;
  },
  /** Landmarks over the live picture, as often as they are found. */
  async follow(stream) {
    const [video, marks] = [$("#camera video"), $("#camera svg")];
    this.tell("Finding faces …");
    await loaded;
    for (let time = performance.now(); stream === this.stream;) {
      if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) {
        await new Promise(requestAnimationFrame);
        continue;
      }
      const scale = Math.min(1, LIVE_WIDTH / video.videoWidth);
      const photo = await jpeg(video, Math.round(scale * video.videoWidth), Math.round(scale * video.videoHeight), 0.85);
      const { width, height, method, faces } = await align(photo, asking());
      if (stream !== this.stream) return;
      const step = width / video.clientWidth;
      marks.setAttribute("viewBox", `-0.5 -0.5 ${width} ${height}`);
      const options = look(step, models[asking().model]);
      marks.replaceChildren(...faces.map((face) =>
        element("g", { opacity: opacityOf(face, options) }, ...faceMarks(face, marked(face, method), options))));
      const now = performance.now();
      const rate = 1000 / (now - time);
      this.tell(`${faces.length || "No"} face${faces.length === 1 ? "" : "s"}, ${rate < 2 ? rate.toFixed(1) : Math.round(rate)} pictures a second`);
      time = now;
    }
  },
  async shoot() {
    const video = $("#camera video");
    if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    const photo = await jpeg(video, video.videoWidth, video.videoHeight, 0.95);
    this.dialog.close();
    open(photo, "camera.jpg");
  },
  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = $("#camera video").srcObject = null;
    $("#camera svg").replaceChildren();
  },
};
camera.dialog.addEventListener("close", () => camera.stop());

// Model, method and thresholds: what a threshold means for the marks shows at once, all else comes from the server

/** The fields of a request. */
function asking() {
  const method = $("#methods :checked").value;
  const thresholds = GROUPS.map((group) => [group, Number($(`#${group}`).value)]);
  const turned = $("#turned").ariaPressed === "true" && { any_rotation: true };
  return { model: $("#model").value, method, ...turned, ...(method === "paper" && Object.fromEntries(thresholds)) };
}
const chosen = () => JSON.stringify(asking());

function setControls({ model: name, method, any_rotation: turned = false, ...thresholds }) {
  $("#model").value = name;
  $("#turned").ariaPressed = turned;
  $(`#methods [value=${method}]`).checked = true;
  for (const group of GROUPS) $(`#${group}`).value = thresholds[group] ?? models[name].thresholds[group];
  methodChanged();
}

function methodChanged() {
  const { model: name, method } = asking();
  for (const group of GROUPS) $(`output[for=${group}]`).value = Number($(`#${group}`).value).toFixed(2);
  $("#methods").hidden = models[name].methods.length < 2;
  $("#thresholds").hidden = method !== "paper";
  $("#weights").textContent = `Model ${name}, ${models[name].labels.length} landmarks.`;
  if (!state.answer || chosen() === state.asked) return;
  const shown = JSON.parse(state.asked);
  if (method === "paper" && shown.method === "paper" && shown.model === name) state.answer.faces.forEach(markAtOnce);
  show();
  inTurn(askAgain);
}

function modelChanged() {
  const { model: name, method } = asking();
  setControls({ ...asking(), method: models[name].methods.includes(method) ? method : models[name].method });
}

/** Which points the paper's stage 3 rebuilds: those that are not reliable (V of Algorithm 2), unless none is. */
function markAtOnce(face) {
  const { intensity, points, preliminary } = face.given;
  const limits = { ...model.thresholds, ...asking() };
  const best = Math.max(...intensity) || 1;
  const relative = intensity.map((value) => value / best);
  const least = Math.ceil(limits.minimum_reliable * relative.length);
  let reliable = relative.map((value, i) => value > limits[model.contour.includes(i) ? "contour" : "features"]);
  if (reliable.filter(Boolean).length < least) {
    const last = [...relative].sort((a, b) => b - a)[least - 1];
    reliable = relative.map((value) => value >= last && value > 0);
  }
  face.occluded = face.rebuilt = reliable.map((is) => Number(!is && reliable.includes(true)));
  face.points = points.map((point, i) => (face.rebuilt[i] ? point : preliminary[i]));
}

/** Requests for a photo that is open already: one at a time. If one fails, the controls go back to what is shown. */
let queue = Promise.resolve();
function inTurn(job) {
  queue = queue.then(job).then((done) => done && complain("")).catch((error) => {
    if (state.answer) {
      for (const face of state.answer.faces) Object.assign(face, face.given);
      setControls(JSON.parse(state.asked));
      show();
    }
    complain(error.message);
  });
}

/** Asks for the newest choice, if it has not been asked for yet. */
async function askAgain() {
  const { answer, photo } = state;
  const fields = asking();
  const asked = JSON.stringify(fields);
  if (asked === state.asked) return false;
  const shown = JSON.parse(state.asked);
  const wholly = fields.model !== shown.model || fields.method !== shown.method;
  const faces = [...answer.faces];
  const boxes = JSON.stringify(faces.map((face) => face.box));
  const fresh = await align(photo, { ...fields, boxes, include: wholly ? EXTRAS : [] });
  if (wholly) await Promise.all(fresh.faces.map(prepare));
  if (answer !== state.answer) return false; // another photo by now
  state.asked = asked;
  model = models[fields.model];
  Object.assign(answer, { scheme: fresh.scheme, method: fresh.method });
  faces.forEach((face, i) => {
    const { detection_score, pictures } = face;
    Object.assign(face, { pictures, ...fresh.faces[i], detection_score, given: null });
    face.given = { ...face };
  });
  state.point = Math.min(state.point, model.labels.length - 1);
  if (wholly) showFaces();
  if (asked === chosen()) show();
  else methodChanged(); // the marks are ahead of it
  return true;
}

// What is shown

const marked = (face, method = state.answer.method) => (method === "paper" ? face.rebuilt : null) ?? face.occluded;
const words = () => WORDS[state.answer.method];

/** A point is not called seen unless it is more likely right than wrong. */
function describe(face, i) {
  const least = state.answer.method === "paper" ? 0.005 : 0.5;
  const how = marked(face)[i] ? words().ring : face.scores[i] < least ? "unsure" : words().sure;
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
  $("#draw").setAttribute("aria-pressed", state.drawing);
  document.body.classList.toggle("drawing", state.drawing);
  const whole = { x: 0, y: 0, width: picture.width, height: picture.height };
  const part = state.zoomed && face ? squareAbout([face.points], 0.08) : whole;
  panels.main.show(picture, part, mainMarks);
  for (const node of document.querySelectorAll("aside, #steps, #zoom")) node.hidden = !face;
  if (!face) return;
  showSteps(face);
  showPoint();
}

const look = (step, { edges, colours, low_score: low } = model) => ({ step, edges, colours, low });

function mainMarks(step) {
  const drawn = state.box ? [rectangle(state.box, step)] : [];
  return state.answer.faces.map((face, i) => {
    const chosen = i === state.face;
    const text = (p) => { const { title, score, how } = describe(face, p); return `${title}, score ${score}, ${how}`; };
    const options = chosen ? { selected: state.point, describe: text } : {};
    return element("g", { opacity: (chosen ? 1 : 0.8) * opacityOf(face, look()) }, ...faceMarks(face, marked(face), { ...look(step), ...options }));
  }).concat(drawn);
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
  $("#face-score").textContent = `Score of the face: ${face.score.toFixed(2)}${face.score < model.low_score ? ", low: perhaps it is none" : ""}.`;
  $("#marked").textContent = `${count} of ${face.points.length} points ${count === 1 ? "is" : "are"} ${words().ring}.`;
  $("#ring").textContent = words().ring;
  $("#disc").textContent = words().disc;
}

function rectangle([[x0, y0], [x1, y1]], step) {
  const d = `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
  return element("path", { d, fill: "#fff", "fill-opacity": 0.15, stroke: "#fff", "stroke-width": 2 * step });
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
  if (state.box) {
    state.box[1] = panels.main.locate(event);
    panels.main.redrawMarks();
  }
  if (state.drawing) return;
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
  if (state.drawing) {
    stage.setPointerCapture(event.pointerId);
    state.box = [panels.main.locate(event), panels.main.locate(event)];
    return;
  }
  const found = state.answer && nearest(event);
  if (found) select(found.face, found.point);
  hover(event);
}

/** Drawing a box around a face that was not found. */
function draw(on) {
  Object.assign(state, { drawing: on, box: null, zoomed: state.zoomed && !on });
  $("#tip").hidden = true;
  if (on) say("Drag a box around the face, from the brows to the chin.");
  show();
}

function release() {
  if (!state.box) return;
  const limit = ([x, y]) => [Math.min(Math.max(x, 0), state.picture.width - 1), Math.min(Math.max(y, 0), state.picture.height - 1)];
  const [[x0, y0], [x1, y1]] = state.box.map(limit);
  const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  const least = 8 * panels.main.step;
  state.box = null;
  if (box[2] - box[0] < least || box[3] - box[1] < least) return show(); // a press, not a box
  draw(false);
  say("Finding the points of this face …");
  inTurn(() => addFace(box));
}

async function addFace(box) {
  const { answer, photo } = state;
  const most = model.limits.faces;
  if (answer.faces.length >= most) throw new Error(`No more than ${most} faces are taken from one photo; remove one first.`);
  try {
    const fresh = await align(photo, { ...JSON.parse(state.asked), boxes: JSON.stringify([box]), include: EXTRAS });
    await Promise.all(fresh.faces.map(prepare));
    if (answer !== state.answer) return false;
    answer.faces.push(...fresh.faces);
    say(`${state.name}: ${answer.faces.length} face${answer.faces.length > 1 ? "s" : ""}, the last one added by hand`);
  } catch (error) {
    say("");
    throw error;
  }
  state.face = answer.faces.length - 1;
  showFaces();
  show();
  return true;
}

function remove() {
  state.answer.faces.splice(state.face, 1);
  state.face = Math.max(0, Math.min(state.face, state.answer.faces.length - 1));
  showFaces();
  show();
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
stage.addEventListener("pointerup", release);
stage.addEventListener("pointercancel", () => { state.box = null; });
stage.addEventListener("pointerleave", () => ($("#tip").hidden = true));
stage.addEventListener("keydown", (event) => {
  if (!state.answer?.faces.length || !KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});

const sample = () => getSample().then((blob) => open(blob, "sample.jpg"), (error) => complain(error.message));

const ACTIONS = {
  choose: () => $("#file").click(),
  camera: () => camera.start(),
  shoot: () => camera.shoot(),
  sample,
  previous: () => step(-1),
  next: () => step(1),
  remove,
  reset: () => setControls({ ...asking(), ...models[$("#model").value].thresholds }),
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
$("#draw").addEventListener("click", () => draw(!state.drawing));
$("#turned").addEventListener("click", ({ currentTarget: button }) => {
  button.ariaPressed = button.ariaPressed !== "true";
  open(state.photo, state.name);
});
addEventListener("keydown", (event) => { if (event.key === "Escape" && state.drawing) draw(false); });
for (const group of GROUPS) $(`#${group}`).addEventListener("input", methodChanged);
$("#methods").addEventListener("change", methodChanged);
$("#model").addEventListener("change", modelChanged);
for (const input of [$("#file"), $("#capture")]) {
  input.addEventListener("change", () => { openFiles([...input.files]); input.value = ""; });
}
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  if (files.length) { event.preventDefault(); openFiles(files); }
});
let inside = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; document.body.classList.add("dragging"); });
addEventListener("dragleave", () => { if (--inside <= 0) document.body.classList.remove("dragging"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dragging");
  openFiles([...event.dataTransfer.files]);
});

// The page itself

async function load() {
  model = await getModel();
  await Promise.all(model.models.map(async (name) => { models[name] = await getModel(name); }));
  $("#model").replaceChildren(...model.models.map((name) => new Option(name)));
  $("#models").hidden = model.models.length < 2;
  setControls({ model: model.weights, method: model.method });
  const scale = $("#scale").getContext("2d");
  model.colours.forEach((_, i) => {
    scale.fillStyle = colourOf(i / (model.colours.length - 1), model.colours);
    scale.fillRect(i, 0, 1, 1);
  });
  document.body.dataset.loaded = "";
}

const loaded = load(); // a photo may be there before
loaded.catch((error) => complain(error.message));
