"""Pairs of a query and a document, and the golden file of what scores them."""

import torch
from transformers import AutoTokenizer

from reference import digits
from tiny_models import header, write_golden
from tiny_texts import SHORT, TEXTS, long_text

# Every query with these: a match, an empty one, other languages, one that is cut.
DOCUMENTS = [
    "the river and the mountain in the morning rain",
    "a",
    "",
    "我们在北京看山和水，天下大雨",
    "Дождь идёт над городом, а поезд стоит у реки",
]
QUERIES = ["where is the river", "rain", "", "Über den Fluß: déjà vu"]


def pairs():
    """(query, document): one query with many documents, then odd ones."""
    found = [(query, document) for query in QUERIES for document in DOCUMENTS]
    found += [(SHORT, text) for text in TEXTS[3:6] + TEXTS[10:14]]
    # Cut: the document, the query, and both in turns.
    return found + [("rain", long_text()), (long_text(), "rain"), (long_text(), long_text()),
                    (" ".join(["river"] * 20), long_text())]


def score_row(query, document, inputs, logits):
    row = {"query": query, "document": document, "n_tokens": inputs["input_ids"].shape[1],
           "input_ids": inputs["input_ids"][0].tolist()}
    if "token_type_ids" in inputs:
        row["token_type_ids"] = inputs["token_type_ids"][0].tolist()
    return {**row, "logits": digits(logits), "sigmoid": digits(torch.sigmoid(logits))}


def golden_scores(folder, architecture, max_tokens, score, **more):
    """Writes golden.json; `score` is a function of what the tokenizer gives -> [labels]."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    limit = {"truncation": "longest_first", "max_length": max_tokens}
    cases = []
    for query, document in pairs():
        # In lists, because an empty document on its own is taken for none at all.
        inputs = tokenizer([query], [document], return_tensors="pt", **limit)
        with torch.no_grad():
            logits = score(inputs)
        cases.append(score_row(query, document, inputs, logits))
    golden = header(folder.name, architecture, ["score"], max_tokens,
                    truncation="longest_first", labels=len(cases[0]["logits"]), **more)
    write_golden(folder, {**golden, "cases": cases})
    show(cases)
    return cases


def show(cases):
    """Scores that hardly differ could not tell a mistake."""
    logits = torch.tensor([case["logits"] for case in cases])
    spread = logits.std(dim=0).tolist()
    print(f"  logits from {logits.min():.2f} to {logits.max():.2f}, deviations {spread}")
