"""The other end for the tests: what the official tutorials' stream programs in Python do, with the stream
and the arguments of those in Rust (https://www.rabbitmq.com/tutorials).

    python3 streams.py PORT VHOST send COUNT
    python3 streams.py PORT VHOST receive
    python3 streams.py PORT VHOST receive_offset_tracking
    python3 streams.py PORT VHOST append COUNT STREAM
    python3 streams.py PORT VHOST read COUNT STREAM

`receive_offset_tracking` ends at the first event that contains `marker`, and stores its offset. `append` and
`read` are for the benchmark: they append or read as fast as they can, and print the seconds.
"""

import asyncio
import sys
import time

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


async def append(count, stream):
    confirmed, complete = 0, asyncio.Event()

    def on_confirm(status):
        nonlocal confirmed
        if not status.is_confirmed:
            sys.exit("an event is not confirmed")
        confirmed += 1
        if confirmed % 1000 == 0 or confirmed == count:
            complete.set()

    start = time.perf_counter()
    async with Producer(**where) as producer:
        await producer.create_stream(stream, exists_ok=True, arguments=ARGUMENTS)
        for first in range(1, count + 1, 1000):
            events = [
                AMQPMessage(body=f"event {number}".encode())
                for number in range(first, min(first + 1000, count + 1))
            ]
            complete.clear()
            await producer.send_batch(stream, events, on_publish_confirm=on_confirm)
            await complete.wait()
    print(time.perf_counter() - start)


async def read(count, stream):
    received, complete = 0, asyncio.Event()

    async def on_message(message, context):
        nonlocal received
        received += 1
        if received == count:
            complete.set()

    start = time.perf_counter()
    consumer = Consumer(**where)
    await consumer.start()
    await consumer.subscribe(
        stream=stream,
        callback=on_message,
        decoder=amqp_decoder,
        offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
    )
    running = asyncio.create_task(consumer.run())
    await complete.wait()
    print(time.perf_counter() - start, flush=True)
    await consumer.close()
    await running


match what:
    case "append":
        asyncio.run(append(int(rest[0]), rest[1]))
    case "read":
        asyncio.run(read(int(rest[0]), rest[1]))
    case "send":
        asyncio.run(send(*rest))
    case "receive":
        asyncio.run(consume(None))
    case "receive_offset_tracking":
        asyncio.run(consume("consumer-1"))
    case _:
        sys.exit(__doc__)
