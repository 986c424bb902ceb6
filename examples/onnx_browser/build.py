"""Put the page together: its own files, ONNX Runtime's from npm, and a model that can be tuned.

    python examples/onnx_browser/build.py
    python -m http.server -d examples/onnx_browser/site

Needs tinyzo, and once Node's npm, which fetches onnxruntime-web. Nothing is compiled.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
# The page's learning rate: of few rows a step, and of few steps.
EXPORT = ("export", "--format", "onnx", "--train", "lora-fa", "--queries", "4", "--lr", "0.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", nargs="?", type=Path, default=HERE / "site")
    parser.add_argument("--model", default="opt-tiny", help="a folder, or a model that ships")
    parser.add_argument("--task", default="topics", help="topics or reviews, which ship")
    given = parser.parse_args()
    if not RUNTIME.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("npm is not here: it comes with Node.js, and fetches onnxruntime-web")
        subprocess.run([npm, "ci"], cwd=HERE, check=True)
    if (given.output / "worker.js").exists():  # built before
        shutil.rmtree(given.output)
    shutil.copytree(HERE / "page", given.output)
    (given.output / "ort").mkdir()
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / name, given.output / "ort")
    model = ("--model", given.model, "--task", given.task, "--output", given.output / "model")
    subprocess.run([sys.executable, "-m", "tinyzo", *EXPORT, *model], check=True)
    print(f"python -m http.server -d {given.output}    serves it on http://localhost:8000")


if __name__ == "__main__":
    main()
