#!/usr/bin/env python3
"""Rows a second of one fitted forest: ours, ONNX Runtime, scikit-learn and smartcore, one thread each.

    tests/bench/kernels.py [--quick] [--json FILE]

scikit-learn fits the forests on synthetic data; each leaf is then given to its most frequent class, because that is what a vote
of trees is. So all four score the same trees on the same rows, and their answers are compared before anything is measured
(within 1e-6, ONNX Runtime's within 2e-5, because it adds the shares as 32-bit numbers). A row says how many rows a second were scored in blocks of 1, 256 and 8,000 rows: minimum, median and maximum of five
runs, and how many times ONNX Runtime's median that is. ONNX Runtime and scikit-learn are called from Python, which takes them
some microseconds a call: it shows in the blocks of one row.

Needs Python 3.9 or newer and a package index; a virtual environment is made under target/kernels. Forests are kept there, too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "kernels"
PACKAGES = ["numpy", "onnxruntime", "scikit-learn", "skl2onnx"]
# Trees, depth and rows to fit on; the second has about 800,000 nodes.
FORESTS = [(100, 8, 20_000), (500, 12, 11_000)]
QUICK = [(100, 8, 20_000)]
COLUMNS, CLASSES, ROWS = 28, 3, 8_000
BLOCKS = [1, 256, 8_000]
RUN_SECONDS = 0.1
# ONNX Runtime adds a share for each tree as 32-bit numbers.
CLOSE = 2e-5


def in_environment():
    """Runs this script again in a virtual environment that has the packages."""
    python = WORK / "venv" / "bin" / "python"
    if Path(sys.prefix) == WORK / "venv":
        return
    ready = WORK / "venv" / "ready"
    if not ready.exists():
        venv.create(WORK / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        ready.touch()
    sys.exit(subprocess.run([python, __file__, *sys.argv[1:]]).returncode)


def fitted(trees, depth, rows):
    """A forest whose leaves vote, and rows that it has not seen."""
    import pickle

    import numpy
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    kept = WORK / f"{trees}x{depth}.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    x, y = make_classification(
        n_samples=rows + ROWS, n_features=COLUMNS, n_informative=14, n_classes=CLASSES, flip_y=0.05, random_state=7
    )
    x = x.astype(numpy.float32)
    forest = RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=7, n_jobs=-1)
    forest.fit(x[:rows], y[:rows])
    forest.n_jobs = 1
    let_leaves_vote(forest)
    kept.write_bytes(pickle.dumps((forest, x[rows:])))
    return forest, x[rows:]


def let_leaves_vote(forest):
    """Each leaf is for its most frequent class alone."""
    import numpy

    for tree in forest.estimators_:
        values = tree.tree_.value
        values[:] = numpy.eye(forest.n_classes_)[values[:, 0, :].argmax(axis=1)][:, None, :]


def export(path, forest, rows):
    """Writes what tests/bench/forest.rs reads."""
    import numpy

    trees = [tree.tree_ for tree in forest.estimators_]
    joined = lambda of, kind: numpy.concatenate([of(tree) for tree in trees]).astype(kind)
    nodes = sum(tree.node_count for tree in trees)
    header = {"columns": forest.n_features_in_, "classes": forest.n_classes_, "rows": len(rows)}
    header |= {"trees": len(trees), "nodes": nodes}
    arrays = [
        numpy.array([tree.node_count for tree in trees], "<u4"),
        joined(lambda tree: tree.children_left.clip(0), "<u4"),
        joined(lambda tree: tree.children_right.clip(0), "<u4"),
        joined(lambda tree: tree.value[:, 0, :].argmax(axis=1), "<u4"),
        rows.astype("<f4"),
        joined(lambda tree: tree.threshold, "<f8"),
        forest.predict_proba(rows).astype("<f8"),
        joined(lambda tree: numpy.where(tree.children_left < 0, 65_535, tree.feature), "<u2"),
    ]
    with open(path, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            file.write(array.tobytes())
    return nodes


def measure(name, score, rows, runs):
    """A line for each size of a block."""
    for size in BLOCKS:
        blocks = [rows[first : first + size] for first in range(0, len(rows), size)]
        rates = []
        for _ in range(runs):
            start, scored, block = time.perf_counter(), 0, 0
            while time.perf_counter() - start < RUN_SECONDS:
                score(blocks[block % len(blocks)])
                scored += len(blocks[block % len(blocks)])
                block += 1
            rates.append(scored / (time.perf_counter() - start))
        yield {"implementation": name, "rows": size, "rows_per_second": rates}


def onnx_runtime(forest, rows):
    """ONNX Runtime's session as a function, after it said what scikit-learn says."""
    import numpy
    import onnxruntime
    from skl2onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = to_onnx(forest, rows[:1], options={"zipmap": False}).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    score = lambda block: session.run(["probabilities"], {name: block})[0]
    far = numpy.abs(score(rows) - forest.predict_proba(rows)).max()
    assert far < CLOSE, f"ONNX Runtime differs from scikit-learn by {far}"
    return score


def ours(path, runs):
    """Our kernel and smartcore; the benchmark compares both with scikit-learn's answers first."""
    command = ["cargo", "bench", "--quiet", "--bench", "kernels", "--", str(path), "--runs", str(runs)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def table(results):
    print("| forest | implementation | rows in a block | rows/s: min | median | max | of ONNX Runtime |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        lowest, median, highest = (f"{rate:,.0f}" for rate in result["min_median_max"])
        forest, name, ratio = result["forest"], result["implementation"], f"{result['of_onnx_runtime']:.2f} x"
        print(f"| {forest} | {name} | {result['rows']:,} | {lowest} | {median} | {highest} | {ratio} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller forest alone, one run each")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    in_environment()
    runs = 1 if arguments.quick else 5
    results = []
    for trees, depth, fit_rows in QUICK if arguments.quick else FORESTS:
        forest, rows = fitted(trees, depth, fit_rows)
        path = WORK / f"{trees}x{depth}.forest"
        nodes = export(path, forest, rows)
        lines = ours(path, runs)
        lines += measure("ONNX Runtime", onnx_runtime(forest, rows), rows, runs)
        lines += measure("scikit-learn", forest.predict_proba, rows, runs)
        medians = {}
        for line in lines:
            rates = sorted(line["rows_per_second"])
            line["min_median_max"] = rates[0], rates[len(rates) // 2], rates[-1]
            line["forest"] = f"{trees} trees, depth {depth}, {COLUMNS} features, {nodes:,} nodes"
            medians[line["implementation"], line["rows"]] = rates[len(rates) // 2]
        for line in lines:
            line["of_onnx_runtime"] = line["min_median_max"][1] / medians["ONNX Runtime", line["rows"]]
        results += sorted(lines, key=lambda line: line["rows"])
    table(results)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + os.linesep)


if __name__ == "__main__":
    main()
