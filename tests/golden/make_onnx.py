"""Makes `tests/golden/onnx`: bert-tiny-mean as two kinds of given .onnx file, in model folders.

    .venv/bin/python tests/golden/make_onnx.py      (after make_checkpoints.py)

`bert-tiny-hidden` has the token vectors as output, as optimum writes feature extraction;
`bert-tiny-pooled` also has the finished sentence vector, and no token_type_ids. Both are exported
by torch (today's exporter for the first, the older TorchScript one for the second), stripped of
source locations, and then run with ONNX Runtime against the checkpoint's golden.json.

Made with Python 3.11, torch 2.15.0, transformers 5.23.0, onnx 1.23.2, onnxscript 0.7.2,
onnxruntime 1.31.1.
"""

import argparse
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
from torch.export import Dim
from transformers import BertModel

from reference import be_deterministic

TOLERANCE = 2e-5


class Hidden(torch.nn.Module):
    """-> last_hidden_state [batch, sequence, hidden]."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask, token_type_ids):
        inputs = {"input_ids": input_ids, "token_type_ids": token_type_ids}
        return self.bert(attention_mask=attention_mask, **inputs).last_hidden_state


class Pooled(torch.nn.Module):
    """-> token_embeddings [batch, sequence, hidden], sentence_embedding [batch, hidden]."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return hidden, torch.nn.functional.normalize(mean, dim=1)


@dataclass
class Export:
    """One model folder; `file` is where the graph lies in it."""

    name: str
    file: str
    module: type
    inputs: list
    outputs: list
    dynamo: bool


EXPORTS = [
    Export(
        "bert-tiny-hidden", "onnx/model.onnx", Hidden,
        ["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state"], dynamo=True,
    ),
    Export(
        "bert-tiny-pooled", "model.onnx", Pooled,
        ["input_ids", "attention_mask"], ["token_embeddings", "sentence_embedding"], dynamo=False,
    ),
]


def example(inputs):
    """Two rows of different length, so that the mask matters."""
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    values = {"input_ids": torch.arange(14).reshape(2, 7) + 5, "attention_mask": mask}
    return tuple(values.get(name, torch.zeros_like(mask)) for name in inputs)


def export(case, bert, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"input_names": case.inputs, "output_names": case.outputs}
    if case.dynamo:
        dynamic = {"dynamic_shapes": [{0: Dim("batch"), 1: Dim("sequence")} for _ in case.inputs]}
        dynamic |= {"opset_version": 18, "external_data": False}
    else:
        axes = {name: {0: "batch", 1: "sequence"} for name in case.inputs + case.outputs}
        axes["sentence_embedding"] = {0: "batch"}
        dynamic = {"dynamic_axes": axes, "opset_version": 17}
    arguments = example(case.inputs)
    module = case.module(bert).eval()
    torch.onnx.export(module, arguments, path, dynamo=case.dynamo, **names, **dynamic)
    strip(path)


def strip(path):
    """Removes source locations and intermediate shapes: half of so small a file."""
    model = onnx.load(path)
    del model.graph.value_info[:], model.metadata_props[:], model.functions[:]
    for item in [model.graph, *model.graph.node, *model.graph.initializer]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    share_constants(model.graph)
    shorten_names(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def share_constants(graph):
    """The TorchScript exporter writes one Constant node per use; equal ones become one."""
    first, same = {}, {}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        key = node.attribute[0].SerializeToString()
        if key in first:
            same[node.output[0]] = first[key]
            graph.node.remove(node)
        else:
            first[key] = node.output[0]
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def shorten_names(graph):
    """Values between nodes are named after Python module paths: a fifth of the file."""
    keep = {output.name for output in graph.output}
    produced = [name for node in graph.node for name in node.output if name not in keep]
    short = {name: f"v{index}" for index, name in enumerate(produced)}
    for node in graph.node:
        node.name = ""
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]


def check(case, path, golden):
    """Largest difference from golden.json, every text alone and all of them in padded batches."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    rows = golden["cases"]
    for batch in [*([row] for row in rows), rows[:8], rows]:
        longest = max(row["n_tokens"] for row in batch)
        ids = numpy.zeros((len(batch), longest), dtype=numpy.int64)
        mask = numpy.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : row["n_tokens"]] = row["input_ids"]
            mask[index, : row["n_tokens"]] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        outputs = session.run(case.outputs, {name: feeds[name] for name in case.inputs})
        mean = (outputs[0] * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
        expected = numpy.array([row["pooled"] for row in batch])
        worst = max(worst, abs(mean - expected).max())
        if len(outputs) == 2:
            expected = numpy.array([row["normalized"] for row in batch])
            worst = max(worst, abs(outputs[1] - expected).max())
    if worst > TOLERANCE:
        raise SystemExit(f"error: {case.name} differs from golden.json by {worst:.1e}")
    return worst


def main():
    here = Path(__file__).parent
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoints/bert-tiny-mean")
    parser.add_argument("--out", type=Path, default=here / "onnx", help="folder to write into")
    arguments = parser.parse_args()
    be_deterministic(threads=1)
    warnings.simplefilter("ignore")
    options = {"dtype": torch.float32, "attn_implementation": "eager", "add_pooling_layer": False}
    bert = BertModel.from_pretrained(arguments.checkpoint, **options).eval()
    golden = json.loads((arguments.checkpoint / "golden.json").read_text(encoding="utf-8"))
    for case in EXPORTS:
        folder = arguments.out / case.name
        shutil.rmtree(folder, ignore_errors=True)
        beside = shutil.ignore_patterns("*.safetensors", "golden.json")
        shutil.copytree(arguments.checkpoint, folder, ignore=beside)
        export(case, bert, folder / case.file)
        worst = check(case, folder / case.file, golden)
        size = (folder / case.file).stat().st_size
        print(f"{case.name}: {size / 1000:.0f} kB, differs from golden.json by {worst:.1e}")


if __name__ == "__main__":
    main()
