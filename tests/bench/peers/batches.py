"""The loop that both hand-written peers share: take up to a thousand records, score them with one call, send, commit."""

import os
import pathlib
import signal
import time

import numpy
import orjson
from confluent_kafka import Consumer, Producer

BATCH = 1_000
# The longest wait for a full batch.
WAIT_SECONDS = 0.1
COMMIT_SECONDS = 1.0


def models():
    return pathlib.Path(os.environ["PEER_MODELS"])


def run(classes, score):
    """Serves until SIGTERM. `score` takes a float32 matrix and returns a matrix of probabilities."""
    names = (models() / "names.txt").read_text(encoding="utf-8").split("\n")
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    brokers, topic = os.environ["BENCH_BROKERS"], os.environ["BENCH_OUTPUT"]
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": os.environ["BENCH_GROUP"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 50,
    })
    consumer.subscribe([os.environ["BENCH_INPUT"]])
    failures = []
    producer = Producer({
        "bootstrap.servers": brokers,
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 2,
        "on_delivery": lambda error, _: failures.append(error) if error else None,
    })
    uncommitted, commit_due = 0, time.monotonic() + COMMIT_SECONDS
    while not stopping:
        messages = [message for message in consumer.consume(BATCH, WAIT_SECONDS) if message.error() is None]
        if messages:
            records = [orjson.loads(message.value()) for message in messages]
            features = numpy.array([[record[name] for name in names] for record in records], dtype=numpy.float32)
            probabilities = score(features)
            winners = probabilities.argmax(axis=1)
            for message, winner, row in zip(messages, winners.tolist(), probabilities.tolist()):
                prediction = {"prediction": classes[winner], "probabilities": dict(zip(classes, row))}
                send(producer, topic, message.key(), orjson.dumps(prediction))
            uncommitted += len(messages)
        producer.poll(0)
        if uncommitted and time.monotonic() >= commit_due:
            commit(consumer, producer, failures)
            uncommitted, commit_due = 0, time.monotonic() + COMMIT_SECONDS
    if uncommitted:
        commit(consumer, producer, failures)
    consumer.close()


def send(producer, topic, key, value):
    while True:
        try:
            producer.produce(topic, value=value, key=key)
            return
        except BufferError:
            producer.poll(0.01)


def commit(consumer, producer, failures):
    producer.flush()
    if failures:
        raise RuntimeError(f"a record was not delivered: {failures[0]}")
    consumer.commit(asynchronous=False)
