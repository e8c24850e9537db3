// Publishes and consumes as a good user of amqplib does.
//
//     AMQP_URL=... node clients.js publish|publish-one-by-one COUNT
//     AMQP_URL=... node clients.js consume COUNT BATCH
//
// Prints the seconds from connecting to the last confirm or acknowledgement.

const { randomUUID } = require("node:crypto");
const amqp = require("amqplib");

const WINDOW = 1000; // how many messages may wait for their confirm

function order(number) {
  const options = { contentType: "text/plain", persistent: true, messageId: randomUUID(), mandatory: true };
  return ["", "orders", Buffer.from(number.toString(16).padStart(32, "0")), options];
}

async function publish(connection, count) {
  const channel = await connection.createConfirmChannel();
  let sent = 0, confirmed = 0;
  await new Promise((resolve, reject) => {
    const more = () => {
      while (sent < Math.min(count, confirmed + WINDOW)) {
        channel.publish(...order(sent++), (error) => {
          if (error) reject(error);
          else if (++confirmed === count) resolve();
          else if (sent - confirmed <= WINDOW / 2) more();
        });
      }
    };
    more();
  });
}

async function publishOneByOne(connection, count) {
  const channel = await connection.createConfirmChannel();
  for (let number = 0; number < count; number++) {
    await new Promise((resolve, reject) =>
      channel.publish(...order(number), (error) => (error ? reject(error) : resolve())));
  }
}

async function consume(connection, count, batch) {
  const channel = await connection.createChannel();
  await channel.prefetch(2000);
  let done = 0;
  await new Promise((resolve, reject) => {
    channel.consume("orders", (message) => {
      if (message === null) return reject(new Error("the broker ended the consumer"));
      done++;
      if (done % batch === 0 || done === count) channel.ack(message, batch > 1);
      if (done === count) resolve();
    }).catch(reject);
  });
  await channel.close();
}

async function main([what, count, batch]) {
  const start = performance.now();
  const connection = await amqp.connect(process.env.AMQP_URL);
  if (what === "publish") await publish(connection, Number(count));
  else if (what === "publish-one-by-one") await publishOneByOne(connection, Number(count));
  else await consume(connection, Number(count), Number(batch));
  await connection.close();
  console.log((performance.now() - start) / 1000);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 1;
});
