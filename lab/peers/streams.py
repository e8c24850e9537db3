"""The other end for the tests: what the official tutorials' stream programs in Python do, with the stream
and the arguments of those in Rust (https://www.rabbitmq.com/tutorials).

    python3 streams.py PORT VHOST send COUNT
    python3 streams.py PORT VHOST receive
    python3 streams.py PORT VHOST receive_offset_tracking

`receive_offset_tracking` ends at the first event that contains `marker`, and stores its offset.
"""

import asyncio
import sys

from rstream import (
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    OffsetNotFound,
    OffsetType,
    Producer,
    amqp_decoder,
)

STREAM = "hello-rust-stream"
ARGUMENTS = {"max-length-bytes": 5000000000, "queue-leader-locator": "least-leaders"}
port, vhost, what, *rest = sys.argv[1:]
where = {"host": "localhost", "port": int(port), "vhost": vhost, "username": "guest", "password": "guest"}


async def send(count):
    async with Producer(**where) as producer:
        await producer.create_stream(STREAM, exists_ok=True, arguments=ARGUMENTS)
        for number in range(int(count)):
            await producer.send_wait(STREAM, AMQPMessage(body=f"hello: {number}".encode()))
    print("sent", flush=True)


async def consume(name):
    consumer = Consumer(**where)
    await consumer.create_stream(STREAM, exists_ok=True, arguments=ARGUMENTS)
    await consumer.start()
    begin = 0
    if name:
        try:
            begin = 1 + await consumer.query_offset(stream=STREAM, subscriber_name=name)
        except OffsetNotFound:
            pass

    async def on_message(message, context):
        body = bytes(message.body).decode() if isinstance(message, AMQPMessage) else str(message)
        print(f"received {context.offset}: {body}", flush=True)
        if name and "marker" in body:
            await consumer.store_offset(stream=STREAM, offset=context.offset, subscriber_name=name)
            await consumer.close()

    await consumer.subscribe(
        stream=STREAM,
        subscriber_name=name or "reader",
        callback=on_message,
        decoder=amqp_decoder,
        offset_specification=ConsumerOffsetSpecification(OffsetType.OFFSET, begin),
    )
    print("waiting", flush=True)
    await consumer.run()


match what:
    case "send":
        asyncio.run(send(*rest))
    case "receive":
        asyncio.run(consume(None))
    case "receive_offset_tracking":
        asyncio.run(consume("consumer-1"))
    case _:
        sys.exit(__doc__)
