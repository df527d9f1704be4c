"""Makes `tests/golden/minilm`: texts and the vectors all-MiniLM-L6-v2 gives them in transformers.

    .venv/bin/python tests/golden/make_minilm.py FOLDER_OF_ALL_MINILM_L6_V2

The sentences in `sentences.json` were written for this project. Texts are drawn from them with a
seed and cut so that their lengths spread evenly over 3 to 256 tokens in six languages; a few odd
ones come after. Vectors: float32, eager attention, one text at a time, at most 256 tokens, mean
over the tokens, L2-normalised.

Made with Python 3.11, torch 2.15.0, transformers 5.23.0.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path

import numpy
import torch
import transformers

from reference import Reference, be_deterministic, pool

MAX_SEQ_LENGTH = 256
TEXTS_PER_LANGUAGE = 36
SHORTEST = 3
SEED = 20260801

ODD_TEXTS = [
    "",
    " ",
    "\n\t \r\n",
    "?!... --- (((,;:)))",
    "\U0001f600\U0001f389 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "x" * 100,
    "x" * 101,
    "The word 水 means water, вода also, ماء too; el agua, das Wasser.",
    "one\u0000two\u0007three\u001bfour\ufeff five\u00adsix\ufffd",
    "\u0065\u0301 is \u00e9; \ufb01 is a ligature, \u2460 a circled one, \uff21 is wide",
    "[CLS] hello [SEP] [MASK] [PAD] [UNK]",
    "https://example.org/a/b?c=d&e=f#g user.name+tag@example.com C:\\temp\\file.txt",
    "x = {\"a\": [1, 2.5e-3, null]}; // 0xFF && !true",
    "10.000,00 € = 10,000.00 EUR ≈ ¥1.234.567 (50 %)",
    "हिन्दी ภาษาไทย 한국어 にほんご カタカナ עברית ქართული",
    "THE SHOUTING TITLE IN CAPITALS",
    "a",
]


def text_of_length(reference, sentences, target, draw):
    """Joins drawn sentences and cuts after the token that brings the text to `target` tokens."""
    joined = ""
    while count(reference, joined) < target + 8:
        joined += (" " if joined else "") + draw.choice(sentences)
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "truncation": False}
    ends = [end for _, end in reference.tokenizer(joined, **options)["offset_mapping"]]
    # Cutting inside a word can change how its beginning is tokenised; then a neighbour fits.
    for cut in range(target - 2, target + 6):
        text = joined[: ends[cut - 1]]
        if count(reference, text) == target:
            return text
    return joined[: ends[target - 3]]


def count(reference, text):
    return len(reference.tokenizer(text, truncation=False)["input_ids"])


def make_texts(reference, sentences):
    """-> [{language, text}], the lengths of one language falling between those of the others."""
    draw = random.Random(SEED)
    rows = []
    total = TEXTS_PER_LANGUAGE * len(sentences)
    for index in range(total):
        language = list(sentences)[index % len(sentences)]
        target = SHORTEST + round(index * (MAX_SEQ_LENGTH - SHORTEST) / (total - 1))
        text = text_of_length(reference, sentences[language], target, draw)
        rows.append({"language": language, "text": text})
    rows += [{"language": "odd", "text": text} for text in ODD_TEXTS]
    for language, lines in sentences.items():
        rows.append({"language": language, "text": " ".join(lines)})
    return rows


def embed(reference, text):
    input_ids, hidden = reference.forward(text)
    return len(input_ids), torch.nn.functional.normalize(pool(hidden, "mean"), dim=0)


def padded_noise(reference, rows, vectors, batch):
    """Largest difference between a text alone and the same text in a padded batch."""
    worst = 0.0
    for start in range(0, len(rows), batch):
        texts = [row["text"] for row in rows[start : start + batch]]
        hidden, mask = reference.forward_padded(texts)
        mask = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        difference = torch.nn.functional.normalize(mean, dim=1) - vectors[start : start + batch]
        worst = max(worst, difference.abs().max().item())
    return worst


def write_texts(path, metadata, rows):
    """One JSON document with one text per line, so that a change is easy to review."""
    dump = partial(json.dumps, ensure_ascii=False)
    fields = "".join(f"{dump(key)}: {dump(value)},\n" for key, value in metadata.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(dump(row) for row in rows)
    path.write_text(f'{{\n{fields}"texts": [\n{lines}\n]\n}}\n', encoding="utf-8")


def main():
    here = Path(__file__).parent
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("model", type=Path, help="folder of sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, default=here / "minilm", help="folder to write into")
    arguments = parser.parse_args()
    be_deterministic(threads=2)
    reference = Reference(arguments.model, MAX_SEQ_LENGTH)
    sentences = json.loads((here / "sentences.json").read_text(encoding="utf-8"))
    rows = make_texts(reference, sentences)
    vectors = []
    for row in rows:
        row["n_tokens"], vector = embed(reference, row["text"])
        vectors.append(vector)
    vectors = torch.stack(vectors)  # [texts, 384]
    order = random.Random(SEED).sample(range(len(rows)), len(rows))
    shuffled = [rows[index] for index in order]
    metadata = {
        "model": "sentence-transformers/all-MiniLM-L6-v2", "max_seq_length": MAX_SEQ_LENGTH,
        "pooling": "mean", "normalized": True, "computed_in": "float32",
        "embeddings": "embeddings.f32, little-endian float32", "shape": list(vectors.shape),
        "padded_batch_max_abs_difference": padded_noise(reference, shuffled, vectors[order], 32),
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_texts(arguments.out / "texts.json", metadata, rows)
    bytes = vectors.numpy().astype(numpy.dtype("<f4")).tobytes()
    (arguments.out / "embeddings.f32").write_bytes(bytes)
    print(f"{len(rows)} texts, noise {metadata['padded_batch_max_abs_difference']:.1e}")


if __name__ == "__main__":
    main()
