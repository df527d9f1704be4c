"""Exercises a running server with the `xinference-client` package, synchronously and not.

    python -m venv .venv && .venv/bin/pip install xinference-client
    .venv/bin/python tests/clients/xinference_package.py http://127.0.0.1:9997 EMBEDDING RERANK

EMBEDDING and RERANK are names of the server's catalogue whose files it has; they are launched and
terminated again. Prints `ok - name` or `FAILED - name: reason` per check and exits with 1 after
any failure. With `--api-key` the server must require that key.
"""

import argparse
import asyncio
import importlib.metadata
import json
import math
import time

from xinference_client import RESTfulClient
from xinference_client.client.restful.async_restful_client import AsyncClient
from xinference_client.client.restful.restful_client import (
    RESTfulEmbeddingModelHandle,
    RESTfulRerankModelHandle,
)

from checks import Failure, expect, run

QUERY = "Which city is the capital of France?"
DOCUMENTS = ["Pandas eat bamboo.", "Paris is the capital of France.", "It rained in Oslo."]


def expect_embeddings(answer, count):
    rows = answer["data"]
    expect([row["index"] for row in rows] == list(range(count)), f"indices of {rows}")
    for row in rows:
        norm = math.sqrt(sum(x * x for x in row["embedding"]))
        expect(abs(norm - 1) < 1e-4, f"a norm of {norm}")
    expect(answer["usage"]["total_tokens"] > 0, f"usage {answer['usage']}")


def expect_ranking(answer, count):
    results = answer["results"]
    expect(len(results) == count, f"{len(results)} results")
    scores = [result["relevance_score"] for result in results]
    expect(scores == sorted(scores, reverse=True), f"not sorted: {scores}")
    expect(all(0 <= score <= 1 for score in scores), f"outside of 0 to 1: {scores}")


def expect_refusal(call, part):
    try:
        call()
    except RuntimeError as error:
        expect(part in str(error), f"`{part}` is not in `{error}`")
    else:
        raise Failure(f"no error with `{part}`")


