import { follow, send } from "/products.js";

follow({ Like: product => send("POST", `/api/products/${product.id}/like`) });
