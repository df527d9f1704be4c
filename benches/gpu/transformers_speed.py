"""The card's own ceilings and transformers (fp16, SDPA) on the same checkpoints, lengths and batches.
Prints one object of JSON.

    python transformers_speed.py --models DIR --part ceilings|transformers [--device cuda]
"""

import argparse
import json
import time
from pathlib import Path

import torch

LENGTHS = [32, 128, 512, 2048, 8192]


class Clock:
    def __init__(self, device, seconds):
        self.device, self.seconds = device, seconds

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def per_second(self, work):
        """How often work can be done in a second; it is done three times before."""
        for _ in range(3):
            work()
        self.wait()
        runs, started = 0, time.perf_counter()
        while time.perf_counter() - started < self.seconds:
            for _ in range(4):
                work()
            self.wait()
            runs += 4
        return runs / (time.perf_counter() - started)


def row(name, value, unit):
    return {"name": name, "value": value, "unit": unit}


def ceilings(clock, options):
    rows = []
    side = 8192 if clock.device == "cuda" else 512
    for dtype in (torch.float16, torch.bfloat16):
        a = torch.randn(side, side, device=clock.device).to(dtype)
        b = torch.randn(side, side, device=clock.device).to(dtype)
        rate = clock.per_second(lambda: torch.matmul(a, b)) * 2 * side**3 / 1e12
        rows.append(row(f"matmul {str(dtype)[6:]} {side}³", rate, "TFLOP/s"))
    numbers = torch.empty((1 << 29) if clock.device == "cuda" else (1 << 22), dtype=torch.uint8,
                          device=clock.device)
    other = torch.empty_like(numbers)
    rate = clock.per_second(lambda: other.copy_(numbers)) * 2 * numbers.numel() / 1e9
    rows.append(row("copy within the device, read and written", rate, "GB/s"))
    if clock.device == "cuda":
        host = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=True)
        part = numbers[: host.numel()]
        rate = clock.per_second(lambda: part.copy_(host, non_blocking=True)) * host.numel() / 1e9
        rows.append(row("copy from pinned host memory", rate, "GB/s"))
    return rows


def load(kind, folder, device):
    import transformers

    model = getattr(transformers, kind).from_pretrained(
        folder, dtype=torch.float16 if device == "cuda" else torch.float32,
        attn_implementation="sdpa")
    return model.to(device).eval()


def batch(lengths, device):
    longest = max(lengths)
    ids = torch.ones(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for index, length in enumerate(lengths):
        ids[index, :length] = 4 + (torch.arange(length) * 29 + index * 31) % 500
        mask[index, :length] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.inference_mode()
def peers(clock, options):
    rows = []
    model = load("XLMRobertaModel", options.models / "m3", clock.device)
    longest = model.config.max_position_embeddings - 2
    for length in [length for length in LENGTHS if length <= longest]:
        inputs = batch([length] * max(options.batch_tokens // length, 1), clock.device)
        tokens = inputs["input_ids"].numel()
        rate = clock.per_second(lambda: model(**inputs)[0][:, 0]) * tokens
        rows.append(row(f"transformers {length} tokens", rate, "tokens/s"))
    mix = json.loads((options.models / "mix.json").read_text())
    for name, lengths in (("as they come", mix), ("sorted by length", sorted(mix))):
        batches = [batch(lengths[at:at + 32], clock.device) for at in range(0, len(lengths), 32)]
        rate = clock.per_second(lambda: [model(**inputs)[0][:, 0] for inputs in batches])
        rows.append(row(f"transformers natural mix, batches of 32, {name}", rate * sum(mix),
                        "tokens/s"))
    del model
    model = load("XLMRobertaForSequenceClassification", options.models / "rr", clock.device)
    inputs = batch([min(512, longest)] * 50, clock.device)
    rate = clock.per_second(lambda: model(**inputs)[0].cpu())
    rows.append(row(f"transformers reranks 50 documents of {min(512, longest)} tokens", 1e3 / rate,
                    "ms"))
    return rows


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--models", type=Path, required=True)
    arguments.add_argument("--part", choices=["ceilings", "transformers"], required=True)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--seconds", type=float, default=1.5)
    arguments.add_argument("--batch-tokens", type=int, default=16384)
    options = arguments.parse_args()
    clock = Clock(options.device, options.seconds)
    part = ceilings if options.part == "ceilings" else peers
    print(json.dumps({"rows": part(clock, options), "torch": torch.__version__,
                      "cuda": torch.version.cuda,
                      "card": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"}))


if __name__ == "__main__":
    main()
