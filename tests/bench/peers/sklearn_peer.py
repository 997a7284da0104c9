"""The same with scikit-learn: one predict_proba a batch."""

import joblib

import batches


def main():
    forest = joblib.load(batches.models() / "forest.joblib")
    batches.run([str(label) for label in forest.classes_], forest.predict_proba)


if __name__ == "__main__":
    main()
