"""Calls over `rpc_queue`, as the official tutorials in Python do, and many at once.

    AMQP_URL=... python3 rpc.py server PREFETCH
    AMQP_URL=... python3 rpc.py client NUMBER CALLS AT_ONCE

The client prints the calls a second, and the median and the 99th percentile of the latency in ms.
"""

import os
import sys
import time
import uuid

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def server(prefetch):
    channel.queue_declare(queue="rpc_queue", durable=True, arguments={"x-queue-type": "quorum"})

    def answer(channel, method, properties, body):
        print(f" [.] fib({body.decode()})")
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, str(fib(int(body))), reply)
        channel.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_qos(prefetch_count=prefetch)
    channel.basic_consume(queue="rpc_queue", on_message_callback=answer)
    channel.start_consuming()


def client(number, calls, at_once):
    waiting, times, asked = {}, [], 0

    def ask():
        nonlocal asked
        asked += 1
        correlation_id = str(uuid.uuid4())
        waiting[correlation_id] = time.perf_counter()
        properties = pika.BasicProperties(
            reply_to="amq.rabbitmq.reply-to", correlation_id=correlation_id, expiration="10000"
        )
        channel.basic_publish("", "rpc_queue", number, properties, mandatory=True)

    def take(channel, method, properties, body):
        begin = waiting.pop(properties.correlation_id, None)
        if begin is None:
            return
        times.append(1000 * (time.perf_counter() - begin))
        if asked < calls:
            ask()
        elif len(times) == calls:
            channel.stop_consuming()

    channel.basic_consume("amq.rabbitmq.reply-to", take, auto_ack=True)
    start = time.perf_counter()
    for _ in range(min(at_once, calls)):
        ask()
    channel.start_consuming()
    took = time.perf_counter() - start
    times.sort()
    print(calls / took, times[round((calls - 1) * 0.5)], times[round((calls - 1) * 0.99)])
    connection.close()


match sys.argv[1:]:
    case ["server", prefetch]:
        try:
            server(int(prefetch))
        except KeyboardInterrupt:
            connection.close()
    case ["client", number, calls, at_once]:
        client(number, int(calls), int(at_once))
    case _:
        sys.exit(__doc__)
