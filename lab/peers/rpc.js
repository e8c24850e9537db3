// Calls over `rpc_queue`, as the official tutorials in JavaScript do, and many at once.
//
//     AMQP_URL=... node rpc.js server PREFETCH
//     AMQP_URL=... node rpc.js client NUMBER CALLS AT_ONCE
//
// The client prints the calls a second, and the median and the 99th percentile of the latency in ms.

const { randomUUID } = require("node:crypto");
const amqp = require("amqplib");

const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));

async function server(connection, prefetch) {
  const channel = await connection.createChannel();
  await channel.assertQueue("rpc_queue", { durable: true, arguments: { "x-queue-type": "quorum" } });
  await channel.prefetch(prefetch);
  process.on("SIGINT", () => connection.close());
  await channel.consume("rpc_queue", (request) => {
    const n = parseInt(request.content.toString());
    console.log(` [.] fib(${n})`);
    const { replyTo, correlationId } = request.properties;
    channel.sendToQueue(replyTo, Buffer.from(fib(n).toString()), { correlationId });
    channel.ack(request);
  });
}

async function client(connection, number, calls, atOnce) {
  const channel = await connection.createChannel();
  const waiting = new Map();
  const times = [];
  let asked = 0;
  const ask = () => {
    asked++;
    const correlationId = randomUUID();
    waiting.set(correlationId, performance.now());
    const replyTo = "amq.rabbitmq.reply-to";
    const options = { replyTo, correlationId, expiration: "10000", mandatory: true };
    channel.sendToQueue("rpc_queue", Buffer.from(number), options);
  };
  let start;
  await new Promise((resolve, reject) => {
    channel.consume("amq.rabbitmq.reply-to", (answer) => {
      const begin = waiting.get(answer.properties.correlationId);
      if (!waiting.delete(answer.properties.correlationId)) return;
      times.push(performance.now() - begin);
      if (asked < calls) ask();
      else if (times.length === calls) resolve();
    }, { noAck: true }).then(() => {
      start = performance.now();
      for (let call = 0; call < Math.min(atOnce, calls); call++) ask();
    }).catch(reject);
  });
  const took = (performance.now() - start) / 1000;
  times.sort((a, b) => a - b);
  const quantile = (share) => times[Math.round((calls - 1) * share)];
  console.log(calls / took, quantile(0.5), quantile(0.99));
  await connection.close();
}

async function main([what, ...rest]) {
  // Without noDelay, a small frame may wait 40 ms for the acknowledgement of the one before.
  const connection = await amqp.connect(process.env.AMQP_URL, { noDelay: true });
  if (what === "server") await server(connection, Number(rest[0]));
  else await client(connection, rest[0], Number(rest[1]), Number(rest[2]));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 1;
});
