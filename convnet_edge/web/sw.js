// Keep the whole page for use without a network, and give it the headers that threads need.
// The id changes with any file, so that a new page comes with a new cache, whole.

const SITE = "@SITE@";
const PREFIX = `convnet-edge ${new URL(self.registration.scope).pathname} `;
const CACHE = PREFIX + SITE;
const ISOLATION = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

self.addEventListener("install", (event) => event.waitUntil(fill()));
self.addEventListener("activate", (event) => event.waitUntil(takeOver()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && new URL(url).origin === location.origin) {
    event.respondWith(answer(event.request));
  }
});

async function fill() {
  const site = await fetch("site.json", { cache: "no-cache" });
  const { id, files } = await site.clone().json();
  if (id !== SITE) throw new Error(`the server has another page, ${id}`);
  const cache = await caches.open(CACHE);
  await cache.put("site.json", site);
  await cache.addAll(["./", ...Object.keys(files)].map((path) => new Request(path, {
    cache: "no-cache",
    integrity: files[path === "./" ? "index.html" : path],
  })));
  await self.skipWaiting();
}

async function takeOver() {
  const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(request, { ignoreSearch: true }) ?? await fetch(request);
  if (found.status === 0) return found;
  const { body, status, statusText } = found;
  const headers = { ...Object.fromEntries(found.headers), ...ISOLATION };
  return new Response(body, { status, statusText, headers });
}
