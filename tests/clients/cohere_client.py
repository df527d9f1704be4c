"""Exercises a running server with the official `cohere` package, both versions of its client.

    python -m venv .venv && .venv/bin/pip install cohere
    .venv/bin/python tests/clients/cohere_client.py http://127.0.0.1:9997 MODEL RERANKER
"""

import array
import asyncio
import base64
import sys

import cohere
from cohere.core.api_error import ApiError

from checks import Failure, cosine, expect, expect_ranking, expect_same, expect_unit, main, raised

TEXTS = ["the harbour at dawn", "a train over the bridge", "", "the harbour at dawn"]
DOCUMENTS = ["apples in a basket", "the old bridge", "the train crosses the bridge at noon"]
TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


class Checks:
    def __init__(self, options):
        self.options = options
        self.model, self.reranker = options.model, options.reranker
        self.one = cohere.Client(**self.connection())
        self.two = cohere.ClientV2(**self.connection())

    def connection(self, **changes):
        key = self.options.api_key or "unused"
        return {"base_url": self.options.base_url, "api_key": key, "timeout": 60, **changes}

    def floats(self, texts, **more):
        more = {"input_type": "search_document", "embedding_types": ["float"], **more}
        return self.two.embed(model=self.model, texts=texts, **more).embeddings.float_

    def check_v1_embed(self):
        answer = self.one.embed(model=self.model, texts=TEXTS, input_type="search_document")
        expect(answer.response_type == "embeddings_floats", f"type {answer.response_type!r}")
        expect(answer.texts == TEXTS, f"texts are {answer.texts!r}")
        expect(answer.meta.billed_units.input_tokens > 0, "no billed tokens")
        expect(len(answer.embeddings) == len(TEXTS), f"{len(answer.embeddings)} vectors")
        for vector in answer.embeddings:
            expect_unit(vector)
        expect_same(answer.embeddings[0], answer.embeddings[3], "equal texts")
        expect(cosine(answer.embeddings[0], answer.embeddings[1]) < 0.99999, "all look equal")

    def check_v1_embed_by_type(self):
        answer = self.one.embed(
            model=self.model, texts=TEXTS, input_type="search_query", embedding_types=TYPES
        )
        expect(answer.response_type == "embeddings_by_type", f"type {answer.response_type!r}")
        self.expect_types_agree(answer.embeddings)

    def check_v1_embed_in_batches(self):
        # The package asks for 96 texts at a time, several at once, and merges the answers.
        texts = [f"note {index} of many" for index in range(300)]
        answer = self.one.embed(model=self.model, texts=texts, input_type="search_document")
        expect(len(answer.embeddings) == 300, f"{len(answer.embeddings)} vectors")
        for index in [0, 95, 96, 299]:
            expect_same(answer.embeddings[index], self.floats([texts[index]])[0], f"text {index}")

    def check_v2_embed(self):
        answer = self.two.embed(
            model=self.model, texts=TEXTS, input_type="search_query", embedding_types=TYPES
        )
        self.expect_types_agree(answer.embeddings)
        expect(answer.meta.billed_units.input_tokens > 0, "no billed tokens")

    def expect_types_agree(self, found):
        for row, vector in enumerate(found.float_):
            expect_unit(vector)
            expect(cosine(found.int8[row], vector) > 0.999, "int8 points elsewhere")
            moved = [value - 128 for value in found.uint8[row]]
            expect(moved == found.int8[row], "uint8 is not int8 plus 128")
            decoded = array.array("f", base64.b64decode(found.base64[row], validate=True))
            if sys.byteorder == "big":
                decoded.byteswap()
            expect_same(decoded, vector, "base64")
            bits = [int(value > 0) for value in vector]
            bits += [0] * (-len(bits) % 8)
            packed = [
                int("".join(map(str, bits[at : at + 8])), 2) for at in range(0, len(bits), 8)
            ]
            expect(found.ubinary[row] == packed, "ubinary holds other signs")
            signed = [value - 128 for value in packed]
            expect(found.binary[row] == signed, "binary is not ubinary minus 128")

    def check_v2_embed_inputs(self):
        inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS[:2]]
        answer = self.two.embed(
            model=self.model,
            inputs=inputs,
            input_type="search_document",
            embedding_types=["float"],
        )
        for found, expected in zip(answer.embeddings.float_, self.floats(TEXTS[:2]), strict=True):
            expect_same(found, expected, "inputs and texts")

    def check_truncation(self):
        long = ["rain on the river " * 3000]
        ends = {side: self.floats(long, truncate=side)[0] for side in ["START", "END"]}
        for vector in ends.values():
            expect_unit(vector)
        error = raised(cohere.BadRequestError, lambda: self.floats(long, truncate="NONE"))
        expect("tokens" in error.body["message"], f"the message is {error.body!r}")

    def check_tokenize_and_back(self):
        for offline in [False, True]:
            answer = self.one.tokenize(text="the old bridge", model=self.model, offline=offline)
            expect(len(answer.tokens) == len(answer.token_strings) > 0, f"{answer!r}")
            back = self.one.detokenize(tokens=answer.tokens, model=self.model, offline=offline)
            expect(back.text == "the old bridge", f"came back as {back.text!r}")

    def check_v1_rerank(self):
        for documents in [DOCUMENTS, [{"text": text} for text in DOCUMENTS]]:
            answer = self.one.rerank(
                model=self.reranker,
                query="a train on a bridge",
                documents=documents,
                return_documents=True,
                rank_fields=["text"],
                max_chunks_per_doc=10,
            )
            expect_ranking(answer.results, len(DOCUMENTS))
            for result in answer.results:
                text = result.document.text
                expect(text == DOCUMENTS[result.index], f"{text!r} is another document")
        bare = self.one.rerank(model=self.reranker, query="a", documents=DOCUMENTS, top_n=2)
        expect_ranking(bare.results, 2)
        expect(bare.results[0].document is None, "a document nobody asked for")

    def check_v2_rerank(self):
        answer = self.two.rerank(
            model=self.reranker,
            query="a train on a bridge",
            documents=DOCUMENTS,
            top_n=2,
            max_tokens_per_doc=4096,
        )
        expect_ranking(answer.results, 2)
        expect(answer.id, "no id")
        expect(answer.meta.api_version.version == "2", f"meta is {answer.meta!r}")
        expect(answer.meta.billed_units.search_units == 1, f"meta is {answer.meta!r}")

    def check_unknown_model(self):
        calls = {
            "v1 embed": lambda: self.one.embed(model="none", texts=["a"], input_type="clustering"),
            "v2 embed": lambda: self.two.embed(
                model="none", texts=["a"], input_type="clustering", embedding_types=["float"]
            ),
            "v1 rerank": lambda: self.one.rerank(model="none", query="a", documents=["a"]),
            "v2 rerank": lambda: self.two.rerank(model="none", query="a", documents=["a"]),
            "tokenize": lambda: self.one.tokenize(text="a", model="none", offline=False),
        }
        for name, call in calls.items():
            error = raised(cohere.NotFoundError, call)
            expect("not found" in error.body["message"], f"{name}: the body is {error.body!r}")

    def check_bad_requests(self):
        error = raised(cohere.BadRequestError, lambda: self.floats([]))
        expect("`texts`" in error.body["message"], f"the body is {error.body!r}")
        empty = lambda: self.two.rerank(model=self.reranker, query="a", documents=[])
        raised(cohere.BadRequestError, empty)

    def check_authentication(self):
        wrong = cohere.ClientV2(**self.connection(api_key="wrong"))
        rerank = lambda: wrong.rerank(model=self.reranker, query="a", documents=["a"])
        if self.options.api_key:
            raised(cohere.UnauthorizedError, rerank)
        else:
            expect(rerank().results, "refused some key, although the server needs none")

    def check_async(self):
        async def run():
            async with cohere.AsyncClientV2(**self.connection()) as client:
                calls = [
                    client.embed(
                        model=self.model,
                        texts=[text],
                        input_type="search_document",
                        embedding_types=["float"],
                    )
                    for text in TEXTS
                ]
                return await asyncio.gather(*calls)

        try:
            answers = asyncio.run(run())
        except ApiError as error:
            raise Failure(str(error)) from error
        for answer, expected in zip(answers, self.floats(TEXTS), strict=True):
            expect_same(answer.embeddings.float_[0], expected, "async and not")


if __name__ == "__main__":
    main(Checks, __doc__, f"cohere {cohere.__version__}")
