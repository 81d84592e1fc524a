// The two calls of the HTTP API.

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

export async function getModel() {
  return answer(await fetch("api/model"));
}

/** Faces of a photo (a Blob). `fields`: boxes, contour, features, include. Waits and asks again while the server is busy. */
export async function align(photo, fields) {
  const form = new FormData();
  form.append("photo", photo, "photo");
  for (const [name, value] of Object.entries(fields)) {
    for (const item of name === "include" ? value : [value]) form.append(name, item);
  }
  for (let attempt = 0; ; attempt++) {
    const response = await fetch("api/align", { method: "POST", body: form });
    if (response.status !== 503 || attempt === 5) return answer(response);
    await wait(Number(response.headers.get("Retry-After") ?? 1));
  }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `the server answered ${response.status}`);
  return body;
}
