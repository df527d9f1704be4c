"""Makes tiny checkpoints with other heads than one vector: sparse weights, a vector per token, and
vectors that a Dense layer changes after pooling.

    .venv/bin/python tests/golden/make_heads.py [--only NAME]

Weights are random but seeded. References: sentence-transformers where it reads the folder, else
the few lines here, which README.md says how we checked.
"""

import string

import torch
from sentence_transformers import SparseEncoder
from torch.nn.functional import normalize
from transformers import (
    AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, DistilBertConfig,
    DistilBertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, XLMRobertaConfig,
    XLMRobertaModel,
)

from hub_layouts import modernbert_config, modernbert_ids
from reference import digits, write_json
from tiny_models import (
    Embedder, check_sentence_transformers, dense_row, header, hidden_state, old_dtype,
    random_tensor, randomise, report, rewrite, run, save_module_list, save_modules, save_prompts,
    save_tensors, set_max_length, texts, tokenizer_case, write_golden,
)
from tiny_tokenizers import save_bert, save_modernbert, save_xlm_roberta

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
         "intermediate_size": 64, **NO_DROPOUT}
EAGER = {"dtype": torch.float32, "attn_implementation": "eager"}
# How many texts get a golden vector per token, which is long.
FEW = 10


def rows_of(vectors):
    return {"shape": list(vectors.shape), "values": digits(vectors)}


def sparse_of(weights):
    """{token id: weight} -> the ids ascending."""
    ids = sorted(weights)
    return {"ids": ids, "weights": digits(torch.tensor([weights[id] for id in ids]))}


def lexical_weights(weights, input_ids, unused):
    """The largest weight of every token id that is not special and has one above 0."""
    found = {}
    for weight, id in zip(weights.tolist(), input_ids):
        if id not in unused and weight > found.get(id, 0.0):
            found[id] = weight
    return found


def bge_m3(folder):
    """BAAI/bge-m3: `pytorch_model.bin`, and two linear layers in files beside it."""
    size = save_xlm_roberta(tokenizer_case(96, "300"), folder)
    set_max_length(folder, 96)
    config = XLMRobertaConfig(vocab_size=size, max_position_embeddings=98, type_vocab_size=1,
                              layer_norm_eps=1e-5, **SIZES)
    model = randomise(XLMRobertaModel(config), 21)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    generator = torch.Generator().manual_seed(22)
    sparse, colbert = torch.nn.Linear(32, 1), torch.nn.Linear(32, 32)
    for layer in (sparse, colbert):
        layer.load_state_dict({name: random_tensor(name, tensor.shape, generator)
                               for name, tensor in layer.state_dict().items()})
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    torch.save(colbert.state_dict(), folder / "colbert_linear.pt")
    save_modules(folder, 32, "cls", 96, normalize=True)
    save_prompts(folder, {})

    model = hidden_state(AutoModel.from_pretrained(folder, **EAGER).eval())
    embedder = Embedder(folder, model, 96)
    golden = embedder.golden("xlm-roberta", "cls", True, fairseq=True)
    check_sentence_transformers(folder, golden)
    tokenizer = embedder.tokenizer
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
              tokenizer.unk_token_id}
    for index, row in enumerate(golden["cases"]):
        input_ids, hidden = embedder.forward(row["text"])
        with torch.no_grad():
            weights = torch.relu(sparse(hidden)).squeeze(1)
            vectors = normalize(colbert(hidden[1:]), dim=1)
        row["sparse"] = sparse_of(lexical_weights(weights, input_ids, unused))
        if index < FEW or row["text"] == golden["cases"][-1]["text"]:
            row["multi_vector"] = rows_of(vectors)
    golden["heads"] = ["dense", "sparse", "multi_vector"]
    write_golden(folder, {**golden, "unused_token_ids": sorted(unused), "width": 32})


