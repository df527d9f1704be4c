"""Published layouts that transformers does not write itself: names of tensors, keys of configs.

What is known of them comes from the published config.json files and from transformers' own table
of how it renames such checkpoints when it reads them.
"""

import torch

from tiny_models import linear, norm


def modernbert_ids(ids):
    """The special tokens of a ModernBERT's config; `ids` is {token: id}."""
    cls, sep, pad = (ids[token] for token in ("[CLS]", "[SEP]", "[PAD]"))
    return {"cls_token_id": cls, "bos_token_id": cls, "sep_token_id": sep, "eos_token_id": sep,
            "pad_token_id": pad}


def modernbert_config(config, classifier_pooling="mean"):
    """As before transformers 5: every n-th layer is global, and two bases of rotation."""
    gone = ("layer_types", "rope_parameters", "dtype", "tie_word_embeddings")
    kept = {key: value for key, value in config.items() if key not in gone}
    return {**kept, "classifier_pooling": classifier_pooling, "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
            "position_embedding_type": "absolute", "reference_compile": False,
            "layer_norm_eps": 1e-05, "torch_dtype": "float32", "transformers_version": "4.48.0"}


def gte_config(architectures, vocab_size, sizes, max_tokens, types=1, pad=1, theta=20000.0,
               factor=8.0):
    """The `new` model type of Alibaba-NLP."""
    return {
        "architectures": architectures, "attention_probs_dropout_prob": 0.0,
        "auto_map": {"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"},
        "classifier_dropout": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False, "logn_attention_scale": False,
        "max_position_embeddings": max_tokens, "model_type": "new", "pack_qkv": True,
        "pad_token_id": pad, "position_embedding_type": "rope",
        "rope_scaling": {"factor": factor, "type": "ntk"}, "rope_theta": theta,
        "torch_dtype": "float32", "transformers_version": "4.39.1", "type_vocab_size": types,
        "unpad_inputs": False, "use_memory_efficient_attention": False, "vocab_size": vocab_size,
        **sizes,
    }


def gte_shapes(prefix, vocab_size, hidden, intermediate, layers, types):
    """NewModel: fused projections, up and gate in one matrix without a bias."""
    shapes = {f"{prefix}embeddings.word_embeddings.weight": (vocab_size, hidden)}
    shapes |= norm(f"{prefix}embeddings.LayerNorm", hidden)
    if types:
        shapes[f"{prefix}embeddings.token_type_embeddings.weight"] = (types, hidden)
    for index in range(layers):
        layer = f"{prefix}encoder.layer.{index}"
        shapes |= linear(f"{layer}.attention.qkv_proj", 3 * hidden, hidden)
        shapes |= linear(f"{layer}.attention.o_proj", hidden, hidden)
        shapes |= linear(f"{layer}.mlp.up_gate_proj", 2 * intermediate, hidden, bias=False)
        shapes |= linear(f"{layer}.mlp.down_proj", hidden, intermediate)
        shapes |= norm(f"{layer}.attn_ln", hidden) | norm(f"{layer}.mlp_ln", hidden)
    return shapes


def set_ntk(rotary, theta, factor):
    """Fixed NTK scaling as NewModel has it, at every length (Su, kexue.fm/archives/9706):
    the base is multiplied by the factor, and every frequency divided by factor^(2/d)."""
    half = len(rotary.inv_freq)
    exponents = torch.arange(half, dtype=torch.float32) / half
    rotary.inv_freq = (theta * factor) ** -exponents / factor ** (1 / half)


def xlmr_flash_config(vocab_size, sizes, positions):
    """jinaai/xlm-roberta-flash-implementation, on which jina-embeddings-v3 is built."""
    code = "jinaai/xlm-roberta-flash-implementation--"
    return {
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
        "auto_map": {"AutoConfig": f"{code}configuration_xlm_roberta.XLMRobertaFlashConfig",
                     "AutoModel": f"{code}modeling_lora.XLMRobertaLoRA"},
        "classifier_dropout": None, "emb_pooler": "mean", "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-05,
        "max_position_embeddings": positions, "model_type": "xlm-roberta", "output_past": True,
        "pad_token_id": 1, "torch_dtype": "float32", "transformers_version": "4.30.2",
        "truncate_dim": None, "type_vocab_size": 1, "use_cache": False, "use_flash_attn": True,
        "use_reg_tokens": False, "vocab_size": vocab_size, **sizes,
    }


def xlmr_flash_names(state, layers):
    """The tensors of an XLM-RoBERTa under the names of that implementation, Q, K and V fused."""
    found = {name: tensor for name, tensor in state.items() if "position_ids" not in name}
    renamed = {}
    for index in range(layers):
        old, new = f"roberta.encoder.layer.{index}.", f"roberta.encoder.layers.{index}."
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{old}attention.self.{name}.{kind}")
                     for name in ("query", "key", "value")]
            renamed[f"{new}mixer.Wqkv.{kind}"] = torch.cat(parts)
            for theirs, ours in (("attention.output.dense", "mixer.out_proj"),
                                 ("attention.output.LayerNorm", "norm1"),
                                 ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
                                 ("output.LayerNorm", "norm2")):
                renamed[f"{new}{ours}.{kind}"] = found.pop(f"{old}{theirs}.{kind}")
    rest = {name.replace("embeddings.LayerNorm", "emb_ln"): found[name] for name in found}
    return renamed | rest
