// The products of a page: the whole list once, and then each change.

import { showEvents } from "/events.js";

const PART = 60; // how many products are drawn at first, and more with each click
const CARD = `<div class="picture"><img alt=""><p hidden>There is no image at this address.</p></div>
  <h2></h2><div class="row"><span></span></div><p class="message" role="status"></p>`;

// Sends a request: what is wrong, or nothing.
export async function send(method, path, body) {
  try {
    const answer = await fetch(path, {
      method,
      headers: body && { "content-type": "application/json" },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    });
    return answer.ok ? "" : (await answer.json()).message;
  } catch {
    return "this service does not answer";
  }
}

// Shows the products, each with these buttons: what a button says, and what it does with a product.
// What that returns is shown beside it.
export function follow(buttons) {
  const list = document.getElementById("products");
  const more = document.getElementById("more");
  const connection = document.getElementById("connection");
  const shown = showEvents();
  const products = new Map();
  const items = new Map(); // of the products that are drawn
  let limit = PART;
  let source = null;
  let early = null; // the changes that come while the list is read

  function card(id) {
    const item = document.createElement("li");
    item.id = `product-${id}`;
    item.innerHTML = CARD;
    const [image, sign] = item.querySelector(".picture").children;
    image.addEventListener("load", () => { sign.hidden = true; });
    image.addEventListener("error", () => { sign.hidden = false; });
    for (const [label, action] of Object.entries(buttons)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", async () => {
        const message = item.querySelector(".message");
        message.textContent = "";
        message.textContent = await action(products.get(id)) ?? "";
      });
      item.querySelector(".row").append(button);
    }
    return item;
  }

  // Titles are text, never HTML: `textContent` shows them as they are.
  function draw(product) {
    const item = items.get(product.id) ?? card(product.id);
    items.set(product.id, item);
    const image = item.querySelector("img");
    if (image.getAttribute("src") !== product.image) image.src = product.image;
    item.querySelector("h2").textContent = product.title;
    item.querySelector("span").textContent = product.likes === 1 ? "1 like" : `${product.likes} likes`;
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-label", `${button.textContent} ${product.title}`);
    }
    return item;
  }

  function drawAll() {
    const drawn = [...products.values()].slice(0, limit);
    const ids = new Set(drawn.map(product => product.id));
    for (const id of items.keys()) if (!ids.has(id)) items.delete(id);
    const drawnItems = drawn.map(draw);
    const focused = document.activeElement;
    const place = [...list.children].findIndex(item => item.contains(focused));
    list.replaceChildren(...drawnItems);
    more.hidden = products.size <= limit;
    // What has the focus may have been moved; or is gone, and what stands in its place gets it.
    const next = list.children[Math.min(place, drawn.length - 1)]?.querySelector("button");
    (place < 0 || focused.isConnected ? focused : next)?.focus();
  }

  function apply(change) {
    if ("deleted" in change) {
      products.delete(change.deleted);
      drawAll();
      return;
    }
    const known = products.has(change.id);
    products.set(change.id, change);
    if (items.has(change.id)) draw(change);
    else if (!known) drawAll();
  }

  async function load(mySource) {
    const mine = early = [];
    const current = () => mySource === source && early === mine; // or else there is a newer one
    try {
      const answer = await fetch("/api/products");
      const all = await answer.json();
      if (!current()) return;
      products.clear();
      for (const product of all) products.set(product.id, product);
      early = null;
      mine.forEach(apply);
      drawAll();
    } catch {
      setTimeout(() => { if (current()) load(mySource); }, 1000);
    }
  }

  function open() {
    const mine = source = new EventSource("/api/events");
    const on = (name, what) => mine.addEventListener(name, event => what(JSON.parse(event.data)));
    mine.onopen = () => {
      connection.textContent = "";
      shown.clear();
      load(mine);
    };
    on("product", change => early ? early.push(change) : apply(change));
    on("event", shown.event);
    on("behind", shown.behind);
    // The browser tries again by itself, unless there was an answer that is none of ours.
    mine.onerror = () => {
      connection.textContent = "Connection lost, trying again ...";
      shown.lost();
      if (mine.readyState === EventSource.CLOSED) setTimeout(() => { if (mine === source) open(); }, 2000);
    };
  }

  // A browser opens six connections to a host. Pages that nobody sees must not use them up.
  function listen() {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      open();
    }
  }

  more.addEventListener("click", () => { limit += PART; drawAll(); });
  document.addEventListener("visibilitychange", listen);
  listen();
}