def splade(folder):
    """naver/splade-v3: BERT's masked language model, the largest log(1 + relu) over the tokens."""
    size = save_bert(tokenizer_case(96, "uncased"), folder)
    set_max_length(folder, 96)
    model = randomise(BertForMaskedLM(BertConfig(
        vocab_size=size, max_position_embeddings=96, **SIZES
    )), 23)
    with torch.no_grad():
        # The decoder is tied to the small embeddings; so most logits are below 0, as in SPLADE.
        model.cls.predictions.transform.LayerNorm.weight *= 6.0
        model.cls.predictions.bias -= 2.0
    model.save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    finish_splade(folder, "bert", size)


def distilbert_splade(folder):
    """opensearch-neural-sparse-encoding-doc-v2-distill: DistilBERT's masked language model."""
    size = save_bert(tokenizer_case(64), folder)
    set_max_length(folder, 64)
    model = randomise(DistilBertForMaskedLM(DistilBertConfig(
        vocab_size=size, max_position_embeddings=64, dim=32, n_heads=4, n_layers=2, hidden_dim=64,
        dropout=0.0, attention_dropout=0.0,
    )), 28)
    with torch.no_grad():
        model.vocab_layer_norm.weight *= 6.0
        model.vocab_projector.bias -= 2.0
    model.save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    finish_splade(folder, "distilbert", size, 64)


def modernbert_splade(folder):
    """ModernBERT's masked language model: its head, then the embeddings with a bias."""
    ids, size = save_modernbert(folder, 96)
    model = randomise(ModernBertForMaskedLM(ModernBertConfig(
        vocab_size=size, max_position_embeddings=96, global_attn_every_n_layers=3,
        local_attention=16, **modernbert_ids(ids), hidden_size=32, num_attention_heads=2,
        num_hidden_layers=3, intermediate_size=48,
    )), 29)
    with torch.no_grad():
        model.head.norm.weight *= 6.0
        model.decoder.bias -= 2.0
    model.save_pretrained(folder)
    rewrite(folder / "config.json", modernbert_config)
    finish_splade(folder, "modernbert", size)


def finish_splade(folder, architecture, size, max_tokens=96):
    """What SPLADE needs beside a masked language model, and the golden file."""
    kind = "sentence_transformers.sparse_encoder.models"
    save_module_list(folder, [("", f"{kind}.MLMTransformer"),
                              ("1_SpladePooling", f"{kind}.SpladePooling")])
    write_json(folder / "1_SpladePooling/config.json", {
        "pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": size,
    })
    write_json(folder / "sentence_bert_config.json",
               {"max_seq_length": max_tokens, "do_lower_case": False})
    save_prompts(folder, {"query": "", "document": ""}, similarity_fn_name="dot",
                 model_type="SparseEncoder")
    encoder = SparseEncoder(str(folder), device="cpu")
    assert encoder.max_seq_length == max_tokens
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = []
    for text in texts():
        vector = encoder.encode(text, convert_to_tensor=True).to_dense()
        ids = vector.nonzero().flatten().tolist()
        input_ids = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
        row = {"text": text, "n_tokens": len(input_ids), "input_ids": input_ids}
        cases.append({**row, "sparse": {"ids": ids, "weights": digits(vector[ids])}})
    print(f"  {sorted(len(row['sparse']['ids']) for row in cases)} of {size} ids have a weight")
    write_golden(folder, header(folder.name, architecture, ["sparse"], max_tokens,
                                pooling="splade_max", dimension=size, cases=cases))


# What colbert-ir/colbertv2.0 says in `artifact.metadata`, with shorter texts.
COLBERT = {
    "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]",
    "doc_token": "[D]", "query_maxlen": 16, "doc_maxlen": 64, "dim": 24, "similarity": "cosine",
    "mask_punctuation": True, "attend_to_mask_tokens": False,
}


