"""Vocabulary and input texts of the tiny checkpoints; data only, used by make_checkpoints.py."""

import string

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψω"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
CHINESE = "一不中人他们你来在地大天好学家小山我是有水火的看知道北京雨"
ACCENTED = "àâäçèéêëíñóöúüßÀÉÖÜ"
SUFFIXES = ["##ing", "##ed", "##er", "##est", "##ly", "##tion", "##al", "##en", "##es", "##ine"]
WORDS = """the a of to in is and it was for on with as that by this from at or an be are not
hello world search engine document query vector token rain river mountain library train
night winter bread light garden sea small large quick slow read write find open close red
blue green water stone house street city museum harbour morning evening question answer""".split()


def vocabulary(kind):
    """Pieces in id order. `kind`: `uncased`, `cased` (accents and capitals kept) or `short`."""
    letters = string.ascii_lowercase + string.digits
    pieces = SPECIAL + list(string.punctuation) + list(letters) + [f"##{c}" for c in letters]
    if kind == "short":
        pieces += list(GREEK[:6]) + list(CYRILLIC[:6]) + list(CHINESE[:10]) + WORDS[:40]
        return list(dict.fromkeys(pieces))
    pieces += [piece for c in GREEK + CYRILLIC for piece in (c, f"##{c}")]
    pieces += list(CHINESE) + SUFFIXES + WORDS
    if kind == "cased":
        pieces += [piece for c in ACCENTED + string.ascii_uppercase for piece in (c, f"##{c}")]
    return list(dict.fromkeys(pieces))


# Every text is a trap for one thing a tokenizer or a batcher can get wrong.
TEXTS = [
    "",
    "a",
    "hello world",
    "Hello, World! Is this the Search Engine?",
    "the river and the mountain in the morning rain",
    "searching for the quickest answer: 42 documents, 7 queries (3.5 s)",
    "Über den Fluß: déjà vu, mañana, naïve façade",
    "Καλημέρα κόσμε, ο ποταμός και η θάλασσα",
    "Дождь идёт над городом, а поезд стоит у реки",
    "我们在北京看山和水，天下大雨",
    "\U0001f600 rain \U0001f327️ or 🦀🦀",
    "hello [SEP] world [MASK] [UNK]",
    "\t  white \u00a0 space\r\n and\u0000 control\u0007 characters\u200b \ufffd ",
    "!?.,;:'\"()[]{}<>@#$%^&*-_=+/\\|~`",
    "w" * 99 + " " + "x" * 101 + " a_very-long.compound/word",
]

# For models whose padding token has a position of its own, in the spelling of fairseq: one that
# is in a text is not counted, so everything after it moves by one.
FAIRSEQ_TEXTS = [
    "rain <pad> and <pad><pad> light</s> by <mask> river <unk> stone",
    "<pad> The library opens at nine",
    "ＦＵＬＬ ｗｉｄｔｈ ﬁne ①, x² and ½",
]

SHORT = "the quick red train"


def long_text():
    """More tokens than any of the checkpoints accepts, so it is cut."""
    return " ".join(f"{WORDS[i * 7 % len(WORDS)]} {i}" for i in range(400))
