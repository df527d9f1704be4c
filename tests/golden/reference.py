"""What the reference makers share: one plain forward pass, pooling, and how numbers are written.

Everything is float32 on CPU, one text at a time (so nothing is padded), with eager attention.
"""

import json
import math

import torch
import transformers
from transformers import AutoModel, AutoTokenizer


def be_deterministic(threads):
    """The same sums in the same order on every run, and no progress bars."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


class Reference:
    """A checkpoint run by transformers in float32."""

    def __init__(self, folder, max_seq_length):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_seq_length = max_seq_length
        model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.model = model.eval()

    def tokenize(self, text, padding):
        limit = {"truncation": True, "max_length": self.max_seq_length}
        return self.tokenizer(text, padding=padding, return_tensors="pt", **limit)

    def forward(self, text):
        """-> (input_ids as a list, last hidden state [tokens, hidden])."""
        inputs = self.tokenize(text, padding=False)
        with torch.no_grad():
            hidden = self.model(**inputs).last_hidden_state[0]
        return inputs["input_ids"][0].tolist(), hidden

    def forward_padded(self, texts):
        """-> (last hidden state [texts, longest, hidden], attention mask [texts, longest])."""
        inputs = self.tokenize(texts, padding=True)
        with torch.no_grad():
            hidden = self.model(**inputs).last_hidden_state
        return hidden, inputs["attention_mask"]


def pool(hidden, mode):
    """[tokens, hidden] of one text -> [hidden], as sentence-transformers defines it."""
    tokens = hidden.shape[0]
    if mode == "cls":
        return hidden[0]
    if mode == "lasttoken":
        return hidden[-1]
    if mode == "max":
        return hidden.max(dim=0).values
    if mode == "mean":
        return hidden.sum(dim=0) / tokens
    if mode == "mean_sqrt_len_tokens":
        return hidden.sum(dim=0) / math.sqrt(tokens)
    if mode == "weightedmean":
        weights = torch.arange(1, tokens + 1, dtype=hidden.dtype).unsqueeze(1)
        return (hidden * weights).sum(dim=0) / weights.sum()
    raise ValueError(f"unknown pooling `{mode}`")


def digits(tensor):
    """A list of numbers with nine significant digits, which identify a float32."""
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def write_json(path, value, **style):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, **(style or {"indent": 2}))
    path.write_text(text + "\n", encoding="utf-8")
