"""Makes the tiny static embeddings of `tests/golden/static` and their reference vectors.

    .venv/bin/python tests/golden/make_static.py

The vectors are random but seeded. Files are written by model2vec and by sentence-transformers
themselves; the reference is model2vec computing in float32 with what it reads back from them.

Made with Python 3.11, model2vec 0.10.0, sentence-transformers 6.2.0, numpy 2.4.6.
"""

import argparse
import json
import shutil
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from model2vec.persistence import save_pretrained
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from reference import digits, write_json
from tiny_texts import TEXTS, WORDS, vocabulary

# Nothing in these is in a vocabulary; of the last, one word is.
UNKNOWN = ["漢字", "☃ ☃", "漢 hello 字"]


@dataclass
class Case:
    """One checkpoint. `rows` is how many vectors all tokens share; 0 gives each its own."""

    name: str
    seed: int
    dtype: str
    dimensions: int
    tokenizer: str = "wordpiece"
    rows: int = 0
    max_length: int | None = None


CASES = [
    Case("f32", seed=31, dtype="float32", dimensions=24, max_length=12),
    Case("f16-unigram", seed=32, dtype="float16", dimensions=16, tokenizer="unigram"),
    Case("int8", seed=33, dtype="int8", dimensions=32),
    Case("int8-shared", seed=34, dtype="int8", dimensions=20, rows=40),
]


def wordpiece():
    pieces = {piece: id for id, piece in enumerate(vocabulary("short"))}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    # Left from the vocabulary that was distilled: two special tokens with ids of that time.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    return tokenizer


def unigram():
    """Made by hand, because training one gives other pieces every time."""
    pieces = ["<pad>", "<unk>", "▁"] + list(string.ascii_lowercase) + [f"▁{word}" for word in WORDS]
    scores = [(piece, -0.01 * id) for id, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "<unk>"])
    return tokenizer


TOKENIZERS = {"wordpiece": wordpiece, "unigram": unigram}


def numbers(generator, shape, dtype):
    values = generator.standard_normal(shape)
    if dtype == "int8":
        return np.clip(np.rint(values * 40), -127, 127).astype(np.int8)
    return values.astype(dtype)


def make(case, folder):
    generator = np.random.default_rng(case.seed)
    tokenizer = TOKENIZERS[case.tokenizer]()
    tokens = tokenizer.get_vocab_size()
    shared = {}
    if case.rows:
        shared["mapping"] = generator.integers(0, case.rows, tokens).astype(np.int32)
        shared["weights"] = generator.uniform(0.1, 3.0, tokens).astype(np.float32)
    config = {
        "model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": case.dimensions,
        "seq_length": 1_000_000, "normalize": True, "max_length": case.max_length,
    }
    vectors = numbers(generator, (case.rows or tokens, case.dimensions), case.dtype)
    save_pretrained(folder, vectors, tokenizer, config, create_model_card=False, **shared)

    saved = StaticModel.from_pretrained(folder)
    model = StaticModel(
        saved.embedding.astype(np.float32), saved.tokenizer, weights=saved.weights,
        token_mapping=saved.token_mapping, max_length=case.max_length,
    )
    cases = []
    for text in TEXTS + UNKNOWN:
        ids = model.tokenize([text])[0]
        # `encode` is not asked, because it first cuts by characters.
        pooled = digits(model._encode_helper(ids).mean(axis=0)) if ids else None
        cases.append({"text": text, "input_ids": ids, "pooled": pooled})
        if case.max_length is None and ids:
            assert np.allclose(model.encode([text])[0], pooled, rtol=1e-4, atol=1e-4), text
    return cases


def make_nested(folder):
    """As sentence-transformers saves what it trained: no config.json, unknown tokens count."""
    tokenizer = wordpiece()
    vectors = numbers(np.random.default_rng(35), (tokenizer.get_vocab_size(), 12), "float32")
    SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu"
    ).save_pretrained(str(folder), create_model_card=False)
    nested = folder / "0_StaticEmbedding"
    if not nested.exists():
        # Releases up to 4 put the module into a folder, as those on the hub are.
        nested.mkdir()
        for name in ["model.safetensors", "tokenizer.json"]:
            (folder / name).rename(nested / name)
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        modules[0]["path"] = nested.name
        write_json(folder / "modules.json", modules)
    model = SentenceTransformer(str(folder), device="cpu")
    cases = []
    for text in TEXTS + UNKNOWN:
        ids = model[0].preprocess([text])["input_ids"].tolist()
        pooled = digits(model.encode(text)) if ids else None
        cases.append({"text": text, "input_ids": ids, "pooled": pooled})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "static")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    for case in CASES:
        folder = out / case.name
        cases = make(case, folder)
        write_json(folder / "golden.json", {
            "dtype": case.dtype, "dimensions": case.dimensions, "max_tokens": case.max_length,
            "architecture": "model2vec", "cases": cases,
        })
    folder = out / "nested"
    write_json(folder / "golden.json", {
        "dtype": "float32", "dimensions": 12, "max_tokens": None,
        "architecture": "static-embedding", "cases": make_nested(folder),
    })


if __name__ == "__main__":
    main()
