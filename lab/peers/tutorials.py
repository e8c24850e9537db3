"""The other end for the tests: what the official tutorials' programs in Python do, with the same
declarations (https://www.rabbitmq.com/tutorials).

    AMQP_URL=... python3 tutorials.py new_task WORDS...
"""

import os
import sys
import time
import uuid

import pika


def publish(channel, exchange, routing_key, body, properties=None):
    channel.basic_publish(exchange=exchange, routing_key=routing_key, body=body, properties=properties)
    print(f"sent {body}")


def consume(channel, queue, on_message, auto_ack):
    channel.basic_consume(queue=queue, on_message_callback=on_message, auto_ack=auto_ack)
    print("waiting", flush=True)
    channel.start_consuming()


def declare_tasks(channel):
    channel.queue_declare(queue="task_queue", durable=True, arguments={"x-queue-type": "quorum"})


def new_task(channel, *words):
    declare_tasks(channel)
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    publish(channel, "", "task_queue", " ".join(words), persistent)


def worker(channel):
    declare_tasks(channel)

    def work(channel, method, properties, body):
        print(f"received {body.decode()}", flush=True)
        time.sleep(body.count(b"."))
        channel.basic_ack(delivery_tag=method.delivery_tag)
        print("done", flush=True)

    channel.basic_qos(prefetch_count=1)
    consume(channel, "task_queue", work, auto_ack=False)


def emit_log(channel, *words):
    channel.exchange_declare(exchange="logs", exchange_type="fanout")
    publish(channel, "logs", "", " ".join(words))


def emit_log_direct(channel, severity, *words):
    channel.exchange_declare(exchange="direct_logs", exchange_type="direct")
    publish(channel, "direct_logs", severity, " ".join(words))


def emit_log_topic(channel, key, *words):
    channel.exchange_declare(exchange="topic_logs", exchange_type="topic")
    publish(channel, "topic_logs", key, " ".join(words))


def receive(channel, exchange, exchange_type, keys):
    channel.exchange_declare(exchange=exchange, exchange_type=exchange_type)
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(exchange=exchange, queue=queue, routing_key=key)

    def show(channel, method, properties, body):
        print(f"received {method.routing_key}:{body.decode()}", flush=True)

    consume(channel, queue, show, auto_ack=True)


def receive_logs(channel):
    receive(channel, "logs", "fanout", [""])


def receive_logs_direct(channel, *severities):
    receive(channel, "direct_logs", "direct", severities)


def receive_logs_topic(channel, *patterns):
    receive(channel, "topic_logs", "topic", patterns)


def emit_log_header(channel, message, *headers):
    channel.exchange_declare(exchange="header_test", exchange_type="headers")
    headers = dict(header.split("=") for header in headers)
    publish(channel, "header_test", "ourTestRoutingKey", message, pika.BasicProperties(headers=headers))


def receive_log_header(channel, *headers):
    channel.exchange_declare(exchange="header_test", exchange_type="headers")
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    headers = dict(header.split("=") for header in headers)
    channel.queue_bind(exchange="header_test", queue=queue, arguments=headers)

    def show(channel, method, properties, body):
        print(f"received {body.decode()}", flush=True)

    consume(channel, queue, show, auto_ack=True)


def rpc_server(channel):
    channel.queue_declare(queue="rpc_queue", durable=True, arguments={"x-queue-type": "quorum"})

    def answer(channel, method, properties, body):
        a, b = 0, 1
        for _ in range(int(body)):
            a, b = b, a + b
        print(f"fib({body.decode()})", flush=True)
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, str(a), reply)
        channel.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_qos(prefetch_count=1)
    consume(channel, "rpc_queue", answer, auto_ack=False)


def rpc_client(channel, *numbers):
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    answers = {}

    def take(channel, method, properties, body):
        answers[properties.correlation_id] = int(body)

    channel.basic_consume(queue=queue, on_message_callback=take, auto_ack=True)
    for number in numbers:
        correlation_id = str(uuid.uuid4())
        properties = pika.BasicProperties(reply_to=queue, correlation_id=correlation_id)
        channel.basic_publish("", "rpc_queue", number, properties)
        while correlation_id not in answers:
            connection.process_data_events(time_limit=None)
        print(f"got {answers[correlation_id]}", flush=True)


connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
globals()[sys.argv[1]](connection.channel(), *sys.argv[2:])
connection.close()
