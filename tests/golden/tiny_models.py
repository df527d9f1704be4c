"""What the makers of the tiny checkpoints of issue 3 share: random weights under published names,
the files of sentence-transformers in the form most published checkpoints have, golden files.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from reference import be_deterministic, digits, pool, write_json
from tiny_texts import FAIRSEQ_TEXTS, SHORT, TEXTS, long_text

# How large the numbers of an embedding table are; what all texts share is smaller.
TABLES = {"position_embeddings": 0.025, "token_type_embeddings": 0.01,
          "relative_attention_bias": 1.0}
WORDS = ("word_embeddings", "tok_embeddings", "embed_tokens")
QUERY_OR_KEY = ("query", "key", "q_lin", "k_lin", "q_proj", "k_proj", "attn.q.", "attn.k.")
FUSED = ("Wqkv", "qkv_proj")


def spread(name, shape):
    """The standard deviation of the numbers of a weight matrix; see `random_tensor`."""
    for key, scale in TABLES.items():
        if key in name:
            return scale
    if any(key in name for key in WORDS):
        return 0.05
    gain = 2.0 if any(key in name for key in (*QUERY_OR_KEY, *FUSED)) else 1.8
    return gain / math.sqrt(shape[-1])


def random_tensor(name, shape, generator):
    """Random also where training starts from 0 or 1, so that nothing can be left out unseen.

    What texts have in common is kept smaller than what differs, and embeddings are small, so that
    a wrong epsilon shows; `make_checkpoints.py` says more.
    """
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.1 * noise
    if len(shape) == 1:
        return 1.0 + 0.2 * noise
    return spread(name, shape) * noise


def randomise(model, seed):
    """Random numbers for every parameter of a module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(random_tensor(name, parameter.shape, generator))
    return model.eval()


def random_tensors(shapes, seed):
    """Random numbers under published names: `shapes` is {name: shape}."""
    generator = torch.Generator().manual_seed(seed)
    return {name: random_tensor(name, shapes[name], generator) for name in sorted(shapes)}