class Checks:
    """Every method whose name begins with `check_` is one check, run in the order written."""

    def __init__(self, options):
        self.options = options
        self.client = RESTfulClient(options.base_url, api_key=options.api_key)
        self.embedding = options.embedding
        self.rerank = options.rerank

    def check_launch_waits_until_it_answers(self):
        uid = self.client.launch_model(model_name=self.embedding, model_type="embedding")
        expect(uid == self.embedding, f"the uid {uid}")
        handle = self.client.get_model(uid)
        expect(isinstance(handle, RESTfulEmbeddingModelHandle), f"a {type(handle).__name__}")
        expect_embeddings(handle.create_embedding("first"), 1)

    def check_launch_again_is_the_same_model(self):
        uid = self.client.launch_model(model_name=self.embedding, model_type="embedding")
        expect(uid == self.embedding, f"the uid {uid}")

    def check_launch_without_waiting_is_seen_at_once(self):
        uid = self.client.launch_model(
            model_name=self.rerank, model_type="rerank", model_uid="judge", wait_ready=False,
            replica=1, batch_size=8, use_fp16=False)
        seen = self.client.get_instance_info(self.rerank, uid)
        expect(len(seen) == 1, f"instances {seen}")
        for _ in range(600):
            seen = self.client.get_instance_info(self.rerank, uid)
            if seen[0]["status"] not in ("CREATING", "LOADING"):
                break
            progress = self.client.get_launch_model_progress(uid)
            expect(0 <= progress["progress"] <= 1, f"progress {progress}")
            time.sleep(0.1)
        expect(seen[0]["status"] == "READY", f"instances {seen}")
        expect(self.client.get_launch_model_progress(uid)["progress"] == 1.0, "not all done")

    def check_list_and_describe(self):
        models = self.client.list_models()
        expect({self.embedding, "judge"} <= set(models), f"models {list(models)}")
        expect(models[self.embedding]["dimensions"] > 0, "no dimensions")
        record = self.client.describe_model("judge")
        expect(record["model_type"] == "rerank", f"{record}")
        expect(record["model_name"] == self.rerank, f"{record}")
        for key in ("max_tokens", "model_format", "replica", "language", "model_ability"):
            expect(record.get(key), f"`{key}` is missing in {record}")

    def check_embed(self):
        handle = self.client.get_model(self.embedding)
        expect_embeddings(handle.create_embedding(["one", "two texts", ""]), 3)

    def check_rerank(self):
        handle = self.client.get_model("judge")
        expect(isinstance(handle, RESTfulRerankModelHandle), f"a {type(handle).__name__}")
        expect_ranking(handle.rerank(DOCUMENTS, QUERY), 3)
        answer = handle.rerank(DOCUMENTS, QUERY, top_n=2, return_documents=True, return_len=True)
        expect_ranking(answer, 2)
        expect(answer["results"][0]["document"]["text"] in DOCUMENTS, "no text")
        expect(answer["meta"]["tokens"]["input_tokens"] > 0, f"meta {answer['meta']}")

    def check_errors_have_a_reason(self):
        launch = lambda **options: self.client.launch_model(model_type="embedding", **options)
        expect_refusal(lambda: launch(model_name="nothing-of-the-kind"), "Model not found")
        expect_refusal(lambda: launch(model_name=self.embedding, replica=0), "replica")
        expect_refusal(lambda: self.client.get_model("nobody"), "not found")
        expect_refusal(lambda: self.client.terminate_model("nobody"), "not found")
        handle = self.client.get_model("judge")
        expect_refusal(lambda: handle.rerank([], QUERY), "documents")

    def check_catalogue(self):
        names = [row["model_name"] for row in self.client.list_model_registrations("embedding")]
        expect(self.embedding in names, f"{self.embedding} is not among {names}")
        record = self.client.get_model_registration("rerank", self.rerank)
        expect(record["language"] and record["model_specs"], f"{record}")
        engines = self.client.query_engine_by_model_name(self.embedding)
        expect(engines["onnx"][0]["quantizations"], f"{engines}")

    def check_register_and_unregister(self):
        record = {"version": 2, "model_name": "mine", "dimensions": 32, "max_tokens": 64,
                  "language": ["en"], "model_specs": [{
                      "model_format": "pytorch", "model_id": "nobody/mine", "model_uri": None,
                      "model_revision": None, "quantization": "none"}]}
        self.client.register_model("embedding", json.dumps(record), persist=False)
        rows = {row["model_name"]: row["is_builtin"]
                for row in self.client.list_model_registrations("embedding")}
        expect(rows.get("mine") is False, "not listed as a model of one's own")
        expect_refusal(
            lambda: self.client.register_model("embedding", json.dumps(record), persist=False), "mine")
        self.client.unregister_model("embedding", "mine")
        expect_refusal(lambda: self.client.unregister_model("embedding", "mine"), "not found")

    def check_pages_about_the_cluster(self):
        expect(isinstance(self.client.list_cached_models(), list), "no list")
        expect(self.client.vllm_models() == {"chat": [], "generate": []}, "vLLM models")
        expect(self.client.get_supervisor_info()["supervisor_ip"], "no supervisor")
        expect("models" in self.client.get_workers_info()[0], "no worker")
        expect(":" in self.client._get_supervisor_internal_address(), "no address")
        self.client.abort_request("judge", "1")

    def check_replicas_come_and_go(self):
        added = self.client.add_model_replica("judge")
        expect(added["replica_id"] == 1, f"{added}")
        expect(self.client.terminate_model_replica("judge", 1) == 1, "not one left")

    def check_the_same_without_blocking(self):
        asyncio.run(self.asynchronous())

    async def asynchronous(self):
        client = AsyncClient(self.options.base_url, api_key=self.options.api_key)
        expect("judge" in await client.list_models(), "not listed")
        record = await client.describe_model(self.embedding)
        expect(record["model_type"] == "embedding", f"{record}")
        uid = await client.launch_model(
            model_name=self.embedding, model_type="embedding", model_uid="another")
        handle = await client.get_model(uid)
        texts = [f"text {number}" for number in range(16)]
        many = await asyncio.gather(*(handle.create_embedding(text) for text in texts))
        for answer in many:
            expect_embeddings(answer, 1)
        judge = await client.get_model("judge")
        expect_ranking(await judge.rerank(DOCUMENTS, QUERY), 3)
        await client.terminate_model(uid)
        expect(uid not in await client.list_models(), "still listed")
        for open in (handle, judge, client):
            await open.close()

    def check_terminate(self):
        for uid in ("judge", self.embedding):
            self.client.terminate_model(uid)
        left = set(self.client.list_models())
        expect(not left & {"judge", self.embedding}, f"left are {left}")
        seen = self.client.get_instance_info(self.rerank, "judge")
        expect(seen == [], f"instances {seen}")


def main():
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("base_url", help="without /v1, for example http://127.0.0.1:9997")
    parser.add_argument("embedding", help="name of an embedding model")
    parser.add_argument("rerank", help="name of a reranker")
    parser.add_argument("--api-key", help="the key which the server requires")
    version = importlib.metadata.version("xinference-client")
    run(Checks(parser.parse_args()), f"xinference-client {version}")


if __name__ == "__main__":
    main()
