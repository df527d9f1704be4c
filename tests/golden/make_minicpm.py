"""Makes a tiny bge-reranker-v2-minicpm-layerwise, and the scores that FlagEmbedding gives with it.

    python -m venv .venv-flag && .venv-flag/bin/pip install -r \
        tests/golden/requirements-flagembedding.txt
    .venv-flag/bin/python tests/golden/make_minicpm.py

Its modelling code needs transformers 4, so this script has requirements of its own. Weights are
random but seeded; every layer from `start_layer` on has a head.
"""

import torch
from FlagEmbedding.inference.reranker.decoder_only.layerwise import LayerWiseLLMReranker
from FlagEmbedding.inference.reranker.decoder_only.models.configuration_minicpm_reranker import (
    LayerWiseMiniCPMConfig,
)
from FlagEmbedding.inference.reranker.decoder_only.models.modeling_minicpm_reranker import (
    LayerWiseMiniCPMForCausalLM,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from transformers import AutoTokenizer

from reference import digits, write_json
from score_texts import pairs, show
from tiny_models import header, randomise, rewrite, run, write_golden
from tiny_tokenizers import sentences

# FlagEmbedding's default, in its words because a model is trained with it.
PROMPT = ("Given a query A and a passage B, determine whether the passage contains an answer to "
          "the query by providing a prediction of either 'Yes' or 'No'.")
MAX_LENGTH = 64
CUTOFFS = [2, 4, 6]


def save_llama(folder, pieces=500):
    """Llama's tokenizer: BPE over text with ▁ for spaces, unknown characters as bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=pieces, show_progress=False)
    trained.train_from_iterator([*sentences(), *[f"A: {PROMPT} B: "] * 8], trainer)
    path = folder / "tokenizer.json"
    trained.save(str(path))
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *[f"<0x{byte:02X}>" for byte in range(256)], "\n"]
    ids = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens += [token for token, _ in ids if token not in tokens]
    vocab = {token: id for id, token in enumerate(tokens)}
    merges = []
    rewrite(path, lambda it: merges.extend(it["model"]["merges"]) or it)
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(content=" ", left=1),
    ])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path))
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
        "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": True,
        "model_max_length": 1000000000000000019884624838656, "pad_token": "</s>",
        "padding_side": "right", "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>",
    })
    return len(vocab)


def inputs_of(tokenizer, query, document):
    """<s> `A: `query, a line break, `B: `document, a line break, the prompt.

    As FlagEmbedding 1.4 cuts: the query at 3/4 of the length, the document at the length, and the
    document again at what the length and the prompt leave, before the prompt is added.
    """
    def ids(text, limit=None):
        options = {} if limit is None else {"truncation": True, "max_length": limit}
        return tokenizer(text, add_special_tokens=False, **options)["input_ids"]

    line, prompt = ids("\n"), ids(PROMPT)
    first = [tokenizer.bos_token_id, *ids(f"A: {query}", MAX_LENGTH * 3 // 4)]
    second = [*line, *ids(f"B: {document}", MAX_LENGTH)]
    room = MAX_LENGTH + len(line) + len(prompt) - len(first)
    return [*first, *second[:room], *line, *prompt]


def reranker(folder):
    """BAAI/bge-reranker-v2-minicpm-layerwise, with its scales of embeddings and residuals."""
    size = save_llama(folder)
    config = LayerWiseMiniCPMConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=6,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=320,
        rms_norm_eps=1e-5, rope_theta=10000.0, scale_emb=12, scale_depth=1.4, dim_model_base=16,
        start_layer=2, head_multi=True, head_type="simple", tie_word_embeddings=False,
        use_cache=False,
    )
    model = randomise(LayerWiseMiniCPMForCausalLM(config), 31)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", lambda it: {
        **it, "model_type": "minicpm",
        "auto_map": {"AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig",
                     "AutoModelForCausalLM": "modeling_minicpm_reranker"
                                             ".LayerWiseMiniCPMForCausalLM"},
    })
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = []
    for query, document in pairs():
        input_ids = inputs_of(tokenizer, query, document)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([input_ids]),
                           attention_mask=torch.ones(1, len(input_ids), dtype=torch.long),
                           cutoff_layers=CUTOFFS).logits
        scores = torch.stack([layer[0, -1] for layer in logits])
        cases.append({"query": query, "document": document, "n_tokens": len(input_ids),
                      "input_ids": input_ids, "logits": digits(scores),
                      "sigmoid": digits(torch.sigmoid(scores))})
    golden = header(folder.name, "minicpm", ["score"], MAX_LENGTH, labels=len(CUTOFFS),
                    cutoff_layers=CUTOFFS, prompt=PROMPT,
                    truncation="FlagEmbedding: see make_minicpm.py", positions=320)
    golden["made_with"]["FlagEmbedding"] = "1.4.2"
    write_golden(folder, {**golden, "cases": cases})
    show(cases)
    check(folder, cases)


def check(folder, cases):
    """The whole of FlagEmbedding, which cuts and pads by itself."""
    other = LayerWiseLLMReranker(str(folder), devices=["cpu"], max_length=MAX_LENGTH)
    found = other.compute_score_single_gpu(
        [(f"A: {case['query']}", f"B: {case['document']}") for case in cases],
        cutoff_layers=CUTOFFS, device="cpu",
    )
    expected = torch.tensor([case["logits"] for case in cases]).T
    difference = (torch.tensor(found) - expected).abs().max().item()
    assert difference < 1e-4, f"FlagEmbedding is off by {difference}"
    print(f"  FlagEmbedding agrees to {difference:.0e}")


if __name__ == "__main__":
    run({"minicpm-layerwise-tiny": reranker}, __doc__)
