"""Makes the tiny checkpoints of `tests/golden/checkpoints` and their reference vectors.

    python -m venv .venv && .venv/bin/pip install -r tests/golden/requirements.txt
    .venv/bin/python tests/golden/make_checkpoints.py

The weights are random but seeded, and large enough that different texts get clearly different
vectors. Files are written by transformers and sentence-transformers themselves; where a
checkpoint shall have the layout of an older release, only the JSON files are rewritten.

Made with Python 3.11, torch 2.15.0, transformers 5.23.0, sentence-transformers 6.2.0.
"""

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import sentence_transformers
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    BertConfig, BertForMaskedLM, BertModel, RobertaConfig, RobertaForMaskedLM, RobertaModel,
    XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel,
)

from reference import Reference, be_deterministic, digits, pool, write_json
from tiny_texts import FAIRSEQ_TEXTS, SHORT, TEXTS, long_text
from tiny_tokenizers import SAVE_TOKENIZER

# Of each `model_type`: configuration, bare model, masked language model.
CLASSES = {
    "bert": (BertConfig, BertModel, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaModel, RobertaForMaskedLM),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, XLMRobertaForMaskedLM),
}

# Boolean fields of 1_Pooling/config.json in older releases; 2021 knew the first four.
POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass
class Case:
    """One checkpoint. `layout` is `2021`, `2024`, `2026` or `pooling-only`; README.md has them.

    `vocabulary` is a kind for BERT, else the number of pieces to train.
    """

    name: str
    seed: int
    pooling: str
    layout: str
    config: dict
    normalize: bool = False
    vocabulary: str = "uncased"
    dtype: torch.dtype = torch.float32
    max_seq_length: int = 512
    shards: int = 1
    masked_lm: bool = False
    torch_save: bool = False
    model_type: str = "bert"


def tiny(hidden, heads, layers, intermediate, **more):
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**sizes, "intermediate_size": intermediate, **no_dropout, **more}


CASES = [
    Case("bert-tiny-mean", 58, "mean", "2021", tiny(32, 4, 3, 64), normalize=True),
    Case(
        "bert-tiny-cls-h64", 10, "cls", "2024",
        tiny(128, 2, 2, 32, hidden_act="gelu_new", layer_norm_eps=1e-5, max_position_embeddings=96),
        vocabulary="short", dtype=torch.float16, max_seq_length=96,
    ),
    Case(
        "bert-tiny-head32", 14, "max", "2024",
        tiny(64, 2, 2, 64, max_position_embeddings=300),
        dtype=torch.float16, max_seq_length=256,
    ),
    Case(
        "bert-tiny-bf16-sharded", 25, "mean_sqrt_len_tokens", "2024",
        tiny(32, 4, 2, 96), dtype=torch.bfloat16, shards=2,
    ),
    Case(
        "bert-tiny-prefixed", 60, "lasttoken", "pooling-only",
        tiny(32, 2, 2, 64, hidden_act="relu"), vocabulary="cased", masked_lm=True,
    ),
    Case(
        "bert-tiny-weightedmean", 20, "weightedmean", "2026",
        tiny(32, 4, 2, 64), normalize=True, max_seq_length=200,
    ),
    Case(
        "xlmr-tiny-cls", 10, "cls", "2026",
        tiny(64, 2, 2, 64, layer_norm_eps=1e-5, max_position_embeddings=98, type_vocab_size=1),
        normalize=True, vocabulary="500", dtype=torch.float16, max_seq_length=96,
        model_type="xlm-roberta",
    ),
    Case(
        "roberta-tiny-mean", 13, "mean", "pooling-only",
        tiny(32, 2, 2, 64, layer_norm_eps=1e-5, max_position_embeddings=130, type_vocab_size=1),
        vocabulary="400", max_seq_length=128, masked_lm=True, torch_save=True, model_type="roberta",
    ),
]


