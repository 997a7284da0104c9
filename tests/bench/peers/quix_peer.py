"""Quix Streams, at-least-once, with ONNX Runtime called for each record, as its documentation does it."""

import os

import joblib
import numpy
import onnxruntime
from quixstreams import Application

import batches


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = str(batches.models() / "forest.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = (batches.models() / "names.txt").read_text(encoding="utf-8").split("\n")
    classes = [str(label) for label in joblib.load(batches.models() / "forest.joblib").classes_]

    def predict(record):
        features = numpy.array([[record[feature] for feature in names]], dtype=numpy.float32)
        row = session.run(None, {name: features})[1][0]
        return {"prediction": classes[int(row.argmax())], "probabilities": dict(zip(classes, row.tolist()))}

    application = Application(
        broker_address=os.environ["BENCH_BROKERS"],
        consumer_group=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="WARNING",
    )
    records = application.topic(os.environ["BENCH_INPUT"], value_deserializer="json")
    predictions = application.topic(os.environ["BENCH_OUTPUT"], value_serializer="json")
    application.dataframe(records).apply(predict).to_topic(predictions)
    application.run()


if __name__ == "__main__":
    main()
