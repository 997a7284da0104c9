"""MLServer with its Kafka server and its scikit-learn runtime: mlserver_peer.py BROKERS RECORDS SECONDS.

It has a message format of its own and reads only what comes after its start, so it has a load of its own: a burst, and what
was answered in the time. Prints one JSON document.
"""

import csv
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import urllib.request

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
START_SECONDS = 120


def main():
    brokers, records, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    source, sink = (f"mlserver-{random.randrange(1 << 32):08x}.{name}" for name in ("input", "output"))
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic(name, PARTITIONS) for name in (source, sink)]).values():
        future.result(30)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(brokers, source, sink, records, seconds, pathlib.Path(folder))))
    finally:
        for future in admin.delete_topics([source, sink]).values():
            future.result(30)


def measure(brokers, source, sink, records, seconds, folder):
    ports = [random.randrange(20_000, 32_000) for _ in range(3)]
    settings = {
        "kafka_enabled": True, "kafka_servers": brokers, "kafka_topic_input": source, "kafka_topic_output": sink,
        "host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = os.path.join(os.environ["PEER_MODELS"], "forest.joblib")
    settings = {
        "name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": model},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings), encoding="utf-8")
    log = open(folder / "log", "wb")
    program = pathlib.Path(sys.executable).parent / "mlserver"
    server = subprocess.Popen([program, "start", str(folder)], stdout=log, stderr=log)
    try:
        await_ready(server, ports[0], folder / "log")
        return burst(brokers, source, sink, records, seconds, server.pid)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def await_ready(server, port, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
                if answer.status == 200:
                    # Its Kafka consumer starts beside its HTTP server, and at the end of the topic.
                    time.sleep(3)
                    return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("mlserver is not ready: " + log.read_text(encoding="utf-8", errors="replace")[-2_000:])


def burst(brokers, source, sink, records, seconds, pid):
    consumer = Consumer({
        "bootstrap.servers": brokers, "group.id": f"{sink}.reader", "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe([sink])
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 2})
    cpu = cpu_seconds(pid)
    started = time.monotonic()
    for index, value in zip(range(records), values()):
        producer.produce(source, value=value, key=str(index), headers={"mlserver-model": "iris"})
        producer.poll(0)
    producer.flush(60)
    answered, last = set(), started
    while len(answered) < records and time.monotonic() < started + seconds:
        for message in consumer.consume(500, 0.2):
            if message.error() is None:
                answered.add(message.key())
                last = time.monotonic()
    cpu = cpu_seconds(pid) - cpu
    consumer.close()
    took = max(last - started, 1e-3)
    return {
        "records": records, "outputs": len(answered), "lost": records - len(answered), "seconds": took,
        "records_per_second": len(answered) / took,
        "cpu_seconds_per_million": cpu * 1e6 / max(len(answered), 1),
    }


def values():
    """Requests of MLServer's protocol with iris flowers."""
    data = pathlib.Path(__file__).parents[2] / "data" / "iris.csv"
    with open(data, newline="", encoding="utf-8") as lines:
        rows = [[float(cell) for cell in row[:4]] for row in list(csv.reader(lines))[1:]]
    requests = [
        json.dumps({"inputs": [{"name": "predict", "shape": [1, 4], "datatype": "FP32", "data": row}]}) for row in rows
    ]
    while True:
        yield from requests


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
