"""Fits the peers' forests and writes them the way their users would: fit.py DATA.csv TARGET TREES DEPTH OUT-DIR."""

import csv
import pathlib
import sys

import joblib
import numpy
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier


def main():
    data, target, trees, depth, out = sys.argv[1:]
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with open(data, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    names = [name for name in rows[0] if name != target]
    features = numpy.array([[float(row[name]) for name in names] for row in rows], dtype=numpy.float32)
    labels = numpy.array([row[target] for row in rows])
    forest = RandomForestClassifier(
        n_estimators=int(trees), max_depth=int(depth) if depth != "none" else None, random_state=7, n_jobs=-1
    )
    forest.fit(features, labels)
    # A server scores on one core at a time: joblib's threads cost more than they bring for small batches.
    forest.n_jobs = None
    joblib.dump(forest, out / "forest.joblib")
    onnx = to_onnx(forest, features[:1], options={"zipmap": False})
    (out / "forest.onnx").write_bytes(onnx.SerializeToString())
    (out / "names.txt").write_text("\n".join(names), encoding="utf-8")


if __name__ == "__main__":
    main()
