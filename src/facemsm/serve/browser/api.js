// What the page asks for, answered in this browser: the same functions as those that call the HTTP API.

const worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" }); // ?threads=2
const waiting = new Map(); // by number: what a call goes on with
const numbers = new WeakMap(); // of photos: the worker keeps the pixels of the last one
let calls = 0;
let ready = false;
let broken = null; // why nothing can be asked for

worker.addEventListener("message", ({ data: { call, answer, problem } }) => {
  ready = true; // the first message says no more
  const { resolve, reject } = waiting.get(call) ?? {};
  waiting.delete(call);
  if (answer) resolve(answer);
  else if (problem) reject(new Error(problem));
});
worker.addEventListener("error", () => {
  broken = new Error("The networks cannot be loaded. Load the page again; old browsers cannot run them.");
  for (const { reject } of waiting.values()) reject(broken);
});

const models = fetched("models.json").then((response) => response.json());

/** A description of the model of that name, or of the default one. */
export async function getModel(name) {
  const { all, first } = await models;
  return all[name ?? first];
}

export async function getSample() {
  return (await fetched("sample.jpg")).blob();
}

/** Faces of a photo (a Blob). `fields`: boxes, model, method, contour, features, include. */
export async function align(photo, fields) {
  if (broken) throw broken;
  if (!ready) document.querySelector("#status").textContent = "Loading the networks, which takes a while the first time …";
  if (!numbers.has(photo)) numbers.set(photo, ++calls);
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ call: calls, photo, number: numbers.get(photo), fields });
  });
}

async function fetched(file) {
  const response = await fetch(file).catch(() => null);
  if (!response?.ok) throw new Error(`${file} cannot be loaded; load the page again when there is a network.`);
  return response;
}

navigator.serviceWorker?.register("offline.js").catch(() => {}); // without it the page needs a network each time
