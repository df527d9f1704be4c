"""Exercises a running server with the official `ollama` package.

    python -m venv .venv && .venv/bin/pip install ollama
    .venv/bin/python tests/clients/ollama_client.py http://127.0.0.1:9997 MODEL RERANKER
"""

import asyncio
import datetime
import importlib.metadata

import ollama

from checks import expect, expect_same, expect_unit, main, raised

TEXTS = ["the harbour at dawn", "a train over the bridge", ""]


class Checks:
    def __init__(self, options):
        self.options = options
        self.model, self.reranker = options.model, options.reranker
        self.client = ollama.Client(**self.connection(options.api_key))

    def connection(self, key):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return {"host": self.options.base_url, "headers": headers, "timeout": 60}

    def error(self, status, call):
        error = raised(ollama.ResponseError, call)
        expect(error.status_code == status, f"status {error.status_code}, not {status}")
        expect(error.error, "no sentence")
        return error.error

    def check_embed(self):
        answer = self.client.embed(model=self.model, input=TEXTS)
        expect(answer.model == self.model, f"model is {answer.model!r}")
        expect(len(answer.embeddings) == len(TEXTS), f"{len(answer.embeddings)} vectors")
        for vector in answer.embeddings:
            expect_unit(vector)
        expect(answer.prompt_eval_count > len(TEXTS), f"{answer.prompt_eval_count} tokens")
        expect(answer.total_duration > 0, f"total_duration is {answer.total_duration}")
        expect(answer.load_duration is not None, "no load_duration")
        one = self.client.embed(model=self.model, input=TEXTS[1])
        expect_same(one.embeddings[0], answer.embeddings[1], "alone and in a list")

    def check_names_with_a_tag(self):
        for name in [self.model, f"{self.model}:latest"]:
            expect(self.client.embed(model=name, input="a").model == name, f"{name!r} is renamed")

    def check_options_and_keep_alive(self):
        plain = self.client.embed(model=self.model, input=TEXTS[0]).embeddings[0]
        for keep_alive in [0, -1, 300, "5m", "1h30m"]:
            answer = self.client.embed(
                model=self.model,
                input=TEXTS[0],
                truncate=True,
                keep_alive=keep_alive,
                options={"num_ctx": 2048, "temperature": 0},
            )
            expect_same(answer.embeddings[0], plain, f"keep_alive {keep_alive!r}")
        embed = self.client.embed
        sentence = self.error(400, lambda: embed(model=self.model, input="a", keep_alive="soon"))
        expect("keep_alive" in sentence, f"the sentence is {sentence!r}")

    def check_nothing_to_embed(self):
        for nothing in ["", []]:
            answer = self.client.embed(model=self.model, input=nothing)
            expect(list(answer.embeddings) == [], f"{nothing!r} gave {answer.embeddings!r}")

    def check_truncation(self):
        long = "rain on the river " * 3000
        expect_unit(self.client.embed(model=self.model, input=long).embeddings[0])
        refuse = lambda: self.client.embed(model=self.model, input=long, truncate=False)
        sentence = self.error(400, refuse)
        wanted = "the input length exceeds the context length"
        expect(wanted in sentence, f"the sentence is {sentence!r}")

    def check_the_older_route(self):
        vector = self.client.embeddings(model=self.model, prompt=TEXTS[0]).embedding
        expect_same(vector, self.client.embed(model=self.model, input=TEXTS[0]).embeddings[0], "")
        nothing = self.client.embeddings(model=self.model, prompt="").embedding
        expect(list(nothing) == [], f"nothing gave {nothing!r}")

    def check_list(self):
        models = {model.model: model for model in self.client.list().models}
        wanted = {f"{self.model}:latest", f"{self.reranker}:latest"}
        expect(wanted <= set(models), f"{wanted} is not within {set(models)}")
        for model in models.values():
            expect(isinstance(model.modified_at, datetime.datetime), "no date")
            expect(model.size > 0 and len(model.digest) == 64, f"{model!r}")
            expect(model.details.format == "onnx" and model.details.family, f"{model.details!r}")

    def check_ps(self):
        for model in self.client.ps().models:
            now = datetime.datetime.now(datetime.timezone.utc)
            expect(model.expires_at > now, f"expired at {model.expires_at}")
            expect(model.context_length > 0, f"context_length is {model.context_length}")

    def check_show(self):
        shown = self.client.show(f"{self.model}:latest")
        expect(shown.capabilities == ["embedding"], f"capabilities are {shown.capabilities}")
        family = shown.modelinfo["general.architecture"]
        length = shown.modelinfo[f"{family}.embedding_length"]
        vector = self.client.embed(model=self.model, input="a").embeddings[0]
        expect(length == len(vector), f"embedding_length is {length}")
        expect(shown.modelinfo[f"{family}.context_length"] > 0, f"{shown.modelinfo!r}")

    def check_pull(self):
        expect(self.client.pull(self.model).status == "success", "no success")
        steps = [step.status for step in self.client.pull(self.model, stream=True)]
        expect(steps == ["success"], f"the steps are {steps}")

    def check_errors(self):
        for call in [
            lambda: self.client.embed(model="none", input="a"),
            lambda: self.client.embeddings(model="none", prompt="a"),
            lambda: self.client.show("none"),
            lambda: self.client.pull("none"),
        ]:
            sentence = self.error(404, call)
            expect(sentence.startswith("model 'none' not found"), f"{sentence!r}")
        sentence = self.error(400, lambda: self.client.embed(model=self.reranker, input="a"))
        expect("cannot embed" in sentence, f"the sentence is {sentence!r}")

    def check_authentication(self):
        wrong = ollama.Client(**self.connection("wrong"))
        if self.options.api_key:
            self.error(401, wrong.list)
        else:
            expect(wrong.list().models, "refused some key, although the server needs none")

    def check_async(self):
        async def run():
            client = ollama.AsyncClient(**self.connection(self.options.api_key))
            calls = [client.embed(model=self.model, input=text) for text in TEXTS[:2]]
            return await asyncio.gather(*calls)

        expected = self.client.embed(model=self.model, input=TEXTS[:2]).embeddings
        for answer, vector in zip(asyncio.run(run()), expected, strict=True):
            expect_same(answer.embeddings[0], vector, "async and not")


if __name__ == "__main__":
    main(Checks, __doc__, f"ollama {importlib.metadata.version('ollama')}")
