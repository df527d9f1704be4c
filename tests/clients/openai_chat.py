"""Chats with a running server through the official `openai` package, synchronously and not.

    python -m venv .venv && .venv/bin/pip install openai
    .venv/bin/python tests/clients/openai_chat.py http://127.0.0.1:9997/v1 MODEL

Prints `ok - name` or `FAILED - name: reason` per check and exits with 1 after any failure.
"""

import argparse
import asyncio
import importlib.metadata

import openai

from checks import expect, raised, run

MESSAGES = [{"role": "user", "content": "a girl went to the park"}]


class Checks:
    def __init__(self, options):
        self.options, self.model = options, options.model
        self.client = openai.OpenAI(**self.connection())

    def connection(self):
        key = self.options.api_key or "unused"
        return {"base_url": self.options.base_url, "api_key": key, "max_retries": 0}

    def ask(self, client=None, **more):
        more = {"messages": MESSAGES, "temperature": 0, "max_tokens": 24, **more}
        return (client or self.client).chat.completions.create(model=self.model, **more)

    def check_an_answer(self):
        answer = self.ask()
        expect(answer.object == "chat.completion", answer.object)
        choice = answer.choices[0]
        expect(choice.message.role == "assistant", choice.message.role)
        expect(choice.finish_reason in ("stop", "length"), choice.finish_reason)
        usage = answer.usage
        expect(usage.prompt_tokens > 0 and usage.completion_tokens > 0, f"{usage}")
        expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"{usage}")

    def check_a_stream_says_the_same(self):
        whole = self.ask().choices[0].message.content
        chunks = list(self.ask(stream=True, stream_options={"include_usage": True}))
        expect(len({chunk.id for chunk in chunks}) == 1, "more than one id")
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices]
        expect(parts[0].delta.role == "assistant", f"{parts[0]}")
        expect("".join(part.delta.content or "" for part in parts) == whole, "another text")
        ends = [part.finish_reason for part in parts if part.finish_reason]
        expect(len(ends) == 1, f"ends {ends}")
        expect(chunks[-1].usage.completion_tokens > 0, f"{chunks[-1]}")

    def check_a_seed_says_the_same(self):
        texts = {
            self.ask(temperature=1, seed=7).choices[0].message.content for _ in range(3)
        }
        expect(len(texts) == 1, f"{texts}")

    def check_several_answers(self):
        answer = self.ask(n=3, temperature=1)
        expect([choice.index for choice in answer.choices] == [0, 1, 2], f"{answer}")

    def check_log_probabilities(self):
        choice = self.ask(logprobs=True, top_logprobs=2).choices[0]
        text = "".join(token.token for token in choice.logprobs.content)
        expect(text == choice.message.content, f"{text!r}")
        expect(all(len(token.top_logprobs) == 2 for token in choice.logprobs.content), "not two")

    def check_a_stop_text(self):
        whole = self.ask().choices[0].message.content
        stop = whole[3:5]
        choice = self.ask(stop=[stop]).choices[0]
        expect(choice.message.content == whole[: whole.index(stop)], f"{choice}")
        expect(choice.finish_reason == "stop", f"{choice}")

    def check_completions(self):
        call = self.client.completions.create
        options = {"model": self.model, "prompt": "Once upon", "max_tokens": 8, "temperature": 0}
        whole = call(**options)
        expect(whole.object == "text_completion", whole.object)
        parts = list(call(**options, stream=True))
        text = "".join(part.choices[0].text for part in parts)
        expect(text == whole.choices[0].text, f"{text!r}")

    def check_errors(self):
        create = self.client.chat.completions.create
        missing = raised(
            openai.NotFoundError, lambda: create(model="none", messages=MESSAGES, stream=True)
        )
        expect(missing.code == "model_not_found", f"{missing.code}")
        wrong = raised(openai.BadRequestError, lambda: self.ask(max_tokens=0))
        expect("max_tokens" in wrong.message, wrong.message)
        long = [{"role": "user", "content": "rain " * 200_000}]
        error = raised(openai.BadRequestError, lambda: self.ask(messages=long))
        expect(error.code == "context_length_exceeded", f"{error.code}")

    def check_async(self):
        async def ask():
            client = openai.AsyncOpenAI(**self.connection())
            create = client.chat.completions.create
            options = {"model": self.model, "messages": MESSAGES, "temperature": 0}
            whole, stream = await asyncio.gather(
                create(**options, max_tokens=24), create(**options, max_tokens=24, stream=True)
            )
            parts = [part.choices[0].delta.content or "" async for part in stream]
            return whole.choices[0].message.content, "".join(parts)

        whole, streamed = asyncio.run(ask())
        expect(whole == streamed == self.ask().choices[0].message.content, f"{streamed!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_url", help="with /v1, for example http://127.0.0.1:9997/v1")
    parser.add_argument("model", help="served name of a model that generates")
    parser.add_argument("--api-key", help="the key which the server requires")
    version = f"openai {importlib.metadata.version('openai')}"
    run(Checks(parser.parse_args()), version)
