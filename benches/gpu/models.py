"""Makes what the GPU is measured with: checkpoints of real shapes with random weights, a tokenizer
that knows numbered words, and a natural mix of lengths. Needs PyTorch and safetensors only.

    python models.py --out DIR [--size full|tiny] [--onnx]
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {
    "full": {"layers": 24, "hidden": 1024, "heads": 16, "vocabulary": 250_002, "positions": 8194},
    "tiny": {"layers": 2, "hidden": 64, "heads": 4, "vocabulary": 1_000, "positions": 514},
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def tensors(size, prefix, device):
    """All weights of an XLM-RoBERTa, named as transformers names them."""
    hidden, inner = size["hidden"], 4 * size["hidden"]
    weights = {}

    def normal(*shape):
        return (torch.randn(*shape, device=device) * 0.02).half().cpu()

    def linear(name, rows, columns):
        weights[f"{name}.weight"] = normal(rows, columns)
        weights[f"{name}.bias"] = normal(rows)

    def norm(name):
        weights[f"{name}.weight"] = torch.ones(hidden).half()
        weights[f"{name}.bias"] = torch.zeros(hidden).half()

    embeddings = f"{prefix}embeddings"
    weights[f"{embeddings}.word_embeddings.weight"] = normal(size["vocabulary"], hidden)
    weights[f"{embeddings}.position_embeddings.weight"] = normal(size["positions"], hidden)
    weights[f"{embeddings}.token_type_embeddings.weight"] = normal(1, hidden)
    norm(f"{embeddings}.LayerNorm")
    for layer in range(size["layers"]):
        part = f"{prefix}encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            linear(f"{part}.attention.self.{name}", hidden, hidden)
        linear(f"{part}.attention.output.dense", hidden, hidden)
        norm(f"{part}.attention.output.LayerNorm")
        linear(f"{part}.intermediate.dense", inner, hidden)
        linear(f"{part}.output.dense", hidden, inner)
        norm(f"{part}.output.LayerNorm")
    return weights, normal, linear


def config(size, architecture, labels):
    values = {
        "architectures": [architecture], "model_type": "xlm-roberta", "hidden_act": "gelu",
        "hidden_size": size["hidden"], "intermediate_size": 4 * size["hidden"],
        "num_hidden_layers": size["layers"], "num_attention_heads": size["heads"],
        "vocab_size": size["vocabulary"], "type_vocab_size": 1, "layer_norm_eps": 1e-5,
        "max_position_embeddings": size["positions"], "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2, "torch_dtype": "float16", "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }
    if labels:
        values["id2label"] = {"0": "LABEL_0"}
        values["label2id"] = {"LABEL_0": 0}
    return values


def tokenizer(vocabulary):
    words = SPECIAL + [f"w{number}" for number in range(vocabulary - len(SPECIAL))]
    special = [{"id": number, "content": word, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True}
               for number, word in enumerate(SPECIAL)]
    first, last = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    one, two = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, one, last],
            "pair": [first, one, last, last, two, last],
            "special_tokens": {word: {"id": word, "ids": [SPECIAL.index(word)], "tokens": [word]}
                               for word in ("<s>", "</s>")},
        },
        "model": {"type": "WordLevel", "unk_token": "<unk>",
                  "vocab": {word: number for number, word in enumerate(words)}},
    }


def write(folder, size, device, reranker):
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "roberta." if reranker else ""
    weights, normal, linear = tensors(size, prefix, device)
    if reranker:
        linear("classifier.dense", size["hidden"], size["hidden"])
        linear("classifier.out_proj", 1, size["hidden"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    architecture = "XLMRobertaForSequenceClassification" if reranker else "XLMRobertaModel"
    put(folder / "config.json", config(size, architecture, reranker))
    put(folder / "tokenizer.json", tokenizer(size["vocabulary"]))
    put(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": size["positions"] - 2,
        "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>",
        "unk_token": "<unk>", "pad_token": "<pad>"})
    if not reranker:
        put(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
        for head, width in (("sparse_linear", 1), ("colbert_linear", size["hidden"])):
            save_file({"weight": normal(width, size["hidden"]), "bias": normal(width)},
                      folder / f"{head}.safetensors")


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def mix(longest):
    """Lengths as people send them: most below two hundred tokens, a few very long."""
    dice = random.Random(7)
    lengths = [int(math.exp(dice.gauss(math.log(120), 1.0))) for _ in range(400)]
    return [min(max(length, 8), longest) for length in lengths]


def export(folder, target, device):
    """The padded graph that others would run, as PyTorch exports it."""
    import warnings

    from transformers import XLMRobertaModel

    warnings.filterwarnings("ignore")
    model = XLMRobertaModel.from_pretrained(
        folder, dtype=torch.float16, attn_implementation="eager", add_pooling_layer=False)
    model = model.to(device).eval()
    target.mkdir(parents=True, exist_ok=True)
    ids = torch.full((2, 16), 5, dtype=torch.long, device=device)

    class Padded(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)[0]

    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Padded(model), (ids, torch.ones_like(ids)), str(target / "model.onnx"), dynamo=False,
        input_names=["input_ids", "attention_mask"], output_names=["last_hidden_state"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "last_hidden_state": axes})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"):
        put(target / name, json.loads((folder / name).read_text()))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--size", choices=SIZES, default="full")
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--onnx", action="store_true", help="only the exported graph")
    options = arguments.parse_args()
    size = SIZES[options.size]
    torch.manual_seed(7)
    if options.onnx:
        export(options.out / "m3", options.out / "m3-onnx", options.device)
        return
    write(options.out / "m3", size, options.device, reranker=False)
    write(options.out / "rr", size, options.device, reranker=True)
    put(options.out / "mix.json", mix(size["positions"] - 2))
    made = sum(file.stat().st_size for file in options.out.rglob("*.safetensors"))
    print(json.dumps({"rows": [{"name": "weights that were made", "value": made / 1e9, "unit": "GB"}]}))


if __name__ == "__main__":
    main()
