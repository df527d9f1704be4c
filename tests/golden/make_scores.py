"""Makes the tiny cross-encoders of `tests/golden/checkpoints` and the logits they must give.

    .venv/bin/python tests/golden/make_scores.py [--only NAME]

Weights are random but seeded. References: transformers in float32, one pair at a time, checked
against `CrossEncoder` of sentence-transformers in a padded batch wherever that can read the folder.
"""

import torch
from sentence_transformers import CrossEncoder
from transformers import (
    AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification,
    DistilBertConfig, DistilBertForSequenceClassification, GteConfig,
    GteForSequenceClassification, ModernBertConfig, ModernBertForSequenceClassification,
    MPNetConfig, MPNetForSequenceClassification, XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

import jina_bert
from hub_layouts import (
    gte_config, gte_shapes, modernbert_config, modernbert_ids, set_ntk, xlmr_flash_config,
    xlmr_flash_names,
)
from reference import write_json
from score_texts import golden_scores
from tiny_models import (
    linear, old_dtype, random_tensors, randomise, rewrite, run, save_tensors, set_max_length,
    tokenizer_case,
)
from tiny_tokenizers import save_bert, save_modernbert, save_mpnet, save_xlm_roberta

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ONE_LABEL = {"num_labels": 1, "id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
EMOTIONS = ["contradiction", "entailment", "neutral"]


def sizes(hidden, heads, layers, intermediate):
    return {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": intermediate}


def load(folder, **options):
    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()


def finish(folder, architecture, max_tokens, model=None, checked=True):
    """The golden file, from the folder alone, and what sentence-transformers makes of it."""
    model = model or load(folder)
    cases = golden_scores(
        folder, architecture, max_tokens, lambda inputs: model(**inputs).logits[0],
        id2label={str(key): value for key, value in model.config.id2label.items()},
    )
    if not checked:
        return
    other = CrossEncoder(str(folder), device="cpu", max_length=max_tokens)
    pairs = [(case["query"], case["document"]) for case in cases]
    found = other.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    expected = torch.tensor([case["logits"] for case in cases])
    difference = (found.reshape(expected.shape) - expected).abs().max().item()
    assert difference < 5e-5, f"{folder.name}: sentence-transformers is off by {difference}"
    print(f"  sentence-transformers agrees to {difference:.0e}")


def make_bert(folder, labels, extra):
    size = save_bert(tokenizer_case(96), folder)
    set_max_length(folder, 96)
    config = BertConfig(vocab_size=size, max_position_embeddings=96, **sizes(32, 4, 2, 64),
                        **NO_DROPOUT, **labels)
    randomise(BertForSequenceClassification(config), 3).save_pretrained(folder)
    rewrite(folder / "config.json", lambda it: {**old_dtype(it), **extra})
    finish(folder, "bert", 96)


def bert_one(folder):
    """cross-encoder/ms-marco-MiniLM-L-6-v2: its activation function is the identity."""
    identity = "torch.nn.modules.linear.Identity"
    make_bert(folder, ONE_LABEL, {"sbert_ce_default_activation_function": identity})


def bert_three(folder):
    """cross-encoder/nli-...: three labels with names."""
    labels = {"id2label": dict(enumerate(EMOTIONS)),
              "label2id": {label: id for id, label in enumerate(EMOTIONS)}}
    make_bert(folder, labels, {})


def xlmr(folder):
    """BAAI/bge-reranker-v2-m3."""
    size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
    set_max_length(folder, 96)
    config = XLMRobertaConfig(vocab_size=size, max_position_embeddings=98, type_vocab_size=1,
                              layer_norm_eps=1e-5, **sizes(32, 2, 2, 64), **NO_DROPOUT, **ONE_LABEL)
    randomise(XLMRobertaForSequenceClassification(config), 4).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    finish(folder, "xlm-roberta", 96)


def distilbert(folder):
    """A DistilBERT with `pre_classifier`, two labels."""
    size = save_bert(tokenizer_case(64), folder)
    set_max_length(folder, 64)
    rewrite(folder / "tokenizer_config.json",
            lambda it: {**it, "tokenizer_class": "DistilBertTokenizer"})
    config = DistilBertConfig(vocab_size=size, max_position_embeddings=64, dim=32, n_heads=4,
                              n_layers=2, hidden_dim=64, dropout=0.0, attention_dropout=0.0,
                              num_labels=2, id2label={0: "NEGATIVE", 1: "POSITIVE"},
                              label2id={"NEGATIVE": 0, "POSITIVE": 1})
    randomise(DistilBertForSequenceClassification(config), 5).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    finish(folder, "distilbert", 64)


def modernbert(folder, pooling):
    """Alibaba-NLP/gte-reranker-modernbert-base (`mean`); `cls` as others fine-tune it."""
    ids, size = save_modernbert(folder, 96)
    config = ModernBertConfig(
        vocab_size=size, max_position_embeddings=96, global_attn_every_n_layers=3,
        local_attention=16, classifier_pooling=pooling, **modernbert_ids(ids),
        **sizes(32, 2, 4, 48), **ONE_LABEL,
    )
    model = randomise(ModernBertForSequenceClassification(config), 6)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", lambda it: modernbert_config(it, pooling))
    finish(folder, "modernbert", 96)


def mpnet(folder):
    """An MPNet cross-encoder: the head is RoBERTa's."""
    size = save_mpnet(tokenizer_case(96), folder)
    set_max_length(folder, 96)
    config = MPNetConfig(vocab_size=size, max_position_embeddings=98, layer_norm_eps=1e-5,
                         relative_attention_num_buckets=32, **sizes(32, 4, 2, 64), **NO_DROPOUT,
                         **ONE_LABEL)
    randomise(MPNetForSequenceClassification(config), 9).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    finish(folder, "mpnet", 96)


def jina_reranker_v1(folder):
    """jinaai/jina-reranker-v1-turbo-en: JinaBERT with BERT's pooler and classifier."""
    size = save_bert(tokenizer_case(96, "uncased"), folder)
    set_max_length(folder, 96)
    shapes = {f"bert.{name}": shape
              for name, shape in jina_bert.shapes(size, 48, 64, 2, False).items()}
    save_tensors(folder, random_tensors(shapes | linear("classifier", 1, 48), 10))
    config = jina_bert.config(size, sizes(48, 6, 2, 64), 96, False)
    code = "jinaai/jina-bert-implementation--modeling_bert.JinaBertForSequenceClassification"
    write_json(folder / "config.json", {
        **config, "architectures": ["JinaBertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "auto_map": {**config["auto_map"], "AutoModelForSequenceClassification": code},
    })
    model = jina_bert.JinaBert(folder)
    weights = {name.removeprefix("bert."): tensor for name, tensor in model.weights.items()}
    model.weights = weights

    def score(inputs):
        first = model(inputs["input_ids"], inputs.get("token_type_ids"))[0, 0]
        return model.linear("classifier", torch.tanh(model.linear("pooler.dense", first)))

    golden_scores(folder, "jina-bert", 96, score, id2label={"0": "LABEL_0"})


def gte(folder):
    """Alibaba-NLP/gte-multilingual-reranker-base: NewForSequenceClassification."""
    size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
    set_max_length(folder, 96)
    shapes = gte_shapes("new.", size, 32, 48, layers=2, types=1)
    shapes |= linear("new.pooler.dense", 32, 32) | linear("classifier", 1, 32)
    save_tensors(folder, random_tensors(shapes, 7))
    config = gte_config(["NewForSequenceClassification"], size, sizes(32, 2, 2, 48), 96)
    write_json(folder / "config.json", {**config, "id2label": {"0": "LABEL_0"},
                                        "label2id": {"LABEL_0": 0}})
    theirs = GteConfig(vocab_size=size, max_position_embeddings=96, type_vocab_size=1, num_labels=1,
                       rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
                       hidden_dropout_prob=0.0, **sizes(32, 2, 2, 48))
    model, info = GteForSequenceClassification.from_pretrained(
        folder, config=theirs, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    set_ntk(model.gte.rotary_emb, 20000.0, 8.0)
    finish(folder, "new", 96, model.eval(), checked=False)


def jina_reranker(folder):
    """jinaai/jina-reranker-v2-base-multilingual: XLM-RoBERTa with other names and fused QKV."""
    size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
    set_max_length(folder, 96)
    config = XLMRobertaConfig(vocab_size=size, max_position_embeddings=98, type_vocab_size=1,
                              layer_norm_eps=1e-5, **sizes(32, 2, 2, 64), **NO_DROPOUT, **ONE_LABEL)
    model = XLMRobertaForSequenceClassification._from_config(config, attn_implementation="eager")
    model = randomise(model, 8)
    save_tensors(folder, xlmr_flash_names(model.state_dict(), layers=2))
    changes = {"architectures": ["XLMRobertaForSequenceClassification"],
               "position_embedding_type": "absolute", "num_labels": 1}
    written = xlmr_flash_config(size, sizes(32, 2, 2, 64), 98)
    write_json(folder / "config.json", {**written, **changes})
    finish(folder, "xlm-roberta", 96, model, checked=False)


if __name__ == "__main__":
    makers = {
        "bert-tiny-score": bert_one,
        "bert-tiny-score3": bert_three,
        "xlmr-tiny-score": xlmr,
        "distilbert-tiny-score": distilbert,
        "modernbert-tiny-score-mean": lambda folder: modernbert(folder, "mean"),
        "modernbert-tiny-score-cls": lambda folder: modernbert(folder, "cls"),
        "mpnet-tiny-score": mpnet,
        "jina-reranker-v1-tiny": jina_reranker_v1,
        "gte-tiny-score": gte,
        "jina-reranker-v2-tiny": jina_reranker,
    }
    run(makers, __doc__)
