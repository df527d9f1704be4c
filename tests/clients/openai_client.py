"""Exercises a running server with the official `openai` package, synchronously and not.

    python -m venv .venv && .venv/bin/pip install openai
    .venv/bin/python tests/clients/openai_client.py http://127.0.0.1:9997/v1 MODEL

Prints `ok - name` or `FAILED - name: reason` per check and exits with 1 after any failure. With
`--api-key` the server must require that key. Token arrays mean cl100k_base ids, as for OpenAI
itself; `--tokens` and `--tokens-text` say otherwise for a server set to the model's own ids.
"""

import argparse
import array
import asyncio
import base64
import math
import sys

import openai

from checks import COSINE_MIN, Failure, cosine, expect, run

TEXT = "The harbour lights were visible from the hill."
MANY = 300
CONCURRENT = 32
# A float32 printed with six decimals is off by up to 5e-7, one that round-trips by less than 1e-8;
# what is left is for a server whose batches differ in the last bit.
DIFFERENCE_MAX = 3e-7
WORDS = "amber basket cedar dune ember forge grove hollow island jasper kettle lantern".split()


def expect_close(left, right, what):
    expect(len(left) == len(right), f"{what}: {len(left)} and {len(right)} dimensions")
    worst = max(abs(a - b) for a, b in zip(left, right))
    expect(worst <= DIFFERENCE_MAX, f"{what}: components differ by {worst:.1e}")


def numbered_texts(count):
    """Distinct texts of mixed length, so that batches are padded and order shows."""
    texts = []
    for index in range(count):
        length = 1 + index * 7 % 60
        words = [WORDS[(index + step * (1 + index % 5)) % len(WORDS)] for step in range(length)]
        texts.append(f"note {index} {index * index}: {' '.join(words)}")
    return texts


