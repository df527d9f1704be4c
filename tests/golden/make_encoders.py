"""Makes the tiny encoders of other families than BERT's, and their reference vectors.

    .venv/bin/python tests/golden/make_encoders.py [--only NAME]

Weights are random but seeded. References: transformers in float32, one text at a time; where the
published layout is one that only custom code reads, its tensors are renamed by transformers' own
table of conversions. JinaBERT is in neither: `jina_bert.py` computes it.
"""

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel, DistilBertConfig, DistilBertModel, GteConfig, GteModel, JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model, ModernBertConfig, ModernBertModel, MPNetConfig, MPNetModel,
    NomicBertConfig, NomicBertModel,
)

import jina_bert
import jina_v3
from hub_layouts import gte_config, gte_shapes, modernbert_config, modernbert_ids, set_ntk
from make_heads import lexical_weights, sparse_of
from reference import pool, write_json
from tiny_models import (
    Embedder, check_sentence_transformers, dense_row, hidden_state, linear, norm, old_dtype,
    random_tensors, randomise, rewrite, run, save_modules, save_prompts, save_tensors,
    set_max_length, texts, tokenizer_case, write_golden,
)
from tiny_tokenizers import save_bert, save_modernbert, save_mpnet, save_xlm_roberta

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def sizes(hidden, heads, layers, intermediate):
    return {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": intermediate}


def read(folder):
    """What transformers reads by itself."""
    return hidden_state(AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval())


def read_as(folder, model_class, config, unexpected=()):
    """A published layout read by the class of transformers that replaced its custom code."""
    model, info = model_class.from_pretrained(
        folder, config=config, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"], info["missing_keys"]
    assert set(info["unexpected_keys"]) == set(unexpected), info["unexpected_keys"]
    return model.eval()


def distilbert(folder):
    """sentence-transformers/multi-qa-distilbert-cos-v1, without its prefix."""
    size = save_bert(tokenizer_case(64, "uncased"), folder)
    set_max_length(folder, 64)
    rewrite(folder / "tokenizer_config.json",
            lambda it: {**it, "tokenizer_class": "DistilBertTokenizer"})
    config = DistilBertConfig(vocab_size=size, max_position_embeddings=64, dim=32, n_heads=4,
                              n_layers=3, hidden_dim=64, dropout=0.0, attention_dropout=0.0)
    randomise(DistilBertModel(config), 8).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    save_modules(folder, 32, "mean", 64, normalize=True)
    golden = Embedder(folder, read(folder), 64).golden("distilbert", "mean", True)
    check_sentence_transformers(folder, golden)


def modernbert(folder):
    """Alibaba-NLP/gte-modernbert-base: layers 0 and 3 see all, the others 8 tokens to each side."""
    ids, size = save_modernbert(folder, 96)
    config = ModernBertConfig(
        vocab_size=size, max_position_embeddings=96, global_attn_every_n_layers=3,
        local_attention=16, **modernbert_ids(ids), **sizes(32, 2, 5, 48),
    )
    randomise(ModernBertModel(config), 2).save_pretrained(folder)
    rewrite(folder / "config.json", modernbert_config)
    save_modules(folder, 32, "cls", 96)
    golden = Embedder(folder, read(folder), 96).golden("modernbert", "cls", False)
    check_sentence_transformers(folder, golden)


def mpnet(folder):
    """sentence-transformers/all-mpnet-base-v2; texts reach beyond 64 tokens, where buckets are
    logarithmic, and up to 128, the largest distance that has one of its own."""
    size = save_mpnet(tokenizer_case(144), folder)
    set_max_length(folder, 144)
    config = MPNetConfig(vocab_size=size, max_position_embeddings=146, layer_norm_eps=1e-5,
                         relative_attention_num_buckets=32, **sizes(32, 4, 2, 64), **NO_DROPOUT)
    randomise(MPNetModel(config), 3).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    save_modules(folder, 32, "mean", 144, normalize=True)
    golden = Embedder(folder, read(folder), 144).golden("mpnet", "mean", True, fairseq=True)
    check_sentence_transformers(folder, golden)


def nomic(folder):
    """nomic-ai/nomic-embed-text-v1.5: keys of GPT-2 in the config, no biases but in LayerNorm."""
    size = save_bert(tokenizer_case(96, "uncased"), folder)
    set_max_length(folder, 96)
    shapes = {"embeddings.word_embeddings.weight": (size, 32),
              "embeddings.token_type_embeddings.weight": (2, 32), **norm("emb_ln", 32)}
    for index in range(3):
        layer = f"encoder.layers.{index}"
        for name, outputs, inputs in (("attn.Wqkv", 96, 32), ("attn.out_proj", 32, 32),
                                      ("mlp.fc11", 48, 32), ("mlp.fc12", 48, 32),
                                      ("mlp.fc2", 32, 48)):
            shapes |= linear(f"{layer}.{name}", outputs, inputs, bias=False)
        shapes |= norm(f"{layer}.norm1", 32) | norm(f"{layer}.norm2", 32)
    save_tensors(folder, random_tensors(shapes, 4))
    code = "nomic-ai/nomic-bert-2048"
    write_json(folder / "config.json", {
        "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0,
        "auto_map": {"AutoConfig": f"{code}--configuration_hf_nomic_bert.NomicBertConfig",
                     "AutoModel": f"{code}--modeling_hf_nomic_bert.NomicBertModel"},
        "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.0,
        "eos_token_id": None, "fused_bias_fc": True, "fused_dropout_add_ln": True,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 96,
        "mlp_fc1_bias": False, "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 32,
        "n_head": 2, "n_inner": 48, "n_layer": 3, "n_positions": 96, "pad_vocab_size_multiple": 64,
        "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False,
        "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
        "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
        "torch_dtype": "float32", "transformers_version": "4.37.2", "type_vocab_size": 2,
        "use_cache": True, "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True,
        "vocab_size": size,
    })
    save_modules(folder, 32, "mean", 96)
    theirs = NomicBertConfig(vocab_size=size, max_position_embeddings=96,
                             rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
                             **sizes(32, 2, 3, 48))
    model = hidden_state(read_as(folder, NomicBertModel, theirs))
    Embedder(folder, model, 96).golden("nomic_bert", "mean", False)


def gte(folder, english):
    """Alibaba-NLP/gte-multilingual-base, whose names begin with `new.` and whose file has the
    sparse head `classifier`; or gte-base-en-v1.5, without either and without token types."""
    if english:
        size = save_bert(tokenizer_case(96, "uncased"), folder)
        types, prefix, pad, theta, factor, head = 0, "", 0, 500000.0, 2.0, {}
    else:
        size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
        types, prefix, pad, theta, factor = 1, "new.", 1, 20000.0, 8.0
        head = linear("classifier", 1, 32)
    set_max_length(folder, 96)
    shapes = gte_shapes(prefix, size, 32, 48, layers=2, types=types) | head
    save_tensors(folder, random_tensors(shapes, 5))
    names = ["NewModel"] if english else ["NewModel", "NewForTokenClassification"]
    dims = sizes(32, 2, 2, 48)
    config = gte_config(names, size, dims, 96, types, pad, theta, factor)
    write_json(folder / "config.json", config)
    save_modules(folder, 32, "cls", 96, normalize=not english)
    theirs = GteConfig(vocab_size=size, max_position_embeddings=96, type_vocab_size=types,
                       pad_token_id=pad, hidden_dropout_prob=0.0,
                       rope_parameters={"rope_type": "default", "rope_theta": theta}, **dims)
    model = read_as(folder, GteModel, theirs, unexpected=head)
    set_ntk(model.rotary_emb, theta, factor)
    embedder = Embedder(folder, hidden_state(model), 96)
    golden = embedder.golden("new", "cls", not english, fairseq=not english)
    if english:
        return
    # The model's own script gives each token a weight as FlagEmbedding's for bge-m3 does.
    tensors = load_file(folder / "model.safetensors")
    tokenizer = embedder.tokenizer
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
              tokenizer.unk_token_id}
    for row in golden["cases"]:
        input_ids, hidden = embedder.forward(row["text"])
        logits = hidden @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        weights = torch.relu(logits).squeeze(1)
        row["sparse"] = sparse_of(lexical_weights(weights, input_ids, unused))
    write_golden(folder, {**golden, "heads": ["dense", "sparse"]})


def jina(folder, qk_norm):
    """jinaai/jina-embeddings-v2-base-en, or -base-code, which normalises queries and keys."""
    size = save_bert(tokenizer_case(96, "uncased"), folder)
    set_max_length(folder, 96)
    # Six heads: not a power of two, as in the base models.
    dims = sizes(48, 6, 3, 64)
    save_tensors(folder, random_tensors(jina_bert.shapes(size, 48, 64, 3, qk_norm), 6))
    write_json(folder / "config.json", jina_bert.config(size, dims, 96, qk_norm))
    save_modules(folder, 48, "mean", 96)
    model = jina_bert.JinaBert(folder)
    Embedder(folder, model, 96).golden("jina-bert", "mean", False)


def jina_embeddings_v3(folder):
    """jinaai/jina-embeddings-v3: adapters of five tasks on every matrix and on the embeddings."""
    size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
    set_max_length(folder, 96)
    dims = sizes(32, 2, 2, 64)
    tensors = random_tensors(jina_v3.shapes(size, 32, 64, 2), 1)
    save_tensors(folder, jina_v3.scaled(tensors))
    write_json(folder / "config.json", jina_v3.config(size, dims, 98))
    save_modules(folder, 32, "mean", normalize=True, transformer="custom_st.Transformer")
    save_prompts(folder, jina_v3.PROMPTS, similarity_fn_name="cosine")
    theirs = JinaEmbeddingsV3Config(
        vocab_size=size, max_position_embeddings=98, hidden_act="gelu", **dims, **NO_DROPOUT,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    )

    def with_adapter(adapter):
        model = JinaEmbeddingsV3Model._from_config(theirs, attn_implementation="eager")
        model.load_state_dict(jina_v3.merged(folder, adapter), strict=True)
        return Embedder(folder, hidden_state(model.eval()), 96)

    golden = with_adapter(None).golden("xlm-roberta", "mean", True, fairseq=True)
    adapted = []
    for adapter, task in enumerate(jina_v3.TASKS):
        embedder = with_adapter(adapter)
        prompt = jina_v3.PROMPTS[task]
        for text in texts(fairseq=True)[::2]:
            input_ids, hidden = embedder.forward(prompt + text)
            row = dense_row(text, input_ids, pool(hidden, "mean"))
            adapted.append({"task": task, "adapter": adapter, "prompt": prompt, **row})
    write_golden(folder, {**golden, "adapted": adapted})


if __name__ == "__main__":
    makers = {
        "distilbert-tiny-mean": distilbert,
        "modernbert-tiny-cls": modernbert,
        "jina-bert-tiny-mean": lambda folder: jina(folder, qk_norm=False),
        "jina-code-tiny-mean": lambda folder: jina(folder, qk_norm=True),
        "jina-v3-tiny-mean": jina_embeddings_v3,
        "nomic-tiny-mean": nomic,
        "gte-tiny-cls": lambda folder: gte(folder, english=False),
        "gte-en-tiny-cls": lambda folder: gte(folder, english=True),
        "mpnet-tiny-mean": mpnet,
    }
    run(makers, __doc__)
