"""JinaBERT (jina-embeddings-v2) in plain torch, from its description: no release of transformers
has it. Günther et al., "Jina Embeddings 2", 2023; Press et al., "Train Short, Test Long", 2022.
"""

import json
import math

import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, softmax

from tiny_models import linear, norm


def config(vocab_size, sizes, max_tokens, qk_norm):
    """config.json of jina-embeddings-v2-base-en, or -base-code (`qk_norm`)."""
    code = "jinaai/jina-bert-v2-qk-post-norm" if qk_norm else "jinaai/jina-bert-implementation"
    names = {"AutoConfig": "configuration_bert.JinaBertConfig",
             "AutoModelForMaskedLM": "modeling_bert.JinaBertForMaskedLM",
             "AutoModel": "modeling_bert.JinaBertModel"}
    return {
        "_name_or_path": code, "model_max_length": max_tokens,
        "architectures": ["JinaBertForMaskedLM"], "attention_probs_dropout_prob": 0.0,
        "auto_map": {key: f"{code}--{name}" for key, name in names.items()},
        "classifier_dropout": None, "gradient_checkpointing": False, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "max_position_embeddings": max_tokens, "model_type": "bert", "pad_token_id": 0,
        "position_embedding_type": "alibi", "torch_dtype": "float32",
        "transformers_version": "4.26.0", "type_vocab_size": 2, "use_cache": True,
        "vocab_size": vocab_size, "feed_forward_type": "geglu", "emb_pooler": "mean", **sizes,
    }


def shapes(vocab_size, hidden, intermediate, layers, qk_norm):
    found = {"embeddings.word_embeddings.weight": (vocab_size, hidden),
             "embeddings.token_type_embeddings.weight": (2, hidden)}
    found |= norm("embeddings.LayerNorm", hidden) | linear("pooler.dense", hidden, hidden)
    up, down = ("up_gated_layer", "down_layer") if qk_norm else ("gated_layers", "wo")
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        for name in ("query", "key", "value"):
            found |= linear(f"{layer}.attention.self.{name}", hidden, hidden)
        found |= linear(f"{layer}.attention.output.dense", hidden, hidden)
        found |= norm(f"{layer}.attention.output.LayerNorm", hidden)
        found |= linear(f"{layer}.mlp.{up}", 2 * intermediate, hidden, bias=False)
        found |= linear(f"{layer}.mlp.{down}", hidden, intermediate)
        norms = ["attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1",
                 "layer_norm_2"] if qk_norm else ["mlp.layernorm"]
        for name in norms:
            found |= norm(f"{layer}.{name}", hidden)
    return found


def alibi_slopes(heads):
    """One per head: 2^(-8/n), 2^(-16/n), ... of the largest power of two n that is not above the
    number of heads, then every other one of twice that many heads."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / whole) for head in range(whole)]
    between = [2.0 ** (-4.0 * (head + 1) / whole) for head in range(0, 2 * whole, 2)]
    return torch.tensor(slopes + between[: heads - whole])


class JinaBert:
    """A folder's weights -> a function of one text's `input_ids` [1, tokens]."""

    def __init__(self, folder):
        self.weights = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())
        self.qk_norm = self.config["_name_or_path"].endswith("qk-post-norm")

    def linear(self, name, x):
        return torch.nn.functional.linear(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        )

    def norm(self, name, x):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def attention(self, name, x):
        heads = self.config["num_attention_heads"]
        query, key, value = (self.linear(f"{name}.{part}", x) for part in ("query", "key", "value"))
        if self.qk_norm:
            # Over the whole width, not per head.
            query = self.norm(f"{name}.layer_norm_q", query)
            key = self.norm(f"{name}.layer_norm_k", key)
        query, key, value = (part.unflatten(1, (heads, -1)).transpose(0, 1)
                             for part in (query, key, value))
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[2])
        places = torch.arange(x.shape[0])
        distance = (places[:, None] - places[None, :]).abs()
        scores = scores - alibi_slopes(heads)[:, None, None] * distance
        return (softmax(scores, dim=-1) @ value).transpose(0, 1).flatten(1)

    def layer(self, name, x):
        attention = self.linear(f"{name}.attention.output.dense",
                                self.attention(f"{name}.attention.self", x))
        seen = self.norm(f"{name}.attention.output.LayerNorm", x + attention)
        if self.qk_norm:
            # The residual is added a second time, to what is already normalised.
            seen = self.norm(f"{name}.layer_norm_1", x + seen)
            up, gate = self.linear(f"{name}.mlp.up_gated_layer", seen).chunk(2, dim=-1)
            out = self.linear(f"{name}.mlp.down_layer", up * gelu(gate))
            return self.norm(f"{name}.layer_norm_2", seen + out)
        gate, up = self.linear(f"{name}.mlp.gated_layers", seen).chunk(2, dim=-1)
        out = self.linear(f"{name}.mlp.wo", gelu(gate) * up)
        return self.norm(f"{name}.mlp.layernorm", out + seen)

    def __call__(self, input_ids, token_type_ids=None, attention_mask=None):
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.weights["embeddings.word_embeddings.weight"][input_ids[0]]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][types[0]]
        x = self.norm("embeddings.LayerNorm", x)
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(f"encoder.layer.{index}", x)
        return x[None]
