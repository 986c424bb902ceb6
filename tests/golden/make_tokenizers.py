"""Writes tokenizers.json: the ids that transformers gives for the folders of tokenizer_folders.py.

    PYTHONPATH=. python tests/golden/make_tokenizers.py    # with transformers 4, then 5; not in CI

Each version writes its own part and leaves the other's. `answers` has every list of ids once.
A folder has its number of items, and the places in `answers` of the ids of each text, and last of
the first text with what is put around it; null where transformers cannot read the folder. Half
surrogate pairs are not in it: transformers refuses them. Written with transformers 4.57.6
(tokenizers 0.22.2) and 5.24.0 (0.23.3), by AutoTokenizer at its defaults.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import transformers

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "text"))

from tokenizer_folders import FOLDERS, TEXTS, Files, write_folder  # noqa: E402 (the path first)

GOLDEN = HERE / "tokenizers.json"
Answer = tuple[int, list[list[int]]]  # the number of items, and ids


def ask(files: Files) -> Answer | None:
    with tempfile.TemporaryDirectory() as directory:
        write_folder(Path(directory), files)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        except BaseException as error:  # a panic of the Rust part is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            return None
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        return len(tokenizer), [*ids, tokenizer(TEXTS[0])["input_ids"]]


def read_golden() -> dict[str, dict[str, Answer | None]]:
    """version -> folder -> what that version answered"""
    if not GOLDEN.is_file():
        return {}
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    answers = golden["answers"]
    return {
        version: {
            name: found and (found[0], [answers[place] for place in found[1:]])
            for name, found in folders.items()
        }
        for version, folders in golden["versions"].items()
    }


def write_golden(versions: dict[str, dict[str, Answer | None]]) -> None:
    places: dict[str, int] = {}
    lines = []
    for version, folders in versions.items():
        rows = []
        for name, found in folders.items():
            row = found and [found[0], *(places.setdefault(str(i), len(places)) for i in found[1])]
            rows.append(f"{json.dumps(name)}: {json.dumps(row)}")
        lines.append(f"{json.dumps(version)}: {{\n" + ",\n".join(rows) + "\n}")
    text = '{"answers": [\n' + ",\n".join(places) + '\n],\n"versions": {\n' + ",\n".join(lines)
    GOLDEN.write_text(text + "\n}}\n", encoding="utf-8")


def main() -> None:
    transformers.logging.set_verbosity(50)
    version = transformers.__version__.partition(".")[0]
    answers = {name: ask(files) for name, files in FOLDERS.items()}
    write_golden(dict(sorted((read_golden() | {version: answers}).items())))


if __name__ == "__main__":
    main()
