"""Makes `tests/golden/torch`: small files of `torch.save`, and the same tensors as safetensors.

    .venv/bin/python tests/golden/make_torch_files.py

`state.bin` is the state dictionary of a module (which brings PyTorch's `_metadata`) with every type
of number, a tied weight, a view into a larger storage, and a `Parameter`. `legacy.bin` and
`transposed.bin` are what a reader has to refuse.

Made with Python 3.11, torch 2.15.0, safetensors 0.8.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from reference import be_deterministic


def state():
    """-> the state dictionary; values are seeded."""
    torch.manual_seed(5)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    tensors = module.state_dict()
    storage = torch.randn(40)
    tensors["view"] = storage[8:20].view(3, 4)
    tensors["tied"] = tensors["0.weight"]
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 1, 3))
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 7)
    tensors["half"] = torch.randn(5, 2).half()
    tensors["brain"] = torch.randn(5, 2).bfloat16()
    tensors["double"] = torch.randn(3).double()
    tensors["position_ids"] = torch.arange(6).expand(1, -1)
    tensors["int"] = torch.tensor([1, -2], dtype=torch.int32)
    tensors["short"] = torch.tensor([300, -2], dtype=torch.int16)
    tensors["char"] = torch.tensor([1, -2], dtype=torch.int8)
    tensors["byte"] = torch.tensor([1, 255], dtype=torch.uint8)
    tensors["bool"] = torch.tensor([True, False, True])
    return tensors


def main():
    be_deterministic(threads=1)
    folder = Path(__file__).parent / "torch"
    folder.mkdir(exist_ok=True)
    tensors = state()
    torch.save(tensors, folder / "state.bin")
    # A safetensors file has no tied tensors.
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "state.safetensors")
    weight = {"weight": torch.arange(6.0).view(2, 3)}
    torch.save(weight, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"weight": weight["weight"].T}, folder / "transposed.bin")
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
