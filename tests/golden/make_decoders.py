"""Makes the tiny decoders of `tests/golden/checkpoints`: Qwen3-Embedding and Qwen3-Reranker.

    .venv/bin/python tests/golden/make_decoders.py [--only NAME]

Weights are random but seeded. References: transformers in float32, one text at a time; the
embeddings are checked against sentence-transformers in a (left-)padded batch.
"""

import torch
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer,
    Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification, Qwen3Model,
)

from reference import digits, pool
from score_texts import pairs, show
from tiny_models import (
    Embedder, check_sentence_transformers, dense_row, header, hidden_state, randomise, rewrite,
    run, save_modules, save_prompts, texts, write_golden,
)
from tiny_tokenizers import QWEN_SPECIAL, save_qwen

QUERY = ("Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
         "Query:")
# The template of the reranker's model card.
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = ("<|im_start|>system\nJudge whether the Document meets the requirements based on the "
          'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
          "<|im_end|>\n<|im_start|>user\n")
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
# "yes" and "no" have to be single tokens, and the template should not fill the whole context.
TRAINING = [f"{BEFORE}<Instruct>: {INSTRUCTION}\n<Query>: <Document>: {AFTER}"] * 8
TRAINING += ["yes", "no"] * 100
EAGER = {"dtype": torch.float32, "attn_implementation": "eager"}


def config(ids, size, positions):
    """Heads of 12 numbers though 32/4 is 8, two of them to a key; as Qwen3 has wider heads too."""
    return Qwen3Config(
        vocab_size=size, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        num_hidden_layers=3, intermediate_size=64, max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
        max_window_layers=3, sliding_window=None,
    )


def old_config(written):
    """As transformers 4.51 wrote it."""
    gone = ("dtype", "layer_types", "rope_parameters", "pad_token_id")
    kept = {key: value for key, value in written.items() if key not in gone}
    return {**kept, "rope_scaling": None, "rope_theta": 1000000, "torch_dtype": "float32",
            "transformers_version": "4.51.3"}


def embedding(folder):
    """Qwen/Qwen3-Embedding-0.6B: tensors without `model.`, though the config says CausalLM."""
    ids, size = save_qwen(folder, 96, ends=True)
    randomise(Qwen3Model(config(ids, size, 96)), 11).save_pretrained(folder)
    rewrite(folder / "config.json",
            lambda it: {**old_config(it), "architectures": ["Qwen3ForCausalLM"]})
    save_modules(folder, 32, "lasttoken", normalize=True)
    save_prompts(folder, {"query": QUERY, "document": ""}, similarity_fn_name="cosine")
    embedder = Embedder(folder, hidden_state(AutoModel.from_pretrained(folder, **EAGER).eval()), 96)
    golden = embedder.golden("qwen3", "lasttoken", True)
    other = check_sentence_transformers(folder, golden)
    prompted = []
    for text in texts()[1::3]:
        input_ids, hidden = embedder.forward(QUERY + text)
        row = dense_row(text, input_ids, pool(hidden, "lasttoken"))
        prompted.append({"prompt_name": "query", "prompt": QUERY, **row})
        found = other.encode(text, prompt_name="query", convert_to_tensor=True)
        assert (found - torch.tensor(row["normalized"])).abs().max() < 1e-5
    write_golden(folder, {**golden, "prompted": prompted})


def reranker_inputs(tokenizer, query, document, max_tokens):
    """What the model card does: the pair is cut to what the template leaves."""
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (BEFORE, AFTER))
    text = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
    room = max_tokens - len(before) - len(after)
    # One text, so that `longest_first` of the model card cuts its end.
    middle = tokenizer(text, truncation="longest_first", max_length=room)["input_ids"]
    return [*before, *middle, *after]


def save_reranker_golden(folder, positions, score, **more):
    """`score` is a function of input_ids [1, tokens] -> a row's numbers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = []
    for query, document in pairs():
        input_ids = reranker_inputs(tokenizer, query, document, positions)
        with torch.no_grad():
            numbers = score(torch.tensor([input_ids]))
        row = {"query": query, "document": document, "n_tokens": len(input_ids)}
        logits = torch.tensor(numbers["logits"])
        cases.append({**row, "input_ids": input_ids, **numbers,
                      "sigmoid": digits(torch.sigmoid(logits))})
    golden = header(folder.name, "qwen3", ["score"], positions, labels=1,
                    truncation="end of the text between the template's halves",
                    template={"before": BEFORE, "after": AFTER, "instruction": INSTRUCTION,
                              "text": "<Instruct>: {instruction}\n<Query>: {query}\n"
                                      "<Document>: {document}"}, **more)
    write_golden(folder, {**golden, "cases": cases})
    show(cases)
    return cases


POSITIONS = 224


def new_reranker(folder, model_class, **more):
    """Its tied embeddings are larger than an encoder's, or all answers would be undecided."""
    ids, size = save_qwen(folder, POSITIONS, ends=False, more=TRAINING, vocab_size=480)
    settings = config(ids, size, POSITIONS)
    settings.update(more | ({"pad_token_id": ids[QWEN_SPECIAL[0]]} if more else {}))
    model = randomise(model_class(settings), 12)
    with torch.no_grad():
        model.model.embed_tokens.weight *= 8.0
    return model


def reranker(folder):
    """Qwen/Qwen3-Reranker-0.6B: a language model that says yes or no."""
    model = new_reranker(folder, Qwen3ForCausalLM)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", old_config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    assert yes is not None and no is not None
    model = AutoModelForCausalLM.from_pretrained(folder, **EAGER).eval()

    def score(input_ids):
        last = model(input_ids=input_ids).logits[0, -1]
        return {"yes_logit": digits(last[yes])[0], "no_logit": digits(last[no])[0],
                "logits": digits((last[yes] - last[no])[None])}

    save_reranker_golden(folder, POSITIONS, score, yes_token=yes, no_token=no)


def converted(folder):
    """The same model as a Qwen3ForSequenceClassification, as its conversions are published: the
    head is what the rows of `yes` and `no` differ by."""
    source = new_reranker(folder, Qwen3ForCausalLM)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    model = new_reranker(folder, Qwen3ForSequenceClassification, num_labels=1,
                         id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    model.model.load_state_dict(source.model.state_dict())
    with torch.no_grad():
        rows = source.lm_head.weight
        model.score.weight.copy_((rows[yes] - rows[no])[None])
    model.save_pretrained(folder)
    pad = model.config.pad_token_id
    rewrite(folder / "config.json", lambda it: {**old_config(it), "pad_token_id": pad})
    model = AutoModelForSequenceClassification.from_pretrained(folder, **EAGER).eval()
    save_reranker_golden(
        folder, POSITIONS,
        lambda input_ids: {"logits": digits(model(input_ids=input_ids).logits[0])},
    )


if __name__ == "__main__":
    run({"qwen3-tiny-lasttoken": embedding, "qwen3-tiny-reranker": reranker,
         "qwen3-tiny-score": converted}, __doc__)
