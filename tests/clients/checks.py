"""What the scripts of several clients share: a list of checks, run and reported alike.

Prints `ok - name` or `FAILED - name: reason` per check and exits with 1 after any failure.
"""

import argparse
import math
import time

COSINE_MIN = 0.99999


class Failure(Exception):
    """A check that did not hold; its text is the reason."""


def expect(condition, reason):
    if not condition:
        raise Failure(reason)


def cosine(left, right):
    expect(len(left) == len(right), f"{len(left)} and {len(right)} dimensions")
    norms = math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    return sum(a * b for a, b in zip(left, right)) / norms


def expect_same(left, right, what):
    similarity = cosine(left, right)
    expect(similarity > COSINE_MIN, f"{what}: cosine {similarity}")


def expect_unit(vector):
    norm = math.sqrt(sum(value * value for value in vector))
    expect(abs(norm - 1) < 1e-4, f"length of the vector is {norm}")


def expect_ranking(results, count):
    """Sorted by score, every document at most once, scores from 0 to 1."""
    expect(len(results) == count, f"{len(results)} results, not {count}")
    scores = [result.relevance_score for result in results]
    expect(scores == sorted(scores, reverse=True), f"not sorted: {scores}")
    expect(all(0 <= score <= 1 for score in scores), f"out of range: {scores}")
    expect(len({result.index for result in results}) == count, "a document comes twice")


def raised(kind, call):
    """The error of class `kind` that `call` must raise."""
    try:
        call()
    except kind as error:
        return error
    raise Failure(f"accepted, although {kind.__name__} was expected")


def run(instance, version):
    """Runs every method whose name begins with `check_`, as written; exits with 1 if one fails."""
    failed = 0
    for attribute in vars(type(instance)):
        if not attribute.startswith("check_"):
            continue
        name = attribute.removeprefix("check_").replace("_", " ")
        start = time.monotonic()
        try:
            getattr(instance, attribute)()
            print(f"ok - {name} ({time.monotonic() - start:.2f} s)", flush=True)
        except Exception as error:
            failed += 1
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            print(f"FAILED - {name}: {kind}{error}", flush=True)
    if failed:
        raise SystemExit(f"error: {failed} checks failed against {version}")


def main(checks, about, version):
    """Makes the class `checks` from the command line and runs it."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=style)
    parser.add_argument("base_url", help="without /v1, for example http://127.0.0.1:9997")
    parser.add_argument("model", help="served name of an embedding model")
    parser.add_argument("reranker", help="served name of a reranker")
    parser.add_argument("--api-key", help="the key which the server requires")
    run(checks(parser.parse_args()), version)