def linear(name, outputs, inputs, bias=True):
    """The shapes of one linear layer."""
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name, size):
    """The shapes of one LayerNorm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def save_tensors(folder, tensors):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(path, change):
    """Applies `change`, a function of the parsed object that returns it, to a JSON file."""
    write_json(path, change(json.loads(path.read_text("utf-8"))))


def old_dtype(config):
    """`torch_dtype`, as before transformers 5."""
    return {("torch_dtype" if key == "dtype" else key): config[key] for key in config}


def tokenizer_case(max_tokens, vocabulary="short", layout="2024"):
    """What the functions of `tiny_tokenizers.py` want to know."""
    return SimpleNamespace(max_seq_length=max_tokens, vocabulary=vocabulary, layout=layout)


def set_max_length(folder, max_tokens):
    """Says the limit in `tokenizer_config.json`."""
    rewrite(folder / "tokenizer_config.json", lambda it: {**it, "model_max_length": max_tokens})


def save_modules(folder, width, pooling, max_tokens=None, normalize=False, transformer=None):
    """modules.json and what it lists, as sentence-transformers 2 to 5 wrote it."""
    flags = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens",
             "weightedmean_tokens", "lasttoken"]
    ours = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}.get(pooling, pooling)
    config = {"word_embedding_dimension": width}
    config |= {f"pooling_mode_{flag}": flag == ours for flag in flags}
    write_json(folder / "1_Pooling/config.json", {**config, "include_prompt": True})
    steps = [("", transformer or "sentence_transformers.models.Transformer"),
             ("1_Pooling", "sentence_transformers.models.Pooling")]
    steps += [("2_Normalize", "sentence_transformers.models.Normalize")] if normalize else []
    save_module_list(folder, steps)
    if max_tokens is not None:
        config = {"max_seq_length": max_tokens, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", config)


def save_module_list(folder, steps):
    """modules.json: `steps` are (path, class)."""
    modules = [{"idx": idx, "name": str(idx), "path": path, "type": kind}
               for idx, (path, kind) in enumerate(steps)]
    write_json(folder / "modules.json", modules)


def save_prompts(folder, prompts, default=None, **more):
    version = {"sentence_transformers": "3.0.1", "transformers": "4.41.2", "pytorch": "2.3.1"}
    config = {"__version__": version, "prompts": prompts, "default_prompt_name": default}
    write_json(folder / "config_sentence_transformers.json", {**config, **more})


def texts(fairseq=False):
    """What is embedded: one word, nothing, several languages, and one text that is cut."""
    return [*TEXTS, SHORT, *(FAIRSEQ_TEXTS if fairseq else []), long_text()]


def header(name, architecture, heads, max_tokens, **more):
    made_with = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"model": name, "architecture": architecture, "heads": heads,
            "max_seq_length": max_tokens, "computed_in": "float32", "made_with": made_with, **more}


def write_golden(folder, golden):
    write_json(folder / "golden.json", golden, separators=(",", ":"))


def dense_row(text, input_ids, pooled):
    normalized = torch.nn.functional.normalize(pooled, dim=0)
    return {"text": text, "n_tokens": len(input_ids), "input_ids": input_ids,
            "pooled": digits(pooled), "normalized": digits(normalized)}


class Embedder:
    """A tokenizer of a folder and `model`, a function of tensors -> [1, tokens, hidden]."""

    def __init__(self, folder, model, max_tokens):
        self.folder, self.model, self.max_tokens = folder, model, max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def forward(self, text):
        """-> (input_ids as a list, last hidden state [tokens, hidden])."""
        limit = {"truncation": True, "max_length": self.max_tokens}
        inputs = self.tokenizer(text, return_tensors="pt", **limit)
        with torch.no_grad():
            hidden = self.model(**inputs)
        return inputs["input_ids"][0].tolist(), hidden[0]

    def row(self, text, pooling):
        input_ids, hidden = self.forward(text)
        return dense_row(text, input_ids, pool(hidden, pooling))

    def golden(self, architecture, pooling, normalize, fairseq=False, **more):
        """Writes golden.json in the form of `make_checkpoints.py`, and returns it."""
        input_ids, hidden = self.forward(SHORT)
        values = {"text": SHORT, "input_ids": input_ids, "shape": list(hidden.shape)}
        golden = header(
            self.folder.name, architecture, ["dense"], self.max_tokens, pooling=pooling,
            normalize_module=normalize, dimension=hidden.shape[1],
            last_hidden_state={**values, "values": digits(hidden)},
            cases=[self.row(text, pooling) for text in texts(fairseq)], **more,
        )
        write_golden(self.folder, golden)
        report(golden)
        return golden


def hidden_state(model):
    """A module of transformers as `Embedder` wants it."""
    return lambda **inputs: model(**inputs).last_hidden_state


def report(golden, key="normalized"):
    """How alike the two most alike texts are: near 1, a wrong vector could look right."""
    vectors = torch.tensor([row[key] for row in golden["cases"]])
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    cosines = (vectors @ vectors.T - 2 * torch.eye(len(vectors))).flatten()
    print(f"  cosines of different texts: at most {cosines.max():.3f}, "
          f"median {cosines[cosines > -1].median():.3f}")


def check_sentence_transformers(folder, golden, limit=2e-5, **options):
    """sentence-transformers must read the folder, and give the same vectors in a padded batch."""
    model = SentenceTransformer(str(folder), device="cpu", **options)
    rows = golden["cases"]
    key = "normalized" if golden["normalize_module"] else "pooled"
    # An empty prompt: a default prompt is not part of the cases.
    found = model.encode([row["text"] for row in rows], prompt="", convert_to_tensor=True)
    expected = torch.tensor([row[key] for row in rows])
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    assert model.max_seq_length == golden["max_seq_length"], model.max_seq_length
    assert difference < limit, f"{folder.name}: sentence-transformers is off by {difference}"
    print(f"  sentence-transformers agrees to {difference:.0e}")
    return model


def run(makers, description, into="checkpoints"):
    """The command line of a maker: `makers` is {name: function of a folder}."""
    here = Path(__file__).parent / into
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=style)
    parser.add_argument("--out", type=Path, default=here, help="folder to write into")
    parser.add_argument("--only", help="make only the checkpoint of this name")
    arguments = parser.parse_args()
    be_deterministic(threads=1)
    for name, make in makers.items():
        if arguments.only not in (None, name):
            continue
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(name)
        make(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            path.chmod(0o644)
        size = sum(path.stat().st_size for path in files)
        print(f"  {size / 1000:.0f} kB in {len(files)} files")
