"""The tokenizers of the tiny checkpoints, one function per family, as transformers saves them.

Those of RoBERTa and XLM-RoBERTa are trained on `sentences.json`; training is deterministic.
"""

import json
import math
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

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
    pieces = {piece: id for id, piece in enumerate(vocabulary(case.vocabulary))}
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


SAVE_TOKENIZER = {
    "bert": save_bert,
    "roberta": save_roberta,
    "xlm-roberta": save_xlm_roberta,
}
