"""Makes the checkpoints that the peers are compared on: `models.py FOLDER MINILM_DIR NAME...`

Every name gets a folder with a checkpoint (safetensors, tokenizer), and for the peers that run ONNX a
`model.onnx` in the layout that optimum writes, with its dynamically quantized int8 form. Weights other
than MiniLM's are random: speed does not depend on them, and published ones cannot be redistributed.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import transformers

# name: (layers, hidden, heads, intermediate); the shapes of BERT-base, BERT-large and
# ms-marco-MiniLM-L-6-v2.
RANDOM = {
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "cross-encoder": (6, 384, 12, 1536),
}
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


class Exported(torch.nn.Module):
    """The one output that optimum's export of such a model has."""

    def __init__(self, model, output):
        super().__init__()
        self.model, self.output = model, output

    def forward(self, input_ids, attention_mask, token_type_ids):
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return getattr(result, self.output)


def random_checkpoint(folder: Path, name: str, minilm: Path) -> None:
    layers, hidden, heads, intermediate = RANDOM[name]
    config = transformers.BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=512,
        num_labels=1,
    )
    torch.manual_seed(0)
    kind = transformers.BertForSequenceClassification if name == "cross-encoder" else transformers.BertModel
    kind(config).eval().save_pretrained(folder)
    for file in TOKENIZER_FILES:
        if (minilm / file).exists():
            shutil.copy(minilm / file, folder / file)
    # sentence-transformers wants to be told how token vectors become one.
    if name != "cross-encoder":
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True})
        )
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        (folder / "2_Normalize").mkdir(exist_ok=True)
        (folder / "modules.json").write_text(
            json.dumps(
                [
                    {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
                    for at, (path, kind) in enumerate(modules)
                ]
            )
        )
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))


def export(folder: Path, name: str) -> None:
    cross = name == "cross-encoder"
    kind = transformers.AutoModelForSequenceClassification if cross else transformers.AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.ones((2, 16), dtype=torch.int64)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    output = "logits" if cross else "last_hidden_state"
    axes = {0: "batch_size", 1: "sequence_length"}
    torch.onnx.export(
        Exported(model, output),
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        str(folder / "model.onnx"),
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes={each: axes for each in inputs} | {output: {0: "batch_size"} if cross else axes},
        opset_version=17,
        dynamo=False,
    )
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(folder / "model.onnx"),
        str(folder / "model_quantized.onnx"),
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def main() -> None:
    target, minilm = Path(sys.argv[1]), Path(sys.argv[2])
    for name in sys.argv[3:]:
        folder = target / name
        if (folder / "complete").exists():
            continue
        print(f"making {name}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        if name == "minilm":
            # Links would not do: some peers refuse files that lead out of their folder.
            shutil.copytree(minilm, folder)
        else:
            folder.mkdir(parents=True)
            random_checkpoint(folder, name, minilm)
        export(folder, name)
        (folder / "complete").touch()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