class ColBert:
    """Khattab and Zaharia, "ColBERT", 2020, as its own code tokenizes."""

    def __init__(self, folder, linear):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bert = AutoModel.from_pretrained(folder, **EAGER).eval()
        self.linear = linear
        self.marker = {name: self.tokenizer.convert_tokens_to_ids(COLBERT[f"{name}_token_id"])
                       for name in ("query", "doc")}
        points = [self.tokenizer.encode(mark, add_special_tokens=False)[0]
                  for mark in string.punctuation]
        self.punctuation = set(points)

    def ids(self, text, marker, max_tokens):
        """The marker goes in after [CLS], and counts."""
        found = self.tokenizer(text, truncation=True, max_length=max_tokens - 1)["input_ids"]
        return [found[0], self.marker[marker], *found[1:]]

    def vectors(self, input_ids, mask):
        inputs = {"input_ids": torch.tensor([input_ids]), "attention_mask": torch.tensor([mask])}
        with torch.no_grad():
            hidden = self.bert(**inputs).last_hidden_state[0]
            return normalize(hidden @ self.linear.T, dim=1)

    def document(self, text):
        ids = self.ids(text, "doc", COLBERT["doc_maxlen"])
        vectors = self.vectors(ids, [1] * len(ids))
        kept = [place for place, id in enumerate(ids) if id not in self.punctuation]
        return {"input_ids": ids, "kept": kept, "multi_vector": rows_of(vectors[kept])}

    def query(self, text):
        """Filled up with [MASK], which ask the text but are not asked themselves."""
        ids = self.ids(text, "query", COLBERT["query_maxlen"])
        missing = COLBERT["query_maxlen"] - len(ids)
        filled = [*ids, *[self.tokenizer.mask_token_id] * missing]
        plain, augmented = (self.vectors(ids, [1] * len(ids)),
                            self.vectors(filled, [1] * len(ids) + [0] * missing))
        assert (augmented[: len(ids)] - plain).abs().max() < 1e-5
        return {"input_ids": ids, "multi_vector": rows_of(plain),
                "augmented_input_ids": filled, "augmented": rows_of(augmented)}


def colbert(folder):
    """colbert-ir/colbertv2.0: HF_ColBERT, a BERT under `bert.` and `linear.weight`."""
    case = tokenizer_case(96)
    case.unused = 2
    size = save_bert(case, folder)
    set_max_length(folder, 96)
    config = BertConfig(vocab_size=size, max_position_embeddings=96, **SIZES)
    bert = randomise(BertModel(config), 24)
    generator = torch.Generator().manual_seed(25)
    linear = random_tensor("linear.weight", (COLBERT["dim"], 32), generator)
    tensors = {f"bert.{name}": tensor for name, tensor in bert.state_dict().items()
               if "position_ids" not in name}
    config.architectures = ["HF_ColBERT"]
    config.save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    save_tensors(folder, {**tensors, "linear.weight": linear})
    write_json(folder / "artifact.metadata", COLBERT)
    model = ColBert(folder, linear)
    cases = [{"text": text, "document": model.document(text), "query": model.query(text)}
             for text in [*texts()[:10:2], *texts()[3:12:4], texts()[-1]]]
    write_golden(folder, header(folder.name, "bert", ["multi_vector"], 96, width=COLBERT["dim"],
                                query_marker_id=model.marker["query"],
                                doc_marker_id=model.marker["doc"], cases=cases))


