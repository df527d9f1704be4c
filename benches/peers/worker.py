"""One peer, driven by the benchmark: `worker.py PEER FOLDER`

Every line of standard input is a task, every line of standard output its result, both JSON. A task is
`{"clients": n, "calls": [...]}`: each call once, at most `clients` at a time. A call is a list of texts,
or `{"query": ..., "documents": [...]}`. A result has `seconds`, `latencies` (seconds, in the order of
the calls), `cpu_seconds`, `peak_bytes`, and `sample`: the vector of the first text, or the scores.
"""

import asyncio
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy

CORES = os.cpu_count() or 1


class FastEmbed:
    def __init__(self, folder: Path, file: str):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType
        from fastembed.rerank.cross_encoder import TextCrossEncoder

        name = f"local/{folder.name}"
        source = ModelSource(hf=name)
        options = {"threads": CORES, "specific_model_path": str(folder)}
        if folder.name == "cross-encoder":
            TextCrossEncoder.add_custom_model(name, source, model_file=file)
            self.reranker = TextCrossEncoder(name, **options)
        else:
            config = json.loads((folder / "config.json").read_text())
            TextEmbedding.add_custom_model(
                name, PoolingType.MEAN, True, source, config["hidden_size"], model_file=file
            )
            self.embedder = TextEmbedding(name, **options)

    def embed(self, texts):
        return list(self.embedder.embed(texts, batch_size=32))

    def rerank(self, query, documents):
        return list(self.reranker.rerank(query, documents, batch_size=32))


class SentenceTransformers:
    def __init__(self, folder: Path, dtype: str):
        import torch
        from sentence_transformers import CrossEncoder, SentenceTransformer

        torch.set_num_threads(CORES)
        options = {"device": "cpu", "model_kwargs": {"dtype": getattr(torch, dtype)}}
        self.identity = torch.nn.Identity()
        kind = CrossEncoder if folder.name == "cross-encoder" else SentenceTransformer
        self.model = kind(str(folder), **options)

    def embed(self, texts):
        # numpy has no bfloat16.
        vectors = self.model.encode(
            texts, batch_size=32, show_progress_bar=False, convert_to_tensor=True, normalize_embeddings=True
        )
        return vectors.float().numpy()

    def rerank(self, query, documents):
        pairs = [(query, document) for document in documents]
        scores = self.model.predict(
            pairs,
            batch_size=32,
            show_progress_bar=False,
            convert_to_tensor=True,
            activation_fn=self.identity,
        )
        return scores.float().numpy()


class OnnxRuntime:
    """What people write themselves: padding to the longest text, the default session."""

    def __init__(self, folder: Path, file: str):
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = CORES
        self.session = onnxruntime.InferenceSession(
            str(folder / file), options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(512)

    def run(self, inputs):
        encodings = self.tokenizer.encode_batch(inputs)
        mask = numpy.array([e.attention_mask for e in encodings])
        feeds = {
            "input_ids": numpy.array([e.ids for e in encodings]),
            "attention_mask": mask,
            "token_type_ids": numpy.array([e.type_ids for e in encodings]),
        }
        return self.session.run(None, feeds)[0], mask

    def embed(self, texts):
        vectors = []
        for at in range(0, len(texts), 32):
            hidden, mask = self.run(texts[at : at + 32])
            mask = mask[..., None].astype(numpy.float32)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors.extend(mean / numpy.linalg.norm(mean, axis=1, keepdims=True))
        return vectors

    def rerank(self, query, documents):
        scores = []
        for at in range(0, len(documents), 32):
            scores.extend(self.run([(query, d) for d in documents[at : at + 32]])[0][:, 0])
        return scores


class Infinity:
    """Its engine in this process, batching on its own; HTTP would only cost it."""

    def __init__(self, folder: Path, engine: str):
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        self.loop = asyncio.new_event_loop()
        self.engine = AsyncEmbeddingEngine.from_args(
            EngineArgs(
                model_name_or_path=str(folder),
                engine=engine,
                device="cpu",
                dtype="float32",
                batch_size=32,
                model_warmup=False,
                # Its kernels need a PyTorch that still has them.
                bettertransformer=False,
                lengths_via_tokenize=True,
            )
        )
        self.loop.run_until_complete(self.engine.astart())

    async def call(self, call):
        if isinstance(call, dict):
            results, _ = await self.engine.rerank(
                query=call["query"], docs=call["documents"], raw_scores=True
            )
            scores = [0.0] * len(results)
            for result in results:
                scores[result.index] = result.relevance_score
            return scores
        return (await self.engine.embed(sentences=call))[0]

    def all(self, calls, clients):
        async def timed(call, free):
            async with free:
                started = time.perf_counter()
                result = await self.call(call)
                return time.perf_counter() - started, result

        async def together():
            free = asyncio.Semaphore(clients)
            return await asyncio.gather(*(timed(call, free) for call in calls))

        return self.loop.run_until_complete(together())


PEERS = {
    "fastembed fp32": lambda folder: FastEmbed(folder, "model.onnx"),
    "fastembed int8": lambda folder: FastEmbed(folder, "model_quantized.onnx"),
    "sentence-transformers fp32": lambda folder: SentenceTransformers(folder, "float32"),
    "sentence-transformers bf16": lambda folder: SentenceTransformers(folder, "bfloat16"),
    "onnxruntime fp32": lambda folder: OnnxRuntime(folder, "model.onnx"),
    "onnxruntime int8": lambda folder: OnnxRuntime(folder, "model_quantized.onnx"),
    "infinity torch fp32": lambda folder: Infinity(folder, "torch"),
}


def timed(peer, call):
    started = time.perf_counter()
    if isinstance(call, dict):
        result = peer.rerank(call["query"], call["documents"])
    else:
        result = peer.embed(call)
    return time.perf_counter() - started, result


def run(peer, pools, task):
    calls, clients = task["calls"], task["clients"]
    used, started = time.process_time(), time.perf_counter()
    if isinstance(peer, Infinity):
        results = peer.all(calls, clients)
    elif clients == 1:
        results = [timed(peer, call) for call in calls]
    else:
        pool = pools.setdefault(clients, ThreadPoolExecutor(clients))
        results = list(pool.map(lambda call: timed(peer, call), calls))
    seconds = time.perf_counter() - started
    first = results[0][1]
    sample = first if isinstance(calls[0], dict) else first[0]
    return {
        "seconds": seconds,
        "latencies": [latency for latency, _ in results],
        "cpu_seconds": time.process_time() - used,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "sample": [float(value) for value in sample],
    }


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    # Libraries print to standard output; the results must stand there alone.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer, pools = PEERS[name](folder), {}
    print(json.dumps({"ready": True}), file=results, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(peer, pools, json.loads(line))), file=results, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    main()