class Checks:
    """Every method whose name begins with `check_` is one check, run in the order written."""

    def __init__(self, options):
        self.options = options
        self.model = options.model
        self.client = openai.OpenAI(**self.connection())

    def connection(self, **changes):
        key = self.options.api_key or "unused"
        return {"base_url": self.options.base_url, "api_key": key, "max_retries": 0, **changes}

    def embed(self, input, **more):
        return self.client.embeddings.create(model=self.model, input=input, **more)

    def vector(self, input, **more):
        return self.embed(input, **more).data[0].embedding

    def error(self, kind, status, call):
        """The error of class `kind` that `call` must raise, with a readable message."""
        try:
            call()
        except kind as error:
            expect(error.status_code == status, f"status {error.status_code}, not {status}")
            expect(isinstance(error.body, dict), f"no error object in the body: {error.body!r}")
            expect(error.body.get("message"), f"no message in the body: {error.body!r}")
            return error
        except openai.OpenAIError as error:
            raise Failure(f"{type(error).__name__} instead of {kind.__name__}: {error}") from error
        raise Failure(f"accepted, although {kind.__name__} was expected")

    def check_single_string(self):
        response = self.embed(TEXT)
        expect(response.object == "list", f"object is {response.object!r}")
        expect(response.model == self.model, f"model is {response.model!r}")
        expect(len(response.data) == 1, f"{len(response.data)} vectors for one text")
        item = response.data[0]
        expect(item.object == "embedding", f"data[0].object is {item.object!r}")
        expect(item.index == 0, f"index is {item.index}")
        norm = math.sqrt(sum(value * value for value in item.embedding))
        expect(abs(norm - 1) < 1e-4, f"length of the vector is {norm}")

    def check_default_encoding_is_base64(self):
        raw = self.client.embeddings.with_raw_response.create(model=self.model, input=TEXT)
        wire = raw.http_response.json()["data"][0]["embedding"]
        expect(isinstance(wire, str), f"the SDK asked for base64 and got {type(wire).__name__}")
        values = array.array("f", base64.b64decode(wire, validate=True))
        if sys.byteorder == "big":
            values.byteswap()
        parsed = raw.parse().data[0].embedding
        expect(list(values) == list(parsed), "the SDK decodes other numbers than the bytes hold")

    def check_base64_equals_float(self):
        floats = self.vector(TEXT, encoding_format="float")
        expect_close(self.vector(TEXT), floats, "default and float")
        encoded = self.vector(TEXT, encoding_format="base64")
        expect(isinstance(encoded, str), "explicit base64 was not answered with a string")
        decoded = array.array("f", base64.b64decode(encoded, validate=True))
        if sys.byteorder == "big":
            decoded.byteswap()
        expect_close(decoded, floats, "base64 and float")

    def check_list_of_strings(self):
        texts = ["first text", "a second, longer text about rivers", "", "first text"]
        data = self.embed(texts).data
        expect([item.index for item in data] == [0, 1, 2, 3], "indexes are not 0, 1, 2, 3")
        expect(cosine(data[0].embedding, data[3].embedding) > COSINE_MIN, "equal texts differ")
        expect(cosine(data[0].embedding, data[1].embedding) < COSINE_MIN, "all texts look equal")
        expect_close(data[0].embedding, self.vector(texts[:1]), "alone and in a list")

    def check_usage(self):
        one, two = self.embed(TEXT).usage, self.embed("rain").usage
        both = self.embed([TEXT, "rain"]).usage
        expect(two.prompt_tokens > 0, f"prompt_tokens is {two.prompt_tokens}")
        expect(one.prompt_tokens > two.prompt_tokens, "a longer text has no more tokens")
        expect(one.total_tokens == one.prompt_tokens, "total_tokens is not prompt_tokens")
        total = one.prompt_tokens + two.prompt_tokens
        expect(both.prompt_tokens == total, f"list has {both.prompt_tokens} tokens, not {total}")

    def check_list_of_300_keeps_order(self):
        texts = numbered_texts(MANY)
        data = self.embed(texts).data
        expect([item.index for item in data] == list(range(MANY)), "indexes are not in order")
        alone = asyncio.run(self.embed_each(texts, at_once=8))
        for index, (item, single) in enumerate(zip(data, alone)):
            similarity = cosine(item.embedding, single)
            expect(similarity > COSINE_MIN, f"text {index}: cosine to itself alone {similarity}")
        neighbours = max(cosine(alone[i], alone[i + 1]) for i in range(MANY - 1))
        expect(neighbours < COSINE_MIN, "neighbouring texts are equal, so order was not tested")

    def check_dimensions(self):
        full = self.vector(TEXT)
        half = len(full) // 2
        norm = math.sqrt(sum(value * value for value in full[:half]))
        expect_close(
            self.vector(TEXT, dimensions=half), [value / norm for value in full[:half]],
            "dimensions=half and the normalised first half",
        )
        expect_close(self.vector(TEXT, dimensions=len(full)), full, "dimensions=all and none")
        one = self.vector(TEXT, dimensions=1, encoding_format="float")
        expect(len(one) == 1, f"dimensions=1 gave {len(one)}")

    def check_dimensions_out_of_range(self):
        more = len(self.vector(TEXT)) + 1
        self.error(openai.BadRequestError, 400, lambda: self.embed(TEXT, dimensions=more))
        self.error(openai.BadRequestError, 400, lambda: self.embed(TEXT, dimensions=-1))

    def check_token_arrays(self):
        text = self.vector(self.options.tokens_text)
        tokens = self.options.tokens
        expect(cosine(self.vector(tokens), text) > COSINE_MIN, "[int] is not the same text")
        data = self.embed([tokens, tokens[:1], tokens]).data
        expect(len(data) == 3, f"{len(data)} vectors for three token arrays")
        expect(cosine(data[2].embedding, text) > COSINE_MIN, "[[int]] is not the same text")
        expect(cosine(data[1].embedding, text) < COSINE_MIN, "one token equals all tokens")
        self.error(openai.BadRequestError, 400, lambda: self.embed([[2_000_000_000]]))

    def check_unknown_fields_are_ignored(self):
        extra = {"truncate": True, "normalize": None, "no_such_field": {"a": [1]}}
        vector = self.vector(TEXT, user="someone", extra_body=extra)
        expect_close(vector, self.vector(TEXT), "with and without unknown fields")

    def check_long_text_is_cut(self):
        vector = self.vector("rain on the river " * 5000)
        expect(all(math.isfinite(value) for value in vector), "not finite")

    def check_models_list_and_retrieve(self):
        ids = [model.id for model in self.client.models.list()]
        expect(self.model in ids, f"{self.model!r} is not in {ids}")
        model = self.client.models.retrieve(self.model)
        expect(model.id == self.model, f"retrieve gave {model.id!r}")
        expect(model.object == "model", f"object is {model.object!r}")

    def check_unknown_model(self):
        create = self.client.embeddings.create
        missing = "no-such-model"
        error = self.error(
            openai.NotFoundError, 404, lambda: create(model=missing, input=TEXT)
        )
        expect("not found" in str(error).lower(), f"message does not say so: {error}")
        expect(missing in str(error), f"message does not name the model: {error}")
        self.error(openai.NotFoundError, 404, lambda: self.client.models.retrieve(missing))

    def check_bad_requests(self):
        self.error(openai.BadRequestError, 400, lambda: self.embed([]))
        self.error(openai.BadRequestError, 400, lambda: self.embed(None))
        self.error(openai.BadRequestError, 400, lambda: self.embed([TEXT, {"no": "text"}]))
        self.error(openai.BadRequestError, 400, lambda: self.embed(TEXT, encoding_format="hex"))

    def check_authentication(self):
        client = openai.OpenAI(**self.connection(api_key="wrong"))

        def embed(**more):
            return client.embeddings.create(model=self.model, input=TEXT, **more)

        no_key = {"extra_headers": {"Authorization": openai.Omit()}}
        if self.options.api_key:
            self.error(openai.AuthenticationError, 401, embed)
            self.error(openai.AuthenticationError, 401, lambda: embed(**no_key))
        else:
            expect(embed().data, "no vector with some key, although the server needs none")
            expect(embed(**no_key).data, "no vector without a key, although none is needed")

    def check_concurrent_async_calls(self):
        texts = numbered_texts(CONCURRENT)
        expected = [item.embedding for item in self.embed(texts).data]
        for index, vector in enumerate(asyncio.run(self.embed_each(texts, at_once=CONCURRENT))):
            similarity = cosine(vector, expected[index])
            expect(similarity > COSINE_MIN, f"call {index} got another answer: {similarity}")

    def check_async_models_and_errors(self):
        async def run():
            async with openai.AsyncOpenAI(**self.connection()) as client:
                ids = [model.id async for model in client.models.list()]
                try:
                    await client.embeddings.create(model="no-such-model", input=TEXT)
                except openai.NotFoundError:
                    return ids
            raise Failure("an unknown model was accepted")

        expect(self.model in asyncio.run(run()), "the model is not listed")

    async def embed_each(self, texts, at_once):
        """One request per text, at most `at_once` under way; vectors in the order of the texts."""
        gate = asyncio.Semaphore(at_once)
        async with openai.AsyncOpenAI(**self.connection()) as client:

            async def one(text):
                async with gate:
                    answer = await client.embeddings.create(model=self.model, input=text)
                    return answer.data[0].embedding

            return await asyncio.gather(*(one(text) for text in texts))


def main():
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("base_url", help="with /v1, for example http://127.0.0.1:9997/v1")
    parser.add_argument("model", help="served name of an embedding model")
    parser.add_argument("--api-key", help="the key which the server requires")
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser.add_argument("--tokens", type=numbers, default=[15339, 1917], help="comma separated")
    parser.add_argument("--tokens-text", default="hello world", help="the text of --tokens")
    run(Checks(parser.parse_args()), f"openai {openai.__version__}")


if __name__ == "__main__":
    main()
