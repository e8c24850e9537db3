"""Publishes and consumes as a good user of pika does.

    AMQP_URL=... python3 clients.py send
    AMQP_URL=... python3 clients.py publish|publish-one-by-one COUNT
    AMQP_URL=... python3 clients.py consume COUNT BATCH

Each but `send` prints the seconds from connecting to the last confirm or acknowledgement.
"""

import os
import sys
import time
import uuid

import pika

URL = pika.URLParameters(os.environ["AMQP_URL"])
WINDOW = 1000  # how many messages may wait for their confirm


def order(number):
    properties = pika.BasicProperties(
        content_type="text/plain", delivery_mode=2, message_id=str(uuid.uuid4())
    )
    return {"body": f"{number:032x}", "properties": properties}


def send():
    connection = pika.BlockingConnection(URL)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("hello", durable=True, arguments={"x-queue-type": "quorum"})
    persistent = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("", "hello", b"Hello World!", persistent, mandatory=True)
    print(" [x] Sent Hello World!")
    connection.close()


def publish_one_by_one(count):
    connection = pika.BlockingConnection(URL)
    channel = connection.channel()
    channel.confirm_delivery()  # from now on basic_publish waits for the confirm
    for number in range(count):
        channel.basic_publish("", "orders", mandatory=True, **order(number))
    connection.close()


class Publisher:
    """Confirms are collected later: pika does so with callbacks only."""

    def __init__(self, count):
        self.count, self.sent, self.confirmed = count, 0, 0
        self.connection = pika.SelectConnection(URL, on_open_callback=self.opened)
        self.connection.ioloop.start()

    def opened(self, connection):
        connection.channel(on_open_callback=self.ready)

    def ready(self, channel):
        self.channel = channel
        channel.confirm_delivery(self.confirm)
        self.publish()

    def publish(self):
        while self.sent < min(self.count, self.confirmed + WINDOW):
            self.channel.basic_publish("", "orders", mandatory=True, **order(self.sent))
            self.sent += 1

    def confirm(self, frame):
        if frame.method.NAME != "Basic.Ack":
            sys.exit("the broker did not take an order")
        tag = frame.method.delivery_tag
        self.confirmed = tag if frame.method.multiple else self.confirmed + 1
        if self.confirmed == self.count:
            self.connection.close()
            self.connection.ioloop.stop()
        elif self.sent - self.confirmed <= WINDOW // 2:
            self.publish()


def consume(count, batch):
    connection = pika.BlockingConnection(URL)
    channel = connection.channel()
    channel.basic_qos(prefetch_count=2000)
    done = 0

    def received(channel, method, properties, body):
        nonlocal done
        done += 1
        if done % batch == 0 or done == count:
            channel.basic_ack(method.delivery_tag, multiple=batch > 1)
        if done == count:
            channel.stop_consuming()

    channel.basic_consume("orders", received)
    channel.start_consuming()
    connection.close()


start = time.perf_counter()
match sys.argv[1:]:
    case ["send"]:
        send()
        sys.exit()
    case ["publish", count]:
        Publisher(int(count))
    case ["publish-one-by-one", count]:
        publish_one_by_one(int(count))
    case ["consume", count, batch]:
        consume(int(count), int(batch))
    case _:
        sys.exit(__doc__)
print(time.perf_counter() - start)
