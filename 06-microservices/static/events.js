// What becomes of the events, and how far the other service is behind.

const RECENT = 20; // how many events are shown

export function showEvents() {
  const behind = document.getElementById("behind");
  const list = document.getElementById("events");
  const other = behind.dataset.other;
  const items = new Map(); // by direction and id; the latest one last

  const events = count => count === 1 ? "1 event" : `${count} events`;

  function sentence({ outbox, queue }) {
    if (outbox === null) return "MySQL is away.";
    if (!queue) return `RabbitMQ is away. ${events(outbox)} in the outbox.`;
    const runs = queue.consumers > 0;
    const waiting = outbox + queue.messages;
    if (waiting === 0) return runs ? `${other} is up to date.` : `${other} is not running.`;
    const state = runs ? `${other} is` : `${other} is not running, and`;
    return `${state} ${events(waiting)} behind: ${outbox} in the outbox, ${queue.messages} in the queue ${other}.`;
  }

  function draw({ way, id, kind, body, step }) {
    const key = `${way} ${id}`;
    let item = items.get(key);
    if (!item) {
      item = document.createElement("li");
      item.innerHTML = "<b></b> <code></code> <span></span>";
      items.set(key, item);
      list.prepend(item);
      for (const oldest of [...items.keys()].slice(0, -RECENT)) {
        items.get(oldest).remove();
        items.delete(oldest);
      }
    }
    const [name, content, state] = item.children;
    name.textContent = `${way === "out" ? "\u2192" : "\u2190"} ${kind}`;
    content.textContent = body;
    state.textContent = step;
    item.className = step.startsWith("put aside") ? "aside" : step.replaceAll(" ", "-");
  }

  return {
    clear() { items.clear(); list.replaceChildren(); },
    event: draw,
    behind(told) {
      const text = sentence(told);
      if (behind.textContent !== text) behind.textContent = text; // said once
    },
    lost() { behind.textContent = ""; },
  };
}
