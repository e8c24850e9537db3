"""The consumer of lesson 5 as one writes it first, in Python with pika and PyMySQL: each order is
inserted, committed and acknowledged on its own.

    AMQP_URL=... python3 orders.py MYSQL_HOST MYSQL_PORT COUNT

Ends after COUNT orders, and prints the seconds from the first to the last.
"""

import os
import sys
import time

import pika
import pymysql

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
database = pymysql.connect(host=host, port=port, user="guest", password="guest", database="test")
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.basic_qos(prefetch_count=2000)
start = None
done = 0


def store(channel, method, properties, body):
    global start, done
    start = start or time.perf_counter()
    with database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tb_order (user_id, message_id) VALUES (%s, %s)",
            (body.decode(), properties.message_id),
        )
    database.commit()
    channel.basic_ack(method.delivery_tag)
    done += 1
    if done == count:
        channel.stop_consuming()


channel.basic_consume("orders", store)
channel.start_consuming()
print(time.perf_counter() - start)
channel.connection.close()
