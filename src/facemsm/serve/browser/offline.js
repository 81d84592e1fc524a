// The page's service worker: keeps the files of this version, so that the page works without a network. VERSION and FILES
// stand above, written when the page is built. Older versions go when no page uses them any more.

const OURS = `facemsm ${registration.scope} `; // other pages of the host keep theirs
const NAME = OURS + VERSION;

/** What a host would send for pages whose WebAssembly may use several threads. */
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

async function keep() {
  const cache = await caches.open(NAME);
  await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
}

async function clean() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(OURS) && name !== NAME).map((name) => caches.delete(name)));
}

async function answer(request) {
  const cache = await caches.open(NAME);
  const response = (await cache.match(request, { ignoreSearch: true })) ?? (await fetch(request));
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

addEventListener("install", (event) => event.waitUntil(keep()));
addEventListener("activate", (event) => event.waitUntil(clean()));
addEventListener("fetch", (event) => {
  if (event.request.url.startsWith(registration.scope)) event.respondWith(answer(event.request));
});
