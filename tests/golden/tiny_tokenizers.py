"""The tokenizers of the tiny checkpoints, one function per family, as transformers saves them.

Those of RoBERTa and XLM-RoBERTa are trained on `sentences.json`; training is deterministic.
"""

import json
import math
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
    trainers,
)
from transformers import (
    BertTokenizer, MPNetTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer,
)

from reference import write_json
from tiny_texts import vocabulary

# In the order of fairseq, which RoBERTa and XLM-RoBERTa keep: <pad> has id 1.
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
# It swallows the space before it.
MASK = AddedToken("<mask>", lstrip=True, normalized=False, special=True)


def sentences():
    """Our sentences of all languages."""
    path = Path(__file__).parent / "sentences.json"
    return [text for texts in json.loads(path.read_text("utf-8")).values() for text in texts]


def limit(case):
    """`model_max_length`, where the files of this layout have one."""
    if case.layout == "pooling-only":
        return {}
    return {"model_max_length": case.max_seq_length if case.layout == "2026" else 512}


def save_bert(case, folder):
    # BERT's vocabulary has these behind [PAD]; ColBERT makes markers of them.
    unused = [f"[unused{index}]" for index in range(getattr(case, "unused", 0))]
    names = vocabulary(case.vocabulary)
    pieces = {piece: id for id, piece in enumerate([names[0], *unused, *names[1:]])}
    options = {"strip_accents": False, "do_lower_case": False} if case.vocabulary == "cased" else {}
    tokenizer = BertTokenizer(vocab=pieces, **options, **limit(case))
    if case.layout == "2021":
        # all-MiniLM-L6-v2 carries these settings in its tokenizer.json; a loader must ignore them.
        tokenizer.backend_tokenizer.enable_truncation(128)
        tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.save_pretrained(folder)
    if case.layout != "2026":
        names = ["unk", "sep", "pad", "cls", "mask"]
        special = {f"{name}_token": f"[{name.upper()}]" for name in names}
        write_json(folder / "special_tokens_map.json", special)
    return len(pieces)


def save_roberta(case, folder):
    """Byte-level BPE. RoBERTa's own vocabulary ends with <mask>."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=int(case.vocabulary) - 1, show_progress=False, special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator(sentences(), trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = {**model["vocab"], str(MASK): len(model["vocab"])}
    merges = [tuple(pair) for pair in model["merges"]]
    options = {"mask_token": MASK, **limit(case)}
    RobertaTokenizer(vocab=vocab, merges=merges, **options).save_pretrained(folder)
    return len(vocab)


def save_xlm_roberta(case, folder):
    """SentencePiece's Unigram. Its own trainer gives other scores on every run, so pieces are found
    by BPE and scored by how often it uses them. The published tokenizers also have a compiled
    table of NFKC, which would be larger than the whole checkpoint."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    size = int(case.vocabulary) - len(SPECIAL) - 1
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    trained.train_from_iterator(sentences(), trainer)
    uses = Counter({piece: 1 for piece in trained.get_vocab()})
    for text in sentences():
        uses.update(trained.encode(text).tokens)
    total = sum(uses.values())
    scored = [(piece, round(math.log(count / total), 6)) for piece, count in uses.items()]
    scored.sort(key=lambda piece: (-piece[1], piece[0]))
    vocab = [(piece, 0.0) for piece in SPECIAL] + scored + [(str(MASK), 0.0)]
    XLMRobertaTokenizer(vocab=vocab, mask_token=MASK, **limit(case)).save_pretrained(folder)
    return len(vocab)


def save_mpnet(case, folder):
    """BERT's vocabulary behind the special tokens of fairseq; its unknown token is BERT's."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *vocabulary(case.vocabulary)[1:], "<mask>"]
    ids = {piece: id for id, piece in enumerate(pieces)}
    MPNetTokenizer(vocab=ids, **limit(case)).save_pretrained(folder)
    return len(pieces)


def byte_level(vocab_size, special, split=None, more=()):
    """A trained byte-level BPE whose special tokens come last, as those of GPT-NeoX and Qwen do.

    `more` are texts to train on besides ours.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    words = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    trained.pre_tokenizer = pre_tokenizers.Sequence([*words, bytes])
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator([*sentences(), *more], trainer)
    trained.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return trained


def save_modernbert(folder, max_tokens, vocab_size=400):
    """Byte-level BPE between [CLS] and [SEP], no token types."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trained = byte_level(vocab_size, special)
    ids = {token: trained.token_to_id(token) for token in special}
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = ["unk", "cls", "sep", "pad", "mask"]
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in names}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=max_tokens, **tokens,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    return ids, trained.get_vocab_size()


# How Qwen 2 and later take a text apart before BPE: their tokenizer.json says it.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def save_qwen(folder, max_tokens, ends, more=(), vocab_size=420):
    """Qwen 3's tokenizer. That of the embedding models puts <|endoftext|> behind (`ends`)."""
    trained = byte_level(vocab_size, QWEN_SPECIAL, QWEN_SPLIT, more)
    ids = {token: trained.token_to_id(token) for token in QWEN_SPECIAL}
    end = QWEN_SPECIAL[0]
    bytes = processors.ByteLevel(add_prefix_space=False, use_regex=False)
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, ids[end])]
    )
    trained.post_processor = processors.Sequence([bytes, template]) if ends else bytes
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=max_tokens, padding_side="left",
        eos_token="<|im_end|>", pad_token=end,
    )
    tokenizer.save_pretrained(folder)
    return ids, trained.get_vocab_size()


SAVE_TOKENIZER = {
    "bert": save_bert,
    "roberta": save_roberta,
    "xlm-roberta": save_xlm_roberta,
}
