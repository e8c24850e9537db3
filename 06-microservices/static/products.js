// The products of a page: the whole list once, and then each change.

const PART = 60; // how many products are drawn at first, and more with each click

// `row(product, item)` draws a product into its element, which is new or has been drawn before.
export function follow(row) {
  const list = document.getElementById("products");
  const more = document.getElementById("more");
  const products = new Map();
  const items = new Map(); // of the products that are drawn
  let limit = PART;
  let events = null;
  let early = null; // the changes that come while the list is read

  function draw(product) {
    const item = items.get(product.id) ?? document.createElement("li");
    items.set(product.id, item);
    row(product, item);
    return item;
  }

  function drawAll() {
    const drawn = [...products.values()].slice(0, limit);
    const ids = new Set(drawn.map(product => product.id));
    for (const id of items.keys()) if (!ids.has(id)) items.delete(id);
    const drawnItems = drawn.map(draw);
    const focused = document.activeElement;
    list.replaceChildren(...drawnItems);
    more.hidden = products.size <= limit;
    focused?.focus(); // the element may have been moved
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

  async function load(source) {
    const mine = early = [];
    try {
      const answer = await fetch("/api/products");
      const all = await answer.json();
      if (source !== events || early !== mine) return; // there is a newer one
      products.clear();
      for (const product of all) products.set(product.id, product);
      early = null;
      mine.forEach(apply);
      drawAll();
    } catch {
      setTimeout(() => { if (source === events && early === mine) load(source); }, 1000);
    }
  }

  // A browser opens six connections to a host. Pages that nobody sees must not use them up.
  function listen() {
    if (document.hidden) {
      events?.close();
      events = null;
    } else if (!events) {
      const source = events = new EventSource("/api/events");
      source.onopen = () => load(source);
      source.onmessage = event => {
        const change = JSON.parse(event.data);
        if (early) early.push(change);
        else apply(change);
      };
    }
  }

  more.addEventListener("click", () => { limit += PART; drawAll(); });
  document.addEventListener("visibilitychange", listen);
  listen();
}
