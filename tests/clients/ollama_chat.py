"""Chats with a running server through the official `ollama` package, synchronously and not.

    python -m venv .venv && .venv/bin/pip install ollama
    .venv/bin/python tests/clients/ollama_chat.py http://127.0.0.1:9997 MODEL

Prints `ok - name` or `FAILED - name: reason` per check and exits with 1 after any failure.
"""

import argparse
import asyncio
import importlib.metadata

import ollama

from checks import expect, raised, run

MESSAGES = [{"role": "user", "content": "a girl went to the park"}]
OPTIONS = {"temperature": 0, "num_predict": 24, "num_ctx": 2048}


class Checks:
    def __init__(self, options):
        self.options, self.model = options, options.model
        self.client = ollama.Client(**self.connection())

    def connection(self):
        key = self.options.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return {"host": self.options.base_url, "headers": headers, "timeout": 60}

    def ask(self, **more):
        return self.client.chat(model=self.model, messages=MESSAGES, options=OPTIONS, **more)

    def check_an_answer(self):
        answer = self.ask()
        expect(answer.message.role == "assistant", f"{answer}")
        expect(answer.done and answer.done_reason in ("stop", "length"), f"{answer}")
        expect(answer.prompt_eval_count > 0 and answer.eval_count > 0, f"{answer}")
        expect(answer.total_duration > 0 and answer.created_at, f"{answer}")

    def check_a_stream_says_the_same(self):
        whole = self.ask().message.content
        steps = list(self.ask(stream=True))
        expect("".join(step.message.content or "" for step in steps) == whole, "another text")
        expect([step.done for step in steps].count(True) == 1 and steps[-1].done, "no end")

    def check_generate(self):
        options = {"model": self.model, "prompt": "Once upon", "options": OPTIONS}
        whole = self.client.generate(**options)
        steps = list(self.client.generate(**options, stream=True))
        expect("".join(step.response for step in steps) == whole.response, "another text")
        raw = self.client.generate(**options, raw=True)
        expect(raw.prompt_eval_count < whole.prompt_eval_count, f"{raw.prompt_eval_count} tokens")

    def check_loading(self):
        answer = self.client.chat(model=self.model, messages=[], keep_alive="5m")
        expect(answer.done and answer.done_reason == "load", f"{answer}")
        answer = self.client.generate(model=self.model, prompt="", keep_alive="5m")
        expect(answer.done and answer.done_reason == "load", f"{answer}")

    def check_errors(self):
        for stream in [False, True]:
            call = lambda: list(self.client.chat(model="none", messages=MESSAGES, stream=stream))
            error = raised(ollama.ResponseError, call)
            expect(error.status_code == 404, f"status {error.status_code}")
            expect("model 'none' not found" in error.error, error.error)

    def check_async(self):
        async def ask():
            client = ollama.AsyncClient(**self.connection())
            options = {"model": self.model, "messages": MESSAGES, "options": OPTIONS}
            whole = await client.chat(**options)
            stream = await client.chat(**options, stream=True)
            return whole.message.content, "".join([s.message.content or "" async for s in stream])

        whole, streamed = asyncio.run(ask())
        expect(whole == streamed, f"{streamed!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_url", help="without /v1, for example http://127.0.0.1:9997")
    parser.add_argument("model", help="served name of a model that generates")
    parser.add_argument("--api-key", help="the key which the server requires")
    version = f"ollama {importlib.metadata.version('ollama')}"
    run(Checks(parser.parse_args()), version)
