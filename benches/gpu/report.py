"""Puts what the stages have left in a folder together: results.json and table.md, which is also
printed. Says of every stage that has nothing why; ends with 1 when a check was not passed, with 3 when
no stage could run.

    python report.py DIR STAGE...
"""

import json
import sys
from pathlib import Path

# A layer of XLM-RoBERTa large multiplies 12 · 1024² weights with each token; 24 layers.
OPERATIONS_PER_TOKEN = 2 * 24 * 12 * 1024**2
# Attention on top: two products of 512 × 1024 per token and layer.
OPERATIONS_OF_ATTENTION_512 = 2 * 2 * 24 * 512 * 1024


def read(folder, stage):
    path = folder / f"{stage}.json"
    log = folder / f"{stage}.log"
    try:
        return json.loads(path.read_text().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return {"skipped": said[-1] if said else "it left nothing"}


def derived(stages):
    """What the issue asks for, of what was measured in the same run."""
    values = {row["name"]: row["value"] for stage in stages.values() for row in stage.get("rows", [])
              if "value" in row}
    ceiling = next((value for name, value in values.items() if name.startswith("matmul float16")), None)
    rows = []

    def ratio(name, above, below):
        if above in values and values.get(below):
            rows.append({"name": name, "value": values[above] / values[below], "unit": "×"})

    operations = OPERATIONS_PER_TOKEN + OPERATIONS_OF_ATTENTION_512
    for name in ("packed 512 tokens", "HTTP 512 tokens"):
        if ceiling and name in values:
            share = values[name] * operations / 1e12 / ceiling * 100
            rows.append({"name": f"{name}, share of the matmul ceiling", "value": share, "unit": "%"})
    ratio("packed over transformers, 32 tokens", "packed 32 tokens", "transformers 32 tokens")
    ratio("packed over transformers, natural mix as they come", "packed natural mix",
          "transformers natural mix, batches of 32, as they come")
    ratio("packed over a given padded .onnx, natural mix", "packed natural mix", "onnx natural mix")
    return rows


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(stages):
    lines, failures = [], []
    for name, stage in stages.items():
        seconds = f", {stage['seconds']} s" if "seconds" in stage else ""
        lines += ["", f"### {name}{seconds}", ""]
        if "skipped" in stage:
            lines.append(f"**SKIPPED**: {stage['skipped']}")
            continue
        lines += ["| what | result |", "|---|---|"]
        for row in stage.get("rows", []):
            if "value" in row:
                result = "—" if row["value"] is None else f"{number(row['value'])} {row['unit']}"
            else:
                result = f"{'passed' if row['good'] else '**FAILED**'}: {row['told']}"
                if not row["good"]:
                    failures.append(f"{name}: {row['name']}: {row['told']}")
            lines.append(f"| {row['name']} | {result} |")
    return lines, failures


def main():
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    stages = {name: read(folder, name) for name in names}
    ran = [name for name, stage in stages.items() if "skipped" not in stage]
    if found := derived(stages):
        stages["derived"] = {"rows": found}
    lines, failures = table(stages)
    text = "\n".join(lines[1:]) + "\n"
    (folder / "results.json").write_text(json.dumps(stages, indent=1) + "\n")
    (folder / "table.md").write_text(text)
    print(text)
    print(f"{len(ran)} stages ran, {len(names) - len(ran)} stepped aside, {len(failures)} checks failed")
    for failure in failures:
        print(f"FAILED {failure}")
    if not ran:
        print("NOTHING WAS PROVEN: no stage could run here")
    sys.exit(1 if failures else 0 if ran else 3)


if __name__ == "__main__":
    main()
