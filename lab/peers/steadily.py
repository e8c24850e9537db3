"""What `publish-steadily` of lesson 10 does, with pika: 100 messages a second to the queue `steady`, until Ctrl-C.

    AMQP_URL=amqp://...,amqp://... python3 steadily.py

Prints each second how many are confirmed, and at the end the longest time between two confirms.
"""

import os
import random
import time

import pika
from pika.exceptions import AMQPError

addresses = [pika.URLParameters(url) for url in os.environ["AMQP_URL"].split(",")]
confirmed, longest, last = 0, 0.0, None
shown = time.monotonic()


def connect():
    random.shuffle(addresses)
    channel = pika.BlockingConnection(addresses).channel()
    channel.queue_declare(queue="steady", durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    return channel


def publish(channel, number):
    """Waits for the confirm. What is not confirmed is published again, over another connection if need be."""
    persistent = pika.BasicProperties(delivery_mode=2)
    while True:
        try:
            channel = channel or connect()
            channel.basic_publish("", "steady", str(number), persistent, mandatory=True)
            return channel
        except (AMQPError, OSError):  # a refusal, too: see the pitfalls of lesson 10
            channel = None
            time.sleep(0.1)


try:
    channel = None
    while True:
        channel = publish(channel, confirmed + 1)
        confirmed += 1
        now = time.monotonic()
        longest, last = max(longest, now - (last or now)), now
        if now - shown >= 1:
            print(f"Confirmed: ({confirmed} in all)", flush=True)
            shown = now
        time.sleep(0.01)
except KeyboardInterrupt:
    pass
print(f"longest gap: {longest:.1f} s")
