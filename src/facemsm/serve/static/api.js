// The calls of the HTTP API.

const GONE = "The server does not answer. Is “facemsm serve” still running? Start it again, then try once more.";
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** A description of the model of that name, or of the default one. */
export async function getModel(name) {
  return answer(await ask(name === undefined ? "api/model" : `api/model?model=${encodeURIComponent(name)}`));
}

export async function getSample() {
  return (await ask("sample.jpg")).blob();
}

/** Faces of a photo (a Blob). `fields`: boxes, model, method, any_rotation, contour, features, include. Waits and asks again while the server is busy. */
export async function align(photo, fields) {
  const form = new FormData();
  form.append("photo", photo, "photo");
  for (const [name, value] of Object.entries(fields)) {
    for (const item of name === "include" ? value : [value]) form.append(name, item);
  }
  for (let attempt = 0; ; attempt++) {
    const response = await ask("api/align", { method: "POST", body: form });
    const seconds = response.headers.get("Retry-After"); // a proxy's 503 has none
    if (response.status !== 503 || !seconds || attempt === 5) return answer(response);
    await wait(Number(seconds));
  }
}

async function ask(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new Error(GONE);
  }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (body.detail) throw new Error(body.detail);
  // not this server's answer, but that of a proxy in front of it
  if (response.status === 413) throw new Error("The photo is too large for the proxy in front of the server; make it smaller.");
  throw new Error([502, 503, 504].includes(response.status) ? GONE : `The server answered ${response.status}.`);
}
