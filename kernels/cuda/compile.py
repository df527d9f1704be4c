"""Compiles the kernels to PTX: python compile.py FOLDER (needs the wheel nvidia-cuda-nvrtc).

The text depends on the compiler's version, so the one that the committed files were made with is
asked for: pip install nvidia-cuda-nvrtc==13.0.88. The virtual architecture is the oldest that
this compiler and ONNX Runtime's CUDA build know; the driver translates it for the device.
"""

import ctypes
import sys
from importlib.metadata import files
from pathlib import Path

PACKAGE = "nvidia-cuda-nvrtc-cu12"
SOURCES = Path(__file__).parent
OPTIONS = [b"--gpu-architecture=compute_75", b"--std=c++17"]


def library():
    """NVRTC, from the wheel that this Python has."""
    found = [file for file in files(PACKAGE) or [] if "nvrtc" in file.name and ".so" in file.name]
    # What it opens by name while it compiles is not on the library path, so it is opened here.
    for file in found:
        if "builtins" in file.name:
            ctypes.CDLL(str(file.locate()))
    for file in found:
        if file.name.startswith("libnvrtc.so"):
            return ctypes.CDLL(str(file.locate()))
    raise SystemExit(f"error: {PACKAGE} has no library for this system")


def check(nvrtc, status, what):
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise SystemExit(f"error: {what}: {nvrtc.nvrtcGetErrorString(status).decode()}")


def text(nvrtc, program, kind):
    size = ctypes.c_size_t()
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)), kind)
    buffer = ctypes.create_string_buffer(size.value)
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer), kind)
    return buffer.value.decode()


def compile_source(nvrtc, source):
    headers = sorted(SOURCES.glob("*.cuh"))
    contents = (ctypes.c_char_p * len(headers))(*[header.read_bytes() for header in headers])
    names = (ctypes.c_char_p * len(headers))(*[header.name.encode() for header in headers])
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program),
        source.read_bytes(),
        source.name.encode(),
        len(headers),
        contents,
        names,
    )
    check(nvrtc, status, source.name)
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    status = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
    log = text(nvrtc, program, "ProgramLog").strip()
    if log:
        print(log, file=sys.stderr)
    check(nvrtc, status, source.name)
    return text(nvrtc, program, "PTX")


def main():
    folder = Path(sys.argv[1])
    nvrtc = library()
    for source in sorted(SOURCES.glob("*.cu")):
        folder.joinpath(source.stem + ".ptx").write_text(compile_source(nvrtc, source))


main()