def dense_after_pooling(folder, like):
    """sentence-transformers/LaBSE (`tanh`: a bias, then Normalize) or gtr-t5's and stella's form
    (`identity`: no bias, and what Matryoshka training and prompts leave in the configs)."""
    tanh = like == "tanh"
    width = 32 if tanh else 48
    size = save_bert(tokenizer_case(96, "uncased"), folder)
    set_max_length(folder, 96)
    config = BertConfig(vocab_size=size, max_position_embeddings=96, **SIZES)
    randomise(BertModel(config), 2).save_pretrained(folder)
    rewrite(folder / "config.json", old_dtype)
    pooling = "cls" if tanh else "mean"
    save_modules(folder, 32, pooling, 96)
    name = "tanh" if tanh else "identity"
    activation = {"tanh": "torch.nn.modules.activation.Tanh",
                  "identity": "torch.nn.modules.linear.Identity"}[name]
    write_json(folder / "2_Dense/config.json", {
        "in_features": 32, "out_features": width, "bias": tanh, "activation_function": activation,
    })
    layer = torch.nn.Linear(32, width, bias=tanh)
    generator = torch.Generator().manual_seed(27)
    layer.load_state_dict({f"{name}": random_tensor(f"linear.{name}", tensor.shape, generator)
                           for name, tensor in layer.state_dict().items()})
    with torch.no_grad():
        layer.weight *= 0.5
    state = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
    if tanh:
        save_tensors(folder / "2_Dense", state)
        steps = [("3_Normalize", "Normalize")]
        save_prompts(folder, {})
    else:
        torch.save(state, folder / "2_Dense/pytorch_model.bin")
        rewrite(folder / "config.json", lambda it: {**it, "matryoshka_dimensions": [12, 24, 48]})
        prompts = {"query": "query: ", "passage": "document: "}
        save_prompts(folder, prompts, default="query", similarity_fn_name="cosine")
        steps = []
    kind = "sentence_transformers.models"
    save_module_list(folder, [("", f"{kind}.Transformer"), ("1_Pooling", f"{kind}.Pooling"),
                              ("2_Dense", f"{kind}.Dense"),
                              *[(path, f"{kind}.{name}") for path, name in steps]])

    embedder = Embedder(folder, hidden_state(AutoModel.from_pretrained(folder, **EAGER).eval()), 96)
    golden = embedder.golden("bert", pooling, tanh)

    def after(pooled):
        with torch.no_grad():
            out = layer(torch.tensor(pooled))
        return torch.tanh(out) if tanh else out

    golden["cases"] = [dense_row(row["text"], row["input_ids"], after(row["pooled"]))
                       for row in golden["cases"]]
    golden |= {"dimension": width, "dense_module": {"activation": activation, "bias": tanh}}
    write_golden(folder, golden)
    report(golden)
    other = check_sentence_transformers(folder, golden)
    if tanh:
        return
    prompted = []
    for prompt_name in ("query", "passage"):
        prompt = other.prompts[prompt_name]
        for text in texts()[1::4]:
            row = embedder.row(prompt + text, "mean")
            row = dense_row(text, row["input_ids"], after(row["pooled"]))
            found = other.encode(text, prompt_name=prompt_name, convert_to_tensor=True)
            assert (found - torch.tensor(row["pooled"])).abs().max() < 1e-5
            prompted.append({"prompt_name": prompt_name, "prompt": prompt, **row})
    default = other.encode(texts()[1], convert_to_tensor=True)
    assert (default - torch.tensor(prompted[0]["pooled"])).abs().max() < 1e-5
    short = other.encode(texts()[1], prompt="", convert_to_tensor=True, truncate_dim=12)
    assert (short - torch.tensor(golden["cases"][1]["pooled"])[:12]).abs().max() < 1e-5
    write_golden(folder, {**golden, "default_prompt_name": "query",
                          "matryoshka_dimensions": [12, 24, 48], "prompted": prompted})


if __name__ == "__main__":
    makers = {
        "bge-m3-tiny": bge_m3,
        "splade-tiny": splade,
        "distilbert-tiny-splade": distilbert_splade,
        "modernbert-tiny-splade": modernbert_splade,
        "colbert-tiny": colbert,
        "bert-tiny-dense-tanh": lambda folder: dense_after_pooling(folder, "tanh"),
        "bert-tiny-dense-identity": lambda folder: dense_after_pooling(folder, "identity"),
    }
    run(makers, __doc__)
