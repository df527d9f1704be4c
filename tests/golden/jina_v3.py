"""The published layout of jina-embeddings-v3: XLM-RoBERTa with rotation, and low-rank adapters.

Sturua et al., "jina-embeddings-v3: Multilingual Embeddings With Task LoRA", 2024.
"""

import re

from safetensors.torch import load_file

from hub_layouts import xlmr_flash_config
from tiny_models import linear, norm

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "", "classification": "", "text-matching": "",
}
RANK, ALPHA = 4, 1
ORIGINAL = ".parametrizations.weight.original"


def config(vocab_size, sizes, positions):
    return {
        **xlmr_flash_config(vocab_size, sizes, positions), "architectures": ["XLMRobertaModel"],
        "position_embedding_type": "rotary", "rotary_emb_base": 20000.0,
        "lora_adaptations": TASKS, "lora_alpha": ALPHA, "lora_rank": RANK, "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False, "load_trained_adapters": True,
        "matryoshka_dimensions": [8, 16, 24, 32], "task_instructions": PROMPTS,
    }


def adapted(plain):
    """The shapes of matrices with adapters instead of {name: shape} without."""
    found = {}
    for name, shape in plain.items():
        if not name.endswith(".weight"):
            found[name] = shape
            continue
        base = name.removesuffix(".weight") + ".parametrizations.weight"
        # Of an embedding the two factors change places: (AB) there, (BA) elsewhere.
        a, b = (shape[0], RANK), (RANK, shape[1])
        if "embeddings" not in name:
            a, b = (RANK, shape[1]), (shape[0], RANK)
        found[f"{base}.original"] = shape
        found |= {f"{base}.0.lora_A": (len(TASKS), *a), f"{base}.0.lora_B": (len(TASKS), *b)}
    return found


def shapes(vocab_size, hidden, intermediate, layers):
    found = adapted({"roberta.embeddings.word_embeddings.weight": (vocab_size, hidden),
                     "roberta.embeddings.token_type_embeddings.weight": (1, hidden)})
    found |= norm("roberta.emb_ln", hidden)
    found |= adapted(linear("roberta.pooler.dense", hidden, hidden))
    for index in range(layers):
        layer = f"roberta.encoder.layers.{index}"
        for name, outputs, inputs in (("mixer.Wqkv", 3 * hidden, hidden),
                                      ("mixer.out_proj", hidden, hidden),
                                      ("mlp.fc1", intermediate, hidden),
                                      ("mlp.fc2", hidden, intermediate)):
            found |= adapted(linear(f"{layer}.{name}", outputs, inputs))
        found |= norm(f"{layer}.norm1", hidden) | norm(f"{layer}.norm2", hidden)
    return found


def scaled(tensors):
    """Adapters that change a weight by a good third, so that a wrong one shows."""
    return {name: tensor * (0.25 if "lora_A" in name and "embeddings" in name else
                            0.9 if "lora_" in name else 1.0) for name, tensor in tensors.items()}


def merge(tensors, base, adapter):
    """weight + alpha/rank * product, or the weight alone without an adapter."""
    weight = tensors[base + ORIGINAL]
    if adapter is None:
        return weight
    a, b = (tensors[f"{base}.parametrizations.weight.0.lora_{x}"][adapter] for x in "AB")
    product = a @ b if "embeddings" in base else b @ a
    return weight + ALPHA / RANK * product


def merged(folder, adapter):
    """The tensors with one adapter in them, under the names that transformers has for them."""
    tensors = load_file(folder / "model.safetensors")
    plain = {name: tensor for name, tensor in tensors.items() if "parametrizations" not in name}
    for name in tensors:
        if name.endswith(ORIGINAL):
            base = name.removesuffix(ORIGINAL)
            plain[f"{base}.weight"] = merge(tensors, base, adapter)
    found = {}
    for name, tensor in plain.items():
        name = re.sub(r"encoder\.layers", "layers", name.removeprefix("roberta."))
        for theirs, ours in (("emb_ln", "embeddings.LayerNorm"),
                             ("norm1", "post_attention_layernorm"),
                             ("norm2", "post_mlp_layernorm"),
                             ("mixer.out_proj", "self_attn.o_proj")):
            name = name.replace(theirs, ours)
        if "mixer.Wqkv" not in name:
            found[name] = tensor
            continue
        for part, ours in zip(tensor.chunk(3), "qkv"):
            found[name.replace("mixer.Wqkv", f"self_attn.{ours}_proj")] = part
    return found
