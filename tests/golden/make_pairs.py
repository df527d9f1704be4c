"""Makes `tests/golden/pairs`: a query and a document in one input, and a prompt before a text, as
transformers tokenizes them.

    .venv/bin/python tests/golden/make_pairs.py [FOLDER_OF_TOKENIZERS]

The folder has published tokenizers, one in each folder of its own, whose files are not ours to pass
on; without it only the tiny ones are made again. Texts are ours, ids are what comes out.

- `pairs`: `truncation="only_second"`, cut at either side.
- `prompts`: glued before the text; `prompt_tokens` as sentence-transformers counts them.
- `qwen3`: the template of Qwen3-Reranker's model card; the middle is cut, the ends are not.
- `bge`: what FlagEmbedding gives its decoder rerankers; `max_length` in its sense.
"""

import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from reference import write_json

HERE = Path(__file__).parent
TINY = ["bert-tiny-mean", "bert-tiny-prefixed", "roberta-tiny-mean", "xlmr-tiny-cls"]
PUBLISHED = ["bert-base-uncased", "bert-base-chinese", "roberta-base", "xlm-roberta", "qwen2.5"]
LONG = "The harbour's lights, 3 of 12, were out; nobody saw the bridge in the morning rain. "
PAIRS = [
    ("what is a river?", "A river is water on its way to the sea."),
    ("北京有山吗？", "我们在北京看山和水，天下大雨。山是大的。"),
    ("Где поезд", "Дождь идёт над городом, а поезд стоит у реки"),
    ("", "an empty query"),
    ("an empty document", ""),
    ("the old bridge, who saw it?", LONG * 6),
    ("  spaces around \n", "\tand  within  "),
]
LIMITS = [None, 48, 20]
PROMPTS = ["query: ", "Instruct: Find the passage\nQuery:", "为这个句子生成表示：", ""]
INSTRUCTIONS = ["Given a web search query, retrieve relevant passages that answer the query", "找"]
QWEN3_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN3_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
BGE_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)


def pair(tokenizer, query, document, **cut):
    """In a batch of one, because an empty document outside of a batch is no document."""
    batch = tokenizer([query], [document], return_token_type_ids=True, **cut)
    return {key: batch[key][0] for key in ["input_ids", "token_type_ids"]}


def pairs(tokenizer):
    for query, document in PAIRS:
        for limit in LIMITS:
            for side in ["right", "left"]:
                tokenizer.truncation_side = side
                whole = pair(tokenizer, query, document)
                second = len(tokenizer(document, add_special_tokens=False)["input_ids"])
                surplus = len(whole["input_ids"]) - (limit or 10**9)
                # The reference gives up on a document that would have no token left.
                if limit and (surplus <= 0 or surplus >= second) or not limit and side == "left":
                    continue
                cut = {"truncation": "only_second", "max_length": limit} if limit else {}
                yield {
                    "query": query, "document": document, "max_length": limit, "side": side,
                    **pair(tokenizer, query, document, **cut),
                }


def prompts(tokenizer):
    for prompt in PROMPTS:
        for text in [PAIRS[0][1], PAIRS[1][0], ""]:
            alone = tokenizer(prompt)["input_ids"]
            bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            ends_special = len(alone) > len(bare)
            yield {
                "prompt": prompt, "text": text, "input_ids": tokenizer(prompt + text)["input_ids"],
                "prompt_tokens": len(alone) - ends_special if prompt else 0,
            }


def qwen3(tokenizer):
    tokenizer.truncation_side = "right"
    before = tokenizer.encode(QWEN3_BEFORE, add_special_tokens=False)
    after = tokenizer.encode(QWEN3_AFTER, add_special_tokens=False)
    for instruction in INSTRUCTIONS:
        for query, document in PAIRS:
            for limit in [8192, 128]:
                body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
                room = {"truncation": True, "max_length": limit - len(before) - len(after)}
                middle = tokenizer(body, add_special_tokens=False, **room)["input_ids"]
                yield {
                    "instruction": instruction, "query": query, "document": document,
                    "max_length": limit, "input_ids": before + middle + after,
                }


def bge(tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    newline, prompt = ids("\n"), ids(BGE_PROMPT)
    for query, document in PAIRS:
        for limit in [512, 24]:
            first = [tokenizer.convert_tokens_to_ids("<s>")] + ids(f"A: {query}")[: limit * 3 // 4]
            second = newline + ids(f"B: {document}")[:limit]
            room = limit + len(newline) + len(prompt)
            both = first + second[: room - len(first)]
            yield {
                "query": query, "document": document, "max_length": limit,
                "uncounted": 2 * (len(newline) + len(prompt)),
                "input_ids": both + newline + prompt,
            }


def make(name, folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    golden = {"tokenizer": name, "pairs": list(pairs(tokenizer)), "prompts": list(prompts(tokenizer))}
    if name == "qwen2.5":
        golden["qwen3"] = list(qwen3(tokenizer))
    if name == "xlm-roberta":
        golden["bge"] = list(bge(tokenizer))
    path = HERE / "pairs" / f"{name}.json"
    write_json(path, golden, separators=(",", ":"))
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    (HERE / "pairs").mkdir(exist_ok=True)
    for name in TINY:
        make(name, HERE / "checkpoints" / name)
    for name in PUBLISHED if len(sys.argv) > 1 else []:
        make(name, Path(sys.argv[1]) / name)


if __name__ == "__main__":
    main()
