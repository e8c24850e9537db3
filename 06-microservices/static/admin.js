import { follow } from "/products.js";

const status = document.getElementById("status");
const form = document.getElementById("form");
const save = document.getElementById("save");
let changing = null; // the id of the product in the form; null: a new one

async function send(method, path, body) {
  try {
    const answer = await fetch(path, {
      method,
      headers: body && { "content-type": "application/json" },
      body: body && JSON.stringify(body),
    });
    status.textContent = answer.ok ? "" : (await answer.json()).message;
    return answer.ok;
  } catch {
    status.textContent = "this service does not answer";
  }
}

function edit(product) {
  changing = product?.id ?? null;
  save.textContent = product ? "Change" : "Add";
  form.elements.title.value = product?.title ?? "";
  form.elements.image.value = product?.image ?? "/images/lighthouse.svg";
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  const draft = { title: form.elements.title.value, image: form.elements.image.value };
  const done = changing === null
    ? await send("POST", "/api/products", draft)
    : await send("PUT", `/api/products/${changing}`, draft);
  if (done) edit(null);
});

function button(label, what, title) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-label", `${label} ${title}`);
  button.addEventListener("click", what);
  return button;
}

// Titles are text, never HTML: `textContent` shows them as they are.
follow((product, item) => {
  if (!item.firstChild) item.innerHTML = '<img alt=""><h2></h2><div class="row"><span></span></div>';
  const image = item.querySelector("img");
  if (image.getAttribute("src") !== product.image) image.src = product.image;
  item.querySelector("h2").textContent = product.title;
  item.querySelector("span").textContent = product.likes === 1 ? "1 like" : `${product.likes} likes`;
  const focused = item.contains(document.activeElement) && document.activeElement.textContent;
  item.querySelectorAll("button").forEach(button => button.remove());
  item.querySelector(".row").append(
    button("Change", () => { edit(product); form.elements.title.focus(); }, product.title),
    button("Delete", () => send("DELETE", `/api/products/${product.id}`), product.title),
  );
  [...item.querySelectorAll("button")].find(button => button.textContent === focused)?.focus();
});