def randomise(model, seed):
    """Random values for every parameter: also biases and LayerNorms, which start as 0 and 1.

    What all texts have in common (positions, token types, biases) is kept smaller than what
    differs, or every vector would point the same way and a wrong one would look right. The seeds
    in CASES were chosen for the same reason: cosines between two texts of a case are below 0.94.
    Embeddings are small, as in trained models, so that a wrong `layer_norm_eps` shows.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {"word_embeddings": 0.05, "position_embeddings": 0.025, "token_type_embeddings": 0.01}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            scale = next((scales[key] for key in scales if key in name), None)
            if scale is not None:
                parameter.copy_(scale * noise)
            elif name.endswith(("LayerNorm.weight", "layer_norm.weight")):
                parameter.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "self.query" in name or "self.key" in name:
                parameter.copy_(2.0 / math.sqrt(parameter.shape[1]) * noise)
            else:
                parameter.copy_(1.8 / math.sqrt(parameter.shape[1]) * noise)


def save_weights(case, folder, vocab_size):
    config_class, model_class, masked_lm_class = CLASSES[case.model_type]
    config = config_class(vocab_size=vocab_size, **case.config)
    if case.masked_lm:
        model = masked_lm_class(config)
    else:
        # No pooling here uses the pooler, and files of 2024 lack it. Loading such a file adds a
        # pooler of unseeded numbers, which for 2026 sentence-transformers would save again.
        model = model_class(config, add_pooling_layer=case.layout != "2024")
    randomise(model, case.seed)
    model = model.to(case.dtype)
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    shard = math.ceil(1.25 * total / case.shards) if case.shards > 1 else 2 * total
    model.save_pretrained(folder, max_shard_size=shard)
    if case.torch_save:
        # As transformers did before safetensors, and as BGE-M3 still is.
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if case.layout in ("2021", "2024"):
        # Before transformers 5 the field was called torch_dtype.
        written = json.loads((folder / "config.json").read_text())
        old = {("torch_dtype" if key == "dtype" else key): written[key] for key in written}
        write_json(folder / "config.json", old)


def save_pooling(case, folder):
    """The files of sentence-transformers: today's written by itself, older ones by us."""
    if case.layout == "2026":
        modules = [Transformer(str(folder)), Pooling(case.config["hidden_size"], case.pooling)]
        modules += [Normalize()] if case.normalize else []
        model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
        model.save_pretrained(str(folder), create_model_card=False)
        return
    names = list(POOLING_FLAGS)[:4] if case.layout == "2021" else list(POOLING_FLAGS)
    pooling = {"word_embedding_dimension": case.config["hidden_size"]}
    pooling |= {POOLING_FLAGS[name]: name == case.pooling for name in names}
    if case.layout != "2021":
        pooling["include_prompt"] = True
    write_json(folder / "1_Pooling/config.json", pooling)
    if case.layout == "pooling-only":
        return
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    steps += [("2_Normalize", "Normalize")] if case.normalize else []
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{type}"}
        for idx, (path, type) in enumerate(steps)
    ]
    write_json(folder / "modules.json", modules)
    bert_config = {"max_seq_length": case.max_seq_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", bert_config)
    version = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(folder / "config_sentence_transformers.json", {"__version__": version})


def texts(case):
    """What is embedded, but for the text that is cut."""
    return [*TEXTS, SHORT] + ([] if case.model_type == "bert" else FAIRSEQ_TEXTS)


def save_golden(case, folder):
    reference = Reference(folder, case.max_seq_length)
    cases = []
    for text in [*texts(case), long_text()]:
        input_ids, hidden = reference.forward(text)
        pooled = pool(hidden, case.pooling)
        normalized = torch.nn.functional.normalize(pooled, dim=0)
        row = {"text": text, "n_tokens": len(input_ids), "input_ids": input_ids}
        cases.append({**row, "pooled": digits(pooled), "normalized": digits(normalized)})
    input_ids, hidden = reference.forward(SHORT)
    row = {"text": SHORT, "input_ids": input_ids, "shape": list(hidden.shape)}
    architecture = "bert" if case.model_type == "bert" else "xlm-roberta"
    golden = {
        "model": case.name, "architecture": architecture, "pooling": case.pooling,
        "normalize_module": case.normalize, "dimension": case.config["hidden_size"],
        "max_seq_length": case.max_seq_length, "computed_in": "float32",
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "last_hidden_state": {**row, "values": digits(hidden)}, "cases": cases,
    }
    write_json(folder / "golden.json", golden, separators=(",", ":"))


def make(case, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_weights(case, folder, SAVE_TOKENIZER[case.model_type](case, folder))
    save_pooling(case, folder)
    save_golden(case, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in files)
    print(f"{case.name}: {size / 1000:.0f} kB in {len(files)} files")


def main():
    here = Path(__file__).parent / "checkpoints"
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--out", type=Path, default=here, help="folder to write into")
    parser.add_argument("--only", help="make only the checkpoint of this name")
    arguments = parser.parse_args()
    be_deterministic(threads=1)
    for case in CASES:
        if arguments.only in (None, case.name):
            make(case, arguments.out / case.name)


if __name__ == "__main__":
    main()
