"""A consumer of orders as the document has it that lesson 5 started from, in Python with pika and PyMySQL:
each order is inserted, committed and acknowledged on its own. A statement that fails is rolled back and
printed, and its order acknowledged like any other. Orders have no id, and the number of those that wait
here has no limit. Now and then the connection to MySQL breaks, to see what happens.

    AMQP_URL=... python3 seed_orders.py MYSQL_HOST MYSQL_PORT DATABASE HOW_OFTEN_IT_BREAKS
"""

import os
import random
import sys

import pika
import pymysql

host, port, name, breaks = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
database = pymysql.connect(host=host, port=port, user="guest", password="guest", database=name)
cursor = database.cursor()
cursor.execute(
    """CREATE TABLE IF NOT EXISTS tb_order (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        user_id VARCHAR(256) NOT NULL,
        db_insert_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        db_update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
    ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"""
)
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()


def store(channel, method, properties, body):
    try:
        cursor.execute("INSERT INTO tb_order (user_id) VALUES (%s)", (body.decode(),))
        database.commit()
    except Exception as error:
        database.rollback()
        print(error, flush=True)
    if random.random() < breaks:
        print("the connection to MySQL breaks", flush=True)
        database.close()
    channel.basic_ack(method.delivery_tag)


channel.basic_consume("orders", store)
print(" [*] Waiting for orders", flush=True)
channel.start_consuming()
