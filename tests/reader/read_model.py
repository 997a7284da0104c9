#!/usr/bin/env python3
"""Reads a model of modelstream and predicts rows, in another language: all that it knows is in schemas/README.md.

    read_model.py FILE.model ROWS.jsonl [--manifest FILE]

A line of ROWS.jsonl is a JSON object by the features' names; what comes out for it is what `modelstream predict` says. With
--manifest, the value of a record of the models topic, the artifact must be the one that the manifest names. Needs fastavro.
"""

import argparse
import hashlib
import io
import itertools
import json
import math
import pathlib
import struct
import sys

import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"
LEAF = 65_535
# The newest number that is known.
FORMATS = {"artifact": 1, "manifest": 2}
# The letters of the struct module for arrays; all others are of 64-bit floating-point numbers.
ARRAYS = {"tree_sizes": "I", "children": "I", "features": "H", "thresholds": "f"}


def require(condition, why):
    if not condition:
        sys.exit(f"refused: {why}")


def decode(data, what):
    """The datum behind a single-object frame, by the schema whose fingerprint the frame has."""
    require(data[:2] == b"\xc3\x01", f"this is no {what} of modelstream")
    for path in [SCHEMAS / f"{what}.avsc", *SCHEMAS.glob(f"history/{what}-*.avsc")]:
        schema = json.loads(path.read_text(encoding="utf-8"))
        if fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO") == data[2:10].hex():
            rest = io.BytesIO(data[10:])
            document = fastavro.schemaless_reader(rest, parse_schema(schema), return_record_name=True)
            require(not rest.read(1), f"bytes stand behind the {what}")
            known = 1 <= document["format"] <= FORMATS[what]
            require(known, f"the {what} has format {document['format']} and needs a newer reader")
            return document
    return require(False, f"the {what} has an unknown schema, {data[2:10].hex()}, and needs a newer reader")


def numbers(data, letter):
    return struct.unpack(f"<{len(data) // struct.calcsize('<' + letter)}{letter}", data)


def columns(feature, value):
    """What the value of a feature becomes."""
    kind, rules = feature["kind"]
    missing = value is None or isinstance(value, float) and math.isnan(value)
    if kind == "modelstream.Numeric":
        value = rules["fill"] if missing else value
        require(type(value) in (int, float), f"{feature['name']} is {value!r}, which is no number")
        return struct.unpack("<f", struct.pack("<f", value))
    # A number or a truth value stands for the word with its text.
    word = value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
    code = rules["categories"].index(word) if word in rules["categories"] and not missing else None
    allowed = code is not None or rules["missing" if missing else "unknown"] == "NoCategory"
    require(allowed, f"{feature['name']} is {value!r}, which is no category")
    if rules["encoding"] == "Ordinal":
        return [-1.0 if code is None else float(code)]
    return [float(index == code) for index in range(len(rules["categories"]))]


def best(scores):
    """The index of the largest; the first of equals."""
    return scores.index(max(scores))


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def check_trees(fields, classes, width):
    """Children stand behind their parents, so that every walk ends."""
    sizes, features, children = fields["tree_sizes"], fields["features"], fields["children"]
    require(sum(sizes) == len(features) == len(children) == len(fields["thresholds"]), "node arrays differ in length")
    leaves = classes or len(fields["leaf_values"])
    for first, size in zip(itertools.accumulate(sizes, initial=0), sizes):
        for place in range(size):
            feature, child = features[first + place], children[first + place]
            sound = child < leaves if feature == LEAF else feature < width and place < child < size - 1
            require(sound, "a node names what is not there")


def walk(fields, row):
    """The `children` of the leaf that the row reaches in each tree."""
    first = 0
    for size in fields["tree_sizes"]:
        node = first
        while (feature := fields["features"][node]) != LEAF:
            right = not row[feature] <= fields["thresholds"][node]
            node = first + fields["children"][node] + right
        yield fields["children"][node]
        first += size


def tree_ensemble(fields, classes, row):
    reached, (aggregation, details) = list(walk(fields, row)), fields["aggregation"]
    if aggregation == "modelstream.Vote":
        shares = [reached.count(index) / len(reached) for index in range(classes)]
        return best(shares), shares
    total = sum(fields["leaf_values"][index] for index in reached)
    return None, [details["base"] + total if aggregation == "modelstream.Sum" else total / len(reached)]


def linear(fields, classes, row):
    weights = zip(*[iter(fields["coefficients"])] * len(row), strict=True)
    scores = [sum(w * x for w, x in zip(own, row)) + b for own, b in zip(weights, fields["intercepts"], strict=True)]
    if fields["link"] == "Identity":
        return None, scores
    if fields["link"] == "Logistic":
        # math.exp does not take more than 709.
        second = 1 / (1 + math.exp(min(-scores[0], 700)))
        return int(scores[0] > 0), [1 - second, second]
    return best(scores), softmax(scores)


def naive_bayes(fields, classes, row):
    def score(index):
        own = slice(index * len(row), (index + 1) * len(row))
        densities = zip(row, fields["means"][own], fields["variances"][own], strict=True)
        terms = (math.log(2 * math.pi * variance) + (x - mean) ** 2 / variance for x, mean, variance in densities)
        return fields["log_priors"][index] - sum(terms) / 2

    scores = [score(index) for index in range(classes)]
    return best(scores), softmax(scores)


PREDICTORS = {"TreeEnsemble": tree_ensemble, "Linear": linear, "NaiveBayes": naive_bayes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("--manifest", type=pathlib.Path)
    options = parser.parse_args()
    data = options.model.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if options.manifest:
        manifest = decode(options.manifest.read_bytes(), "manifest")
        named = manifest["digest"], manifest["artifact_bytes"]
        require(named == (digest, len(data)), f"the manifest names the artifact {named[0]}, this is {digest}")

    artifact = decode(data, "artifact")
    features, classes = artifact["signature"]["features"], artifact["signature"]["target"]["classes"]
    kind, fields = artifact["predictor"]
    is_array = lambda value: isinstance(value, bytes)
    fields = {name: numbers(value, ARRAYS.get(name, "d")) if is_array(value) else value for name, value in fields.items()}
    predictor = PREDICTORS[kind.removeprefix("modelstream.")]
    if predictor is tree_ensemble:
        wide = lambda rules: len(rules["categories"]) if rules.get("encoding") == "OneHot" else 1
        check_trees(fields, len(classes), sum(wide(feature["kind"][1]) for feature in features))
    score = lambda row: predictor(fields, len(classes), row)
    row_of = lambda values: [column for feature, value in zip(features, values) for column in columns(feature, value)]
    for golden in artifact["golden_rows"]:
        outputs = score(row_of(golden["inputs"]))[1]
        far = [abs(ours - theirs) / max(1, abs(theirs)) for ours, theirs in zip(outputs, golden["outputs"], strict=True)]
        require(max(far) <= 1e-6, "a golden row comes out otherwise")
    for line in options.rows.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        index, outputs = score(row_of(record.get(feature["name"]) for feature in features))
        said = {"prediction": outputs[0]} if index is None else {
            "prediction": classes[index], "probabilities": dict(zip(classes, outputs))}
        print(json.dumps({**said, "digest": digest}))


if __name__ == "__main__":
    main()
