"""A hand-written consumer with ONNX Runtime: one session call a batch."""

import joblib
import onnxruntime

import batches


def main():
    options = onnxruntime.SessionOptions()
    # More threads spin between batches, and cost the clients and the broker of a small machine.
    options.intra_op_num_threads = 1
    model = str(batches.models() / "forest.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    classes = [str(label) for label in joblib.load(batches.models() / "forest.joblib").classes_]
    batches.run(classes, lambda features: session.run(None, {name: features})[1])


if __name__ == "__main__":
    main()
