import { follow, send } from "/products.js";

const element = id => document.getElementById(id);
const form = element("form");
const { title, image, address } = form.elements;
let changing = null; // the product in the form; null: a new one
let sending = false;

// Puts a product into the form: a new one, or one that is there.
function edit(product) {
  changing = product;
  element("heading").textContent = product ? `Change ${product.title}` : "A new picture";
  element("save").textContent = product ? "Change" : "Add";
  element("cancel").hidden = !product;
  element("message").textContent = "";
  title.value = product?.title ?? "";
  const choices = [...image].map(choice => choice.value);
  const known = !product || choices.includes(product.image);
  image.value = known ? product?.image ?? choices[0] : "";
  address.value = known ? "" : product.image;
  choose();
}

// The address is asked for only if none of the pictures is chosen.
function choose() {
  address.hidden = image.value !== "";
  address.required = !address.hidden;
}

// Back to a new one. The focus goes to where it came from.
function finish() {
  const id = changing?.id;
  edit(null);
  if (id !== undefined) document.querySelector(`#product-${id} button`)?.focus();
}

form.addEventListener("change", choose);
element("cancel").addEventListener("click", finish);
form.addEventListener("keydown", event => { if (event.key === "Escape" && changing) finish(); });

form.addEventListener("submit", async event => {
  event.preventDefault();
  if (sending) return; // a double click adds one picture
  sending = true;
  const draft = { title: title.value, image: image.value || address.value };
  const refused = changing
    ? await send("PUT", `/api/products/${changing.id}`, draft)
    : await send("POST", "/api/products", draft);
  sending = false;
  if (refused) element("message").textContent = refused;
  else finish();
});

// Asks first: a deleted product takes its likes along.
function remove(product) {
  const ask = element("ask");
  element("question").textContent = `Delete ${product.title}?`;
  ask.returnValue = "";
  ask.showModal();
  return new Promise(answer => {
    ask.addEventListener("close", () => {
      answer(ask.returnValue === "delete" ? send("DELETE", `/api/products/${product.id}`) : "");
    }, { once: true });
  });
}

follow({
  Change: product => { edit(product); title.focus(); },
  Delete: remove,
});
edit(null);
