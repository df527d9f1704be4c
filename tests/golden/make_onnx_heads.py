"""Exports tiny checkpoints that have other heads than one vector, into `checkpoints/<name>/onnx`.

    .venv/bin/python tests/golden/make_onnx_heads.py   (after make_heads.py and make_scores.py)

`bge-m3-tiny` twice: as its authors export it (`model.onnx`: token vectors and the finished vector
of the text, the other heads beside it), and with all heads inside (`vecs.onnx`), as others do.
`bert-tiny-score3` and `splade-tiny` as optimum writes their classes. Each file is run with ONNX
Runtime against what torch gives.
"""

from pathlib import Path

import onnxruntime
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from make_onnx import strip
from reference import be_deterministic

CHECKPOINTS = Path(__file__).parent / "checkpoints"
EAGER = {"dtype": torch.float32, "attn_implementation": "eager"}


class Logits(torch.nn.Module):
    """-> logits, whatever the class makes them of."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        inputs = {"input_ids": input_ids, "token_type_ids": token_type_ids}
        return self.model(attention_mask=attention_mask, **inputs).logits


class Vectors(torch.nn.Module):
    """-> token_embeddings [batch, sequence, hidden], sentence_embedding [batch, hidden]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden, normalize(hidden[:, 0], dim=1)


class AllHeads(torch.nn.Module):
    """-> dense_vecs [batch, hidden], sparse_vecs [batch, sequence, 1], and colbert_vecs
    [batch, sequence - 1, hidden]: the first token serves the dense vector."""

    def __init__(self, model, folder):
        super().__init__()
        self.model = model
        self.sparse, self.colbert = torch.nn.Linear(32, 1), torch.nn.Linear(32, 32)
        for name in ("sparse", "colbert"):
            state = torch.load(folder / f"{name}_linear.pt", weights_only=True)
            getattr(self, name).load_state_dict(state)

    def forward(self, input_ids, attention_mask):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        dense = normalize(hidden[:, 0], dim=1)
        colbert = normalize(self.colbert(hidden[:, 1:]), dim=-1) * mask[:, 1:]
        return dense, torch.relu(self.sparse(hidden)) * mask, colbert


def export(module, path, outputs):
    inputs = ["input_ids", "attention_mask"]
    inputs += ["token_type_ids"] if isinstance(module, Logits) else []
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    values = {"input_ids": torch.arange(14).reshape(2, 7) + 5, "attention_mask": mask}
    arguments = tuple(values.get(name, torch.zeros_like(mask)) for name in inputs)
    path.parent.mkdir(exist_ok=True)
    names = inputs + list(outputs)
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    axes |= {name: {0: "batch"} | ({1: f"{name}_tokens"} if per_token else {})
             for name, per_token in outputs.items()}
    torch.onnx.export(module.eval(), arguments, path, dynamo=False, opset_version=17,
                      input_names=inputs, output_names=list(outputs), dynamic_axes=axes)
    assert len(set(names)) == len(names)
    strip(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Another shape than the exporter saw.
    values = {"input_ids": torch.arange(33).reshape(3, 11) + 5}
    values |= {name: torch.full((3, 11), int(name == "attention_mask")) for name in inputs[1:]}
    found = session.run(list(outputs), {name: value.numpy() for name, value in values.items()})
    with torch.no_grad():
        expected = module(*[values[name] for name in inputs])
    expected = expected if isinstance(expected, tuple) else (expected,)
    for name, one, other in zip(outputs, found, expected):
        difference = (torch.from_numpy(one) - other).abs().max().item()
        assert one.shape == other.shape and difference < 2e-5, f"{path}: {name} {difference}"
        print(f"{path.parent.parent.name}/{path.name}: {name} {list(one.shape)} {difference:.0e}")


def main():
    be_deterministic(threads=1)
    m3 = CHECKPOINTS / "bge-m3-tiny"
    model = AutoModel.from_pretrained(m3, **EAGER)
    export(Vectors(model), m3 / "onnx/model.onnx",
           {"token_embeddings": True, "sentence_embedding": False})
    export(AllHeads(model, m3), m3 / "onnx/vecs.onnx",
           {"dense_vecs": False, "sparse_vecs": True, "colbert_vecs": True})
    score = CHECKPOINTS / "bert-tiny-score3"
    model = AutoModelForSequenceClassification.from_pretrained(score, **EAGER)
    export(Logits(model), score / "onnx/model.onnx", {"logits": False})
    splade = CHECKPOINTS / "splade-tiny"
    model = AutoModelForMaskedLM.from_pretrained(splade, **EAGER)
    export(Logits(model), splade / "onnx/model.onnx", {"logits": True})


if __name__ == "__main__":
    main()
