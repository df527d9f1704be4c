"""Makes the tiny decoders of `tests/golden/generators` that continue texts: Llama, Qwen2, Qwen3
and Mistral.

    .venv/bin/python tests/golden/make_generators.py [--only NAME]

Weights are random but seeded. Reference: transformers in float32 on what the files hold, one
prompt at a time, every step from the beginning without a cache.
"""

import torch
from transformers import (
    AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

from reference import digits
from tiny_models import header, randomise, rewrite, run, write_golden
from tiny_tokenizers import save_qwen

POSITIONS = 128
NEW_TOKENS = 24
EAGER = {"dtype": torch.float32, "attn_implementation": "eager"}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
         "num_hidden_layers": 3, "intermediate_size": 64}
# Ids below the special tokens; the last prompt fills most of the context.
LENGTHS = [1, 2, 5, 16, 17, 33, 90]


def prompts(size):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, size - 8, (length,), generator=generator).tolist()
            for length in LENGTHS]


def case(model, prompt, limit, size):
    """What is the likeliest each time, and the logits after the prompt and at the end. Rows that
    only fill a table up have none."""
    ids = list(prompt)
    first = None
    while len(ids) < min(len(prompt) + NEW_TOKENS, limit):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, :size]
        first = logits if first is None else first
        best, second = logits.topk(2).values.tolist()
        assert best - second > 1e-4, "the reference cannot decide, take another seed"
        ids.append(int(logits.argmax()))
    return {"prompt": prompt, "continued": ids[len(prompt):], "first_logits": digits(first),
            "last_logits": digits(logits)}


def save(folder, make, seed, limit=POSITIONS, change=None):
    """`make(ids, size)` gives a model for so many tokens."""
    ids, size = save_qwen(folder, POSITIONS, ends=False)
    randomise(make(ids, size), seed).save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "eos_token_id": [%d, %d], "temperature": 0.6, "top_p": 0.95}\n'
        % (ids["<|im_end|>"], ids["<|endoftext|>"]), "utf-8")
    if change:
        rewrite(folder / "config.json", change)
    model = AutoModelForCausalLM.from_pretrained(folder, **EAGER).eval()
    cases = [case(model, prompt, limit, size) for prompt in prompts(size) if len(prompt) < limit]
    name = model.config.model_type
    write_golden(folder, {**header(folder.name, name, ["generate"], limit), "cases": cases})


def llama(folder):
    """Llama 3.2: a tied table, frequencies stretched as `llama3`, heads of another width, stored
    in bfloat16."""
    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
               "rope_theta": 10000.0}

    def make(ids, size):
        config = LlamaConfig(
            vocab_size=size, max_position_embeddings=POSITIONS, rope_parameters=scaling,
            tie_word_embeddings=True, head_dim=16, rms_norm_eps=1e-5,
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], **SIZES)
        return LlamaForCausalLM(config).to(torch.bfloat16)

    def old(config):
        """As transformers 4 wrote it."""
        config = {key: value for key, value in config.items() if key != "rope_parameters"}
        stretch = {key: value for key, value in scaling.items() if key != "rope_theta"}
        return {**config, "rope_scaling": stretch, "rope_theta": 10000.0, "pretraining_tp": 1}

    save(folder, make, 31, change=old)


def qwen2(folder):
    """Qwen2.5: biases of queries, keys and values, a table of its own for logits, more rows in both
    than there are tokens, frequencies stretched by YaRN."""
    def make(ids, size):
        config = Qwen2Config(
            vocab_size=size + 12, max_position_embeddings=POSITIONS, tie_word_embeddings=False,
            rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000000.0,
                             "original_max_position_embeddings": 32},
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], **SIZES)
        return Qwen2ForCausalLM(config)
    save(folder, make, 32)


def qwen3(folder):
    """Qwen3: norms of queries and keys, heads of 12 numbers though 32/4 is 8."""
    def make(ids, size):
        config = Qwen3Config(
            vocab_size=size, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
            head_dim=12, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], **SIZES)
        return Qwen3ForCausalLM(config)
    save(folder, make, 33)


def mistral(folder):
    """Mistral 7B v0.1: a window, shorter than the positions."""
    def make(ids, size):
        config = MistralConfig(
            vocab_size=size, max_position_embeddings=POSITIONS, sliding_window=64,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], **SIZES)
        return MistralForCausalLM(config)
    save(folder, make, 34, limit=64)


if __name__ == "__main__":
    run({"llama-tiny-generate": llama, "qwen2-tiny-generate": qwen2,
         "qwen3-tiny-generate": qwen3, "mistral-tiny-generate": mistral},
        __doc__, into="generators")
