"""Exercises a running server with `InferenceClient` of the official `huggingface_hub` package.

    python -m venv .venv && .venv/bin/pip install huggingface_hub numpy
    .venv/bin/python tests/clients/huggingface_client.py http://127.0.0.1:9997 EMBEDDER CLASSIFIER

The client posts to the one URL it is given, so each model has a root of its own. Prints
`ok - name` or `FAILED - name: reason` per check and exits with 1 after any failure.
"""

import argparse

import huggingface_hub
import numpy
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from checks import Failure, expect, run

TEXTS = ["The harbour lights were visible from the hill.", "a boat", ""]


class Checks:
    """Every method whose name begins with `check_` is one check, run in the order written."""

    def __init__(self, options):
        def client(model):
            root = f"{options.server}/tei/{model}"
            return InferenceClient(model=root, token=options.api_key or "hf_none", timeout=60)

        self.embedder = client(options.embedder)
        self.classifier = client(options.classifier)

    def check_feature_extraction(self):
        one = self.embedder.feature_extraction(TEXTS[0])
        expect(one.ndim == 2 and len(one) == 1, f"shape {one.shape}")
        expect(abs(numpy.linalg.norm(one) - 1) < 1e-4, "not of unit length")
        many = self.embedder.feature_extraction(TEXTS)
        expect(len(many) == len(TEXTS), f"shape {many.shape}")
        expect(numpy.abs(many[0] - one[0]).max() < 1e-6, "alone and in a list differ")

    def check_feature_extraction_options(self):
        raw = self.embedder.feature_extraction(TEXTS[0], normalize=False)
        unit = self.embedder.feature_extraction(
            TEXTS[0], normalize=True, truncate=True, truncation_direction="right"
        )
        length = numpy.linalg.norm(raw)
        expect(abs(length - 1) > 1e-3, "the raw vector has unit length")
        expect(numpy.abs(raw / length - unit).max() < 1e-6, "not the same direction")
        long = " ".join(["harbour lights"] * 5000)
        left = self.embedder.feature_extraction(long + " boat", truncation_direction="left")
        right = self.embedder.feature_extraction(long + " boat", truncation_direction="right")
        expect(numpy.abs(left - right).max() > 1e-6, "both ends give one vector")

    def check_refusals(self):
        long = " ".join(["harbour lights"] * 5000)
        for refused, options in [(long, {"truncate": False}), ("a", {"prompt_name": "poem"})]:
            try:
                self.embedder.feature_extraction(refused, **options)
            except HfHubHTTPError as error:
                status = error.response.status_code
                expect(status == 422, f"status {status} for {options}")
            else:
                raise Failure(f"{options} was accepted")

    def check_sentence_similarity(self):
        scores = self.embedder.sentence_similarity(TEXTS[0], other_sentences=TEXTS[:2])
        expect(len(scores) == 2, f"{len(scores)} scores")
        expect(abs(scores[0] - 1) < 1e-5, f"{scores[0]} for the text itself")
        vectors = self.embedder.feature_extraction(TEXTS[:2])
        cosine = float(vectors[0] @ vectors[1])
        expect(abs(scores[1] - cosine) < 1e-5, f"{scores[1]}, not the cosine {cosine}")

    def check_text_classification(self):
        labels = self.classifier.text_classification(TEXTS[0])
        scores = [label.score for label in labels]
        expect(len(scores) > 1, f"{len(scores)} labels")
        expect(abs(sum(scores) - 1) < 1e-5, f"probabilities add up to {sum(scores)}")
        expect(scores == sorted(scores, reverse=True), "not the best first")
        expect(all(label.label for label in labels), "a label without a name")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("embedder")
    parser.add_argument("classifier")
    parser.add_argument("--api-key")
    run(Checks(parser.parse_args()), f"huggingface_hub {huggingface_hub.__version__}")


if __name__ == "__main__":
    main()
