import { follow } from "/products.js";

const status = document.getElementById("status");

async function like(id) {
  try {
    const answer = await fetch(`/api/products/${id}/like`, { method: "POST" });
    const { message } = await answer.json();
    status.textContent = answer.ok ? "" : message;
  } catch {
    status.textContent = "this service does not answer";
  }
}

// Titles are text, never HTML: `textContent` shows them as they are.
follow((product, item) => {
  if (!item.firstChild) {
    item.innerHTML = '<img alt=""><h2></h2><div class="row"><span></span><button type="button">Like</button></div>';
    item.querySelector("button").addEventListener("click", () => like(product.id));
  }
  const image = item.querySelector("img");
  if (image.getAttribute("src") !== product.image) image.src = product.image;
  item.querySelector("h2").textContent = product.title;
  item.querySelector("span").textContent = product.likes === 1 ? "1 like" : `${product.likes} likes`;
  item.querySelector("button").setAttribute("aria-label", `Like ${product.title}`);
});
