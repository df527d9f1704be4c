"""Exercises a running server with `infinity_client`, the client that Infinity generates of itself.

    python -m venv .venv && .venv/bin/pip install infinity_client
    .venv/bin/python tests/clients/infinity.py http://127.0.0.1:9997 MODEL RERANKER

The classifier must be served as `nli`.
"""

import importlib.metadata

from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import classify, embeddings, health, models, rerank
from infinity_client.models import ClassifyInput, OpenAIEmbeddingInputText, RerankInput
from infinity_client.types import UNSET

from checks import expect, expect_ranking, expect_same, expect_unit, main

TEXTS = ["the harbour at dawn", "a train over the bridge"]
DOCUMENTS = ["apples in a basket", "the old bridge", "the train crosses the bridge at noon"]


class Checks:
    def __init__(self, options):
        self.options = options
        self.model, self.reranker = options.model, options.reranker
        # Its own root, and the root of the server, where other peers have the same paths.
        self.own = self.client(f"{options.base_url}/infinity", options.api_key)
        self.shared = self.client(options.base_url, options.api_key)

    def client(self, root, key):
        more = {"base_url": root, "raise_on_unexpected_status": True}
        return AuthenticatedClient(token=key, **more) if key else Client(**more)

    def check_embeddings(self):
        found = []
        for client in [self.own, self.shared]:
            for model in [self.model, UNSET]:
                body = OpenAIEmbeddingInputText(input_=TEXTS, model=model)
                answer = embeddings.sync(client=client, body=body)
                expect([item.index for item in answer.data] == [0, 1], "other indexes")
                found.append(answer.data[1].embedding)
                expect(answer.usage.total_tokens > 0, f"{answer.usage!r}")
        expect_unit(found[0])
        for vector in found:
            expect_same(vector, found[0], "model named or not, either root")

    def check_rerank(self):
        for client in [self.own, self.shared]:
            for model in [self.reranker, UNSET]:
                body = RerankInput(
                    query="a train on a bridge",
                    documents=DOCUMENTS,
                    return_documents=True,
                    model=model,
                )
                answer = rerank.sync(client=client, body=body)
                expect_ranking(answer.results, len(DOCUMENTS))
                for result in answer.results:
                    expect(result.document == DOCUMENTS[result.index], f"{result.document!r}")
                expect(answer.id.startswith("infinity-"), f"id is {answer.id!r}")
                expect(answer.created > 1e9, f"created is {answer.created!r}")

    def check_rerank_without_documents(self):
        body = RerankInput(query="a train", documents=DOCUMENTS, top_n=2, model=self.reranker)
        answer = rerank.sync(client=self.own, body=body)
        expect_ranking(answer.results, 2)
        expect(answer.results[0].document is UNSET, f"{answer.results[0].document!r}")

    def check_classify(self):
        for client in [self.own, self.shared]:
            for raw_scores in [False, True]:
                body = ClassifyInput(input_=TEXTS, model="nli", raw_scores=raw_scores)
                answer = classify.sync(client=client, body=body)
                expect(len(answer.data) == len(TEXTS), f"{len(answer.data)} lists")
                for labels in answer.data:
                    scores = [label.score for label in labels]
                    expect(len({label.label for label in labels}) == 3, f"{labels!r}")
                    expect(scores == sorted(scores, reverse=True), f"not sorted: {scores}")
                    expect(raw_scores or abs(sum(scores) - 1) < 1e-5, f"{scores}")

    def check_models(self):
        answer = models.sync(client=self.own)
        found = {model.id: model.capabilities for model in answer.data}
        wanted = {self.model: ["embed"], self.reranker: ["rerank"], "nli": ["classify"]}
        expect(found == wanted, f"{found}")
        expect("queue_fraction" in answer.data[0].stats.additional_properties, "no stats")

    def check_health(self):
        for client in [self.own, self.shared]:
            expect(health.sync(client=client)["unix"] > 1e9, "no time")

    def check_errors(self):
        body = OpenAIEmbeddingInputText(input_=["a"], model="none")
        client = self.client(f"{self.options.base_url}/infinity", self.options.api_key)
        client = type(client).with_headers(client, {})
        client.raise_on_unexpected_status = False
        answer = embeddings.sync_detailed(client=client, body=body)
        expect(answer.status_code == 400, f"status {answer.status_code}")
        expect(b"not found" in answer.content, f"{answer.content!r}")


if __name__ == "__main__":
    main(Checks, __doc__, f"infinity_client {importlib.metadata.version('infinity_client')}")
