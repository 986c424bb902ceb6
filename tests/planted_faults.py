"""Plants one fault after another in a copy of the tree; the tests that are named must see each.

    python tests/planted_faults.py [--only SUBSTRING]

A fault that they do not see is a missing test. All faults take some minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "*.pyc")
LONGEST = 300  # seconds that tests may take
# What Numba compiles, and must not with a fault into the cache that the other faults use: its own
# files into another, which takes long; what it shares with NumPy not at all.
COMPILED = tuple(
    f"engine/numba/{name}.py"
    for name in (
        *("amx", "bfmmla", "few", "gather", "groups", "kernels", "layers", "matmul", "matrix"),
        *("noise", "roofline", "softmax", "storage", "tensors", "vectors", "wide"),
    )
)
SHARED = ("engine/noise.py", "engine/gelu.py", "engine/moments.py")


class Fault(NamedTuple):
    """A fault, and who must see it.

    file:    in tinyzo/
    code:    what is replaced, which the file has once
    planted: what stands there then
    what:    the fault in words
    tests:   files of tests/, or single tests as pytest names them, with spaces between
    """

    file: str
    code: str
    planted: str
    what: str
    tests: str


FAULTS = (
    # -- what all rooms use
    Fault(
        "__init__.py",
        "sorted(globals().keys() | set(__all__))",
        "sorted(globals())",
        "lazy names are not listed",
        "test_api.py",
    ),
    Fault(
        "__main__.py",
        'exec("")',
        "pass",
        "an interrupt within an exec takes the exit code away",
        "cli/test_cli_processes.py::test_an_interrupt_within_an_exec_leaves_the_exit_code",
    ),
    Fault(
        "__main__.py",
        "sys.exit(main())",
        "main()",
        "the exit code is lost",
        "cli/test_cli_processes.py::test_a_full_disk",
    ),
    Fault(
        "errors.py",
        "exit_code = 2",
        "exit_code = 1",
        "wrong usage leaves with 1",
        "cli/test_cli_mistakes.py::test_every_mistake_is_one_line_a_hint_and_no_traceback",
    ),
    Fault(
        "dtypes.py",
        "0x7FFF + ((word >> 16) & 1)",
        "0x8000",
        "ties are not rounded to even",
        "test_dtypes.py",
    ),
    Fault(
        "batch.py",
        "before + rows[queries] - start",
        "rows[queries] - start",
        "a parent's tokens do not count in places",
        "test_batch.py",
    ),
    Fault(
        "system.py",
        "    sync(file)\n",
        "    pass\n",
        "no fsync before a file takes its name",
        "test_system.py",
    ),
    Fault(
        "parsing.py",
        "object_pairs_hook=each_name_once,",
        "",
        "a name may be there twice",
        "test_parsing.py",
    ),
    Fault(
        "system.py",
        "unfinished.callback(_remove, partial)",
        "",
        "a half-written file stays",
        "test_system.py::test_every_error_of_a_write_that_has_begun",
    ),
    Fault(
        "system.py",
        "if error.errno not in _HELD:",
        "if error.errno in _NO_LOCKS:",
        "any error of a lock is another process",
        "test_system.py::test_every_error_of_every_call",
    ),
    Fault(
        "system.py",
        "            old.rename(path)\n            raise",
        "            raise",
        "a renaming that fails in the middle loses the old file",
        "test_system.py::test_the_old_file_is_back_when_the_new_one_cannot_be_placed",
    ),
    Fault(
        "system.py",
        "    with _position:",
        "    if True:",
        "threads that share a file read at each other's places",
        "test_system.py::test_threads_read_one_file_without_preadv",
    ),
    Fault(
        "system.py",
        "    check_start(path, data[:START], kind, own)\n",
        "",
        "a page of HTML is taken for a configuration",
        "cli/test_cli_folders.py",
    ),
    Fault(
        "machine/cpus.py",
        "speed < start and ratio >= least",
        "speed < max(speeds.values())",
        "only the cores of the highest clock are fast",
        "machine/test_cpus.py",
    ),
    Fault(
        "machine/cpus.py",
        "math.ceil(",
        "math.floor(",
        "half a CPU of a quota is left unused",
        "machine/test_cpus.py",
    ),
    Fault(
        "machine/cgroups.py",
        "    while folder != mount.point:",
        "    while False:",
        "only a process's own group counts",
        "machine/test_cgroups.py::test_the_least_on_the_way_up_counts",
    ),
    Fault(
        "machine/cgroups.py",
        "max(0, used - _cache(group))",
        "used",
        "cached files count as used",
        "machine/test_cgroups.py",
    ),
    Fault(
        "machine/memory.py",
        'unit = 1 if sys.platform == "darwin" else 1024',
        "unit = 1024",
        "the peak of a Mac is 1,024 times too large",
        "machine/test_machine_memory.py::test_the_peak_has_the_unit_of_the_system",
    ),
    Fault(
        "machine/macos.py",
        '_first_number(about, "page size of")',
        "4096",
        "pages are of 4 KiB on every Mac",
        "machine/test_machine_memory.py::test_a_mac_says_its_memory_by_commands",
    ),
    Fault(
        "machine/windows.py",
        "SHARED = 1 | 2 | 4",
        "SHARED = 1 | 2",
        "an open file cannot be renamed",
        "machine/test_systems.py",
    ),
    # -- checkpoints
    Fault(
        "checkpoints/groups.py",
        "np.clip(np.rint(padded / step), -most, most)",
        "np.clip(np.trunc(padded / step), -most, most)",
        "codes are cut and not rounded",
        "checkpoints/test_files_of_groups.py::test_each_code_is_the_nearest_and_each_scale_is_of_the_largest",
    ),
    Fault(
        "checkpoints/groups.py",
        ".view(np.uint16) >= INFINITE",
        ".view(np.uint16) > INFINITE",
        "an infinite scale is taken",
        "checkpoints/test_files_of_groups.py::test_a_scale_that_is_none_is_refused",
    ),
    Fault(
        "checkpoints/safetensors.py",
        "if stop - start != info.nbytes:",
        "if stop - start < info.nbytes:",
        "a tensor may claim too many bytes",
        "checkpoints/test_safetensors.py::test_a_malformed_file_is_refused_by_both",
    ),
    Fault(
        "checkpoints/torch_bin.py",
        "used = max(info.nbytes, end)",
        "used = end",
        "a stride of 0 makes a tensor larger than its storage",
        "checkpoints/test_torch_bin.py::test_a_view_beyond_its_storage_is_refused",
    ),
    Fault(
        "checkpoints/torch_bin.py",
        "if path not in _GLOBALS:",
        "if module not in ('torch', 'torch._utils', 'collections'):",
        "only the module of a name is looked at",
        "checkpoints/test_torch_bin.py::test_other_names_of_modules_that_are_known_are_refused",
    ),
    Fault(
        "checkpoints/directory.py",
        "if stored != shape:",
        "if len(stored) != len(shape):",
        "a shape is not compared",
        "checkpoints/test_directory.py::test_other_tensors_are_refused_by_name",
    ),
    Fault(
        "checkpoints/layout.py",
        "shape[:1])",
        "shape[-1:])",
        "a bias is as wide as the input",
        "models/test_roberta.py::test_every_stage_agrees_with_transformers",
    ),
    Fault(
        "checkpoints/peft.py",
        "self.lora_alpha / math.sqrt(self.r)",
        "self.lora_alpha / self.r",
        "rslora without the root",
        "checkpoints/test_peft.py::test_logits_are_those_of_peft",
    ),
    Fault(
        "checkpoints/peft.py",
        "s / scale for m, s in scales.items() if s != scale",
        "1.0 for m, s in scales.items() if s != scale",
        "a module's own alpha is not used",
        "checkpoints/test_peft.py::test_a_scale_of_its_own_is_in_b",
    ),
    Fault(
        "checkpoints/directory.py",
        "for name, own in [*twins.items(), *((found[own], own) for own in shapes)]:",
        "for name, own in ((found[own], own) for own in shapes):",
        "the shape of a tied second name is not looked at",
        "checkpoints/test_directory.py::test_tied_tensors_may_have_either_name_or_both_but_not_two_values",
    ),
    Fault(
        "models/model.py",
        "names[own]), (adapter.source, copy)):",
        "names[own]), (base, names[own])):",
        "a tensor beside an adapter is not compared with the base's",
        "checkpoints/test_peft.py::test_tensors_of_the_base_may_lie_beside_if_they_are_unchanged",
    ),
    Fault(
        "checkpoints/torch_bin.py",
        "for _ in range(_MAX_OPCODES):",
        "while True:",
        "a pickle may have any number of opcodes",
        "checkpoints/test_torch_bin.py::test_a_pickle_of_more_opcodes_than_any_state_dict_is_stopped",
    ),
    Fault(
        "checkpoints/hub.py",
        'if not _NAME.fullmatch(name) or ".." in name or "--" in name:',
        "if not _NAME.fullmatch(name):",
        "a name may mean another's folder of the cache",
        "checkpoints/test_hub.py::test_other_names_are_paths",
    ),
    Fault(
        "checkpoints/sources.py",
        "start + part[0] <= whole[0]",
        "start + part[0] <= whole[0] + 1",
        "one row too many may be read",
        "checkpoints/test_safetensors.py::test_a_buffer_that_does_not_fit_is_a_shape_error",
    ),
    Fault(
        "unique.py",
        "def __reduce_ex__(",
        "def reduce(",
        "a copy of a model shares its weights",
        "test_unique.py",
    ),
    Fault(
        "checkpoints/sources.py",
        "if not self.is_compared:",
        "if self.is_compared:",
        "a file that somebody writes into is read on",
        "checkpoints/test_sources.py",
    ),
    Fault(
        "checkpoints/checksums.py",
        "np.flatnonzero(made != self._sums[at : at + len(made)])",
        "np.flatnonzero(made[:0])",
        "damaged rows are read",
        "checkpoints/test_checksums.py",
    ),
    Fault(
        "checkpoints/checksums.py",
        "math.gcd(words.shape[1], BYTES)",
        "1",
        "a checksum is of bytes, which another reader's is not",
        "checkpoints/test_checksums.py::test_the_sum_of_the_words",
    ),
    # -- text
    Fault(
        "text/tokenizer.py",
        "if len(ids) != 1:",
        "if not ids:",
        "a label word may be several tokens",
        "text/test_tokenizer.py::test_words_and_items_that_are_not_one_token",
    ),
    Fault(
        "text/bpe.py",
        "before.rstrip(WHITE_SPACE)",
        'before.rstrip(" ")',
        "<mask> swallows spaces only",
        "text/test_bpe.py::"
        "test_specials_are_cut_out_longest_first_and_swallow_white_space_on_their_left",
    ),
    Fault(
        "text/bpe.py",
        "self.preceding[after] = left",
        "pass",
        "the token after a merge keeps a neighbour that is gone",
        "text/test_bpe.py::test_a_word_as_long_as_a_file",
    ),
    Fault(
        "text/bpe.py",
        "for late in (False, True))",
        "for late in (True, False))",
        "normalized tokens are looked for first",
        "text/test_bpe.py::test_normalized_tokens_are_found_in_what_the_others_leave",
    ),
    Fault(
        "text/vocabulary.py",
        "if found != number:",
        "if False:",
        "an added token may have an id that transformers does not give it",
        "text/test_tokenizer_folders.py::test_what_is_refused",
    ),
    Fault(
        "text/vocabulary.py",
        "for text in _by_id(more) if",
        "for text in more if",
        "new tokens get their ids in the order of added_tokens.json",
        "text/test_tokenizer_folders.py::test_ids_as_transformers_gives_them",
    ),
    Fault(
        "text/tokenizer_settings.py",
        "return config | special",
        "return special | config",
        "tokenizer_config.json counts more than special_tokens_map.json",
        "text/test_tokenizer_folders.py::test_ids_as_transformers_gives_them",
    ),
    Fault(
        "text/tokenizer_files.py",
        "if lines.pop():",
        "if False:",
        "a merge without a line end is lost without a word",
        "text/test_tokenizer_folders.py::test_what_is_refused",
    ),
    Fault(
        "text/datasets.py",
        "group[k : 2 * k]",
        "group[:k]",
        "the dev rows are the training rows",
        "text/test_datasets.py",
    ),
    Fault(
        "text/tasks.py",
        "max(0, 1 + split + room - self.max_length)",
        "max(0, split + room - self.max_length)",
        "bos does not count in the length",
        "text/test_tasks.py",
    ),
    Fault(
        "text/templates.py",
        "lambda text: text[:1].lower() + text[1:]",
        "lambda text: text.lower()",
        "an edit lowers all letters",
        "text/test_templates.py",
    ),
    Fault(
        "text/packing.py",
        "position = self.starts[parent + 1] - self.starts[parent]",
        "position = self.starts[parent + 1]",
        "positions count from the batch's begin",
        "text/test_packing.py",
    ),
    Fault(
        "text/packing.py",
        "RandomState([data_seed, epoch])",
        "RandomState([data_seed, 0])",
        "every epoch has one order",
        "text/test_packing.py",
    ),
    Fault(
        "text/tasks.py",
        "meanings = self.numbers.get(self.column_of(row, self.label_field), ())",
        "meanings = self.labels",
        "an integer is a label in our own order",
        "text/test_hub_exports.py",
    ),
    Fault(
        "text/tasks.py",
        "return name in self._names or not (_is_nothing(value) or name in UNLABELLED)",
        "return not _is_nothing(value)",
        "-1 is a label",
        "text/test_tasks.py",
    ),
    Fault(
        "text/csv_cells.py",
        "stop = text.find('\"', stop + 2)",
        "stop = text.find('\"', stop + 1)",
        "a doubled quote ends a cell",
        "text/test_csv_cells.py",
    ),
    Fault(
        "text/rows.py",
        "if len(cells) != len(names) and (fault := _misfit(names, cells)):",
        "if len(cells) > len(names) and (fault := _misfit(names, cells)):",
        "a row may lack its last cells",
        "text/test_rows.py",
    ),
    Fault(
        "text/answers.py",
        'ARTICLES.sub(" ", bare).split()',
        "bare.split()",
        "articles count",
        "text/test_answers.py::test_what_does_not_count_is_taken_out",
    ),
    Fault(
        "text/nested.py",
        "text[start : end + 1]",
        "text[start:end]",
        "an entity loses its last letter",
        "text/test_nested.py::test_gold_candidates_and_answers",
    ),
    Fault(
        "text/nested.py",
        "for first in (bare[:1], bare[:1].lower(), bare[:1].upper()):",
        "for first in (bare[:1],):",
        "spans of WSC are not those of its text",
        "text/test_nested.py::test_spans_of_wsc_are_those_of_its_text",
    ),
    Fault(
        "text/writing.py",
        "start = max(0, len(self.text) - self._longest + 1)",
        "start = len(self.text)",
        "a stop across tokens is not found",
        "text/test_writing.py::test_a_stop_across_tokens_is_held_back_and_left_out",
    ),
    # -- engine
    Fault(
        "engine/noise.py",
        "3.336087226867676,",
        "3.339423314094544,",
        "z is 0.1 % too large",
        "engine/test_noise.py::test_z_has_the_frozen_bits",
    ),
    Fault(
        "engine/terms.py",
        "self.terms[0][0] if",
        "self.terms[-1][0] if",
        "rounded with the words of the last seed",
        "engine/test_weights.py",
    ),
    Fault(
        "engine/terms.py",
        "1 - self.decay if is_matrix else 1.0",
        "1 - self.decay",
        "vectors decay too",
        "zo/test_mezo.py::test_decay_shrinks_matrices_and_leaves_vectors",
    ),
    Fault(
        "engine/weights.py",
        "z[np.abs(w) > np.float32(limit)] = 0",
        "z[w > np.float32(limit)] = 0",
        "large negative weights move",
        "zo/test_directions.py",
    ),
    Fault(
        "engine/tiles.py",
        "yield start + at, raw",
        "yield at, raw",
        "tiles of a later block count from 0",
        "engine/test_streaming.py",
    ),
    Fault(
        "engine/numpy_engine.py",
        "np.float32(q.shape[-1] ** -0.5)",
        "np.float32(1.001 * q.shape[-1] ** -0.5)",
        "attention's scale is off by 0.1 %",
        "models/test_roberta.py::test_every_stage_agrees_with_transformers",
    ),
    Fault(
        "engine/numpy_engine.py",
        "places[:, None] < np.arange(score.shape[-1]) if causal",
        "places[:, None] + 1 < np.arange(score.shape[-1]) if causal",
        "a token sees the next one",
        "models/test_opt.py::test_every_stage_agrees_with_transformers",
    ),
    Fault(
        "engine/adapters.py",
        "low = self.product(a, x) * scale_of(self.weights)",
        "low = self.product(a, x)",
        "LoRA without alpha / r",
        "checkpoints/test_peft.py::test_logits_are_those_of_peft",
    ),
    Fault(
        "engine/moments.py",
        "BETA_2**age * g * g",
        "BETA_2**age * g",
        "the second moment is of g, not of its square",
        "zo/test_updates.py::test_adamezo_moves_by_the_moments_of_its_window",
    ),
    Fault(
        "engine/gelu.py",
        "PHI_LIMIT = 5.5",
        "PHI_LIMIT = 4.5",
        "Phi is constant from 4.5 on",
        "models/test_model.py::test_gelu_is_exact_to_3e_7_of_its_argument",
    ),
    Fault(
        "engine/numba/few.py",
        "token = own(p, x)[m]",
        "token = own(0, x)[m]",
        "each probe multiplies the tokens of the first",
        "engine/test_few.py::test_a_product_of_few_tokens_is_as_numpys",
    ),
    Fault(
        "engine/numba/kernels.py",
        "look(shared, DONE) < shared[THREADS]",
        "look(shared, DONE) < 1",
        "the caller does not wait for the other threads",
        "engine/test_numba.py::test_the_caller_rests_until_all_threads_are_done",
    ),
    Fault(
        "engine/past.py",
        "self._rows[last] + 1",
        "self._rows[last]",
        "a token does not see itself",
        "models/test_generate.py::test_a_token_at_a_time_is_as_all_at_once",
    ),
    Fault(
        "engine/around.py",
        "return getattr(self.view, verb)",
        "return getattr(self.view.engine, verb)",
        "a view around another asks something else for its verbs",
        "models/test_generate.py::test_a_token_at_a_time_is_as_all_at_once",
    ),
    # -- ONNX Runtime
    Fault(
        "engine/onnx/protobuf.py",
        "number &= (1 << 64) - 1",
        "number &= (1 << 63) - 1",
        "a negative number loses its sign",
        "engine/test_onnx_protobuf.py",
    ),
    Fault(
        "engine/onnx/protobuf.py",
        'struct.pack("<f", value)',
        'struct.pack(">f", value)',
        "a real number's bytes are turned round",
        "engine/test_onnx_protobuf.py",
    ),
    Fault(
        "engine/onnx/graph.py",
        "tuple(sorted(attributes.items()))",
        "()",
        "nodes that differ in their attributes are one",
        "engine/test_onnx_graph.py",
    ),
    Fault(
        "engine/onnx/graph.py",
        "needed.update(node.inputs)",
        "needed.update(node.inputs[:1])",
        "a part of a graph lacks what it reads",
        "engine/test_onnx_graph.py",
    ),
    Fault(
        "engine/onnx/noise.py",
        "x = shifted_xor(x, np.uint32(15))",
        "x = shifted_xor(x, np.uint32(14))",
        "a graph's z is another",
        "engine/test_onnx_noise.py",
    ),
    Fault(
        "engine/onnx/noise.py",
        "h = splitmix64(h ^ np.uint64(noise.KINDS[kind]))",
        "h = splitmix64(h)",
        "a graph's keys are the same for each kind of noise",
        "engine/test_onnx_noise.py",
    ),
    Fault(
        "engine/onnx/view.py",
        "x * scales.reshape(copies,",
        "x * np.float32(1e-2) * scales.reshape(copies,",
        "a perturbation is a hundredth of what it is",
        "engine/test_onnx_engine.py::test_losses_are_those_of_numpy",
    ),
    Fault(
        "system.py",
        "        self.pages = None\n        super",
        "        super",
        "a file that is closed stays mapped",
        "engine/test_onnx_engine.py::test_a_store_that_is_closed_gives_its_file_back",
    ),
    Fault(
        "engine/onnx/recorded.py",
        "if len(lengths) == 1 else list(seeds)",
        "if lengths else list(seeds)",
        "seeds of runs of other lengths are mixed up",
        "engine/test_onnx_engine.py",
    ),
    Fault(
        "engine/onnx/recorded.py",
        "        bool(weights.pending),\n",
        "",
        "what is pending is read by a graph of what was stored",
        "engine/test_onnx_engine.py::test_what_is_pending_is_seen_by_the_next_pass",
    ),
    Fault(
        "engine/onnx/runtime.py",
        "        POOLS.append(ref(self, POOLS.remove))\n",
        "",
        "a child of a fork waits for the threads of a session",
        "engine/test_onnx_engine.py::test_no_session_is_there_at_a_fork",
    ),
    Fault(
        "engine/onnx/engine.py",
        "options.terminate = True",
        "pass",
        "a signal waits for the end of a pass",
        "engine/test_onnx_engine.py::test_a_run_that_is_ended_ends_within_a_node",
    ),
    Fault(
        "engine/onnx/runtime.py",
        "if len(self._made) == KEPT:",
        "if False:",
        "sessions are never given back",
        "engine/test_onnx_engine.py",
    ),
    Fault(
        "engine/onnx/layout.py",
        "visible[is_later] = HIDDEN",
        "pass",
        "tokens see what comes after them",
        "engine/test_onnx_engine.py::test_losses_are_those_of_numpy",
    ),
    Fault(
        "engine/onnx/recording.py",
        "        for name in self.kept.keyed:\n            self.keys(name)\n",
        "",
        "a pass that is kept lacks the keys of its noise",
        "engine/test_onnx_engine.py",
    ),
    Fault(
        "engine/onnx/view.py",
        "index = block * longest + place.reshape(-1, 1)",
        "index = block * longest + place.reshape(-1, 1) * 0",
        "all tokens of a row get the answer of its first",
        "engine/test_onnx_engine.py::test_losses_are_those_of_numpy",
    ),
    Fault(
        "engine/onnx/reader.py",
        'raise ValueError(f"wire type {wire} at byte {at}")',
        "size = 0",
        "what is no message of ONNX's is read as one",
        "runs/test_exported.py",
    ),
    Fault(
        "engine/onnx/places.py",
        "return weights.read(name)",
        "return store.read(name)",
        "a pass does not see what is pending",
        "engine/test_onnx_engine.py engine/test_onnx_weights.py",
    ),
    Fault(
        "engine/onnx/tensors.py",
        "zero = np.float32(1 << self.bits - 1)",
        "zero = np.float32(8)",
        "the middle of 8-bit codes is that of 4-bit ones",
        "engine/test_onnx_weights.py",
    ),
    Fault(
        "engine/onnx/session.py",
        'f"{self._path}: ONNX Runtime refuses it: {in_a_line(error)}"',
        'f"ONNX Runtime refuses it: {in_a_line(error)}"',
        "nobody is told which graph is refused",
        "runs/test_inference.py",
    ),
    Fault(
        "runs/app.py",
        "range(step * queries, (step + 1) * queries)",
        "range(step, step + queries)",
        "an app's seeds are not those of a run",
        "runs/test_inference.py",
    ),
    Fault(
        "runs/exported.py",
        "hashlib.sha256(data).hexdigest()",
        "hashlib.sha256(data[:64]).hexdigest()",
        "the end of a graph may be another's",
        "runs/test_exported.py",
    ),
    Fault(
        "cli/export.py",
        "for name in (STEP, EVAL)",
        "for name in (STEP,)",
        "a graph is not told of",
        "runs/test_inference.py",
    ),
    Fault(
        "zo/graphs.py",
        "lr * np.float64(-1)",
        "lr * np.float64(1)",
        "a graph's step goes uphill",
        "zo/test_graphs.py",
    ),
    Fault(
        "runs/inference.py",
        "self._adapter, peft.PREFIX + name)",
        "self._adapter, name)",
        "a graph does not find its adapter",
        "runs/test_inference.py",
    ),
    Fault(
        "engine/onnx/padded.py",
        "if prefix:  # which",
        "if False:  # which",
        "padded rows do not see a prefix",
        "engine/test_onnx_padded.py",
    ),
    Fault(
        "engine/onnx/padded.py",
        "hidden = hidden + is_later.where(HIDDEN, np.float32(0))",
        "pass",
        "padded rows see what comes after",
        "engine/test_onnx_padded.py",
    ),
    Fault(
        "engine/select.py",
        'if name == "numba":',
        'if name == "none":',
        "another engine than asked for computes",
        "engine/test_select.py::test_numba_that_is_not_wanted",
    ),
    Fault(
        "engine/select.py",
        "if may_have_numba():",
        "if not may_have_numba():",
        "a broken Numba is done without in silence",
        "engine/test_select.py::test_a_broken_numba_is_said_once_and_numpy_computes",
    ),
    Fault(
        "engine/stores/resident.py",
        "self.tensors[name][start:stop]",
        "self.tensors[name][: stop and stop - start]",
        "the first rows for any others",
        "models/test_model.py::test_nll_is_minus_the_log_softmax_of_the_scores",
    ),
    Fault(
        "engine/stores/streamed.py",
        "return raw if ahead and ahead.place == place else None",
        "return raw",
        "what was read ahead is taken for another block",
        "engine/test_streaming.py",
    ),
    Fault(
        "engine/stores/overlay.py",
        "return self.own if name in self.own.tensors else self.base",
        "return self.base if name in self.base.shapes else self.own",
        "the file is read in place of what is trained",
        "models/test_trainable.py",
    ),
    Fault(
        "engine/numba/engine.py",
        "column += len(raw)",
        "column = len(raw)",
        "the products of a third block overwrite the second's",
        "engine/test_streaming.py",
    ),
    Fault(
        "engine/weights.py",
        "with self.lock, uninterrupted(),",
        "with uninterrupted(),",
        "another thread reads weights of which some have moved",
        "models/test_sharing.py::test_whoever_reads_or_changes_holds_the_lock",
    ),
    Fault(
        "engine/stores/streamed.py",
        "if self._last is not place:",
        "if False:",
        "blocks that another pass has overwritten are computed with",
        "models/test_sharing.py::test_blocks_of_two_passes_at_once_are_refused",
    ),
    Fault(
        "engine/stores/streamed.py",
        "self._reader.submit(self._read, place, self._buffers[0]).result()",
        "self._read(place, self._buffers[0])",
        "what an interrupt left being read is written over a block",
        "models/test_sharing.py::test_a_block_that_is_still_being_read_when_a_pass_is_interrupted",
    ),
    Fault(
        "engine/threads.py",
        "thread.join()",
        "pass",
        "a fork does not wait for what a pool was given",
        "engine/test_threads.py::test_a_fork_waits_for_what_a_pool_was_given",
    ),
    Fault(
        "engine/threads.py",
        "heeded = {number: handler for number, handler in found.items() if callable(handler)}",
        "heeded = {}",
        "an interrupt within a fold leaves tensors that count an update twice",
        "engine/test_weights.py::test_an_interrupt_within_a_fold_comes_after_it",
    ),
    Fault(
        "engine/threads.py",
        "                return task\n",
        "",
        "a task is done twice where a thread cannot be had",
        "engine/test_threads.py::test_the_threads_that_there_are_do_what_others_cannot_be_had_for",
    ),
    Fault(
        "engine/numba/engine.py",
        "with self._lock, pinned(self._cpus):",
        "pin(self._cpus)\n        with self._lock:",
        "the caller's thread stays on the fast CPUs",
        "engine/test_numba.py::test_threads_are_on_fast_cpus_unless_they_do_not_fit",
    ),
    Fault(
        "engine/numba/engine.py",
        "if failed.startswith(KILLED):",
        'if failed == "killed":',
        "what killed the child is tried in this process",
        "engine/test_cache.py::test_what_kills_a_child_is_not_tried_here",
    ),
    Fault(
        "engine/numba/files.py",
        "if hashlib.sha256(data).digest() != content[:DIGEST_BYTES]:",
        "if not data:",
        "half a file is taken for a kernel",
        "engine/test_cache.py::test_a_damaged_file_is_as_a_missing_one",
    ),
    Fault(
        "engine/numba/files.py",
        '"numba/vectors.py", ',
        "",
        "kernels of another vectors.py are used",
        "engine/test_cache.py::test_every_source_that_is_compiled_is_known",
    ),
    Fault(
        "engine/numba/files.py",
        "host.settings(), host.cpu())",
        "host.settings())",
        "kernels of one kind of CPU run on another",
        "engine/test_cache.py::test_a_folder_is_of_what_compiles",
    ),
    Fault(
        "engine/numba/host.py",
        '"model name", "stepping", "flags"',
        '"model name", "stepping"',
        "the instructions that a virtual machine hides tell no CPUs apart",
        "engine/test_host.py::test_a_cpu_is_told_by_what_its_cores_are",
    ),
    Fault(
        "engine/numba/cache.py",
        "if results() != expected:",
        "if not results():",
        "an object that computes other numbers than Numba is called",
        "engine/test_objects.py::test_an_object_that_computes_other_numbers_is_not_called",
    ),
    Fault(
        "engine/numba/objects.py",
        "if each.flags.carray:",
        "if each.flags.c_contiguous:",
        "an object writes into memory that may not be written",
        "engine/test_objects.py::test_other_arguments_are_for_numba",
    ),
    Fault(
        "engine/numba/loader.py",
        "mmap.PROT_READ | mmap.PROT_EXEC",
        "mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC",
        "code may be written while it is executed",
        "engine/test_loader.py::test_code_is_never_written_and_executed_at_once",
    ),
    Fault(
        "engine/numba/storage.py",
        "return dithered_half(w, salt_0, salt_1, index)",
        "return dithered_bfloat(w, salt_0, salt_1, index)",
        "float16 weights lose three bits at each update",
        "engine/test_numba.py::test_every_16_bit_number_is_folded_as_by_numpy",
    ),
    Fault(
        "engine/numba/noise.py",
        "if limit < np.inf:",
        "if limit > np.inf:",
        "z reaches the large weights too",
        "engine/test_moments.py",
    ),
    Fault(
        "engine/numba/tensors.py",
        "if all_kept[t] != 1:",
        "if all_kept[t] > 1:",
        "nothing decays",
        "engine/test_wide.py::test_a_stretch_of_any_size_and_place_is_folded_alone",
    ),
    Fault(
        "engine/numba/wide.py",
        "subnormal = (size + (113 << 23)).view(F32) - 2.0**-14",
        "subnormal = size.view(F32) * 2.0**112",
        "small float16 weights are 0 beside a library made with -ffast-math",
        "engine/test_wide.py::test_another_cpu_has_the_same_bits",
    ),
    Fault(
        "engine/numba/wide.py",
        "return floor(in_ulps) * ulp * 2.0**112 * 2.0**-112",
        "return floor(in_ulps) * ulp",
        "float16 weights beyond its numbers are no infinity until they are stored",
        "engine/test_wide.py::test_floats_of_all_sizes_are_dithered",
    ),
    Fault(
        "engine/numba/wide.py",
        "(following << 1 << (shift.like(31) - shift))",
        "(following << (shift.like(31) - shift))",
        "signs are another element's where a tile begins within a word",
        "engine/test_wide.py::test_z_of_any_stretch",
    ),
    Fault(
        "engine/numba/layers.py",
        "factor = F(1) / np.sqrt(total_square(y) / F(width) + ln_eps)",
        "factor = F(1) / np.sqrt(total_square(y) / F(width))",
        "a norm without its eps",
        "engine/test_layers.py::test_norm_of_any_size_is_as_numpys",
    ),
    Fault(
        "engine/numba/gather.py",
        "index = U(numbers[r] * width)",
        "index = U(r * width)",
        "an embedding's z is that of the first rows",
        "engine/test_conformance.py::test_losses",
    ),
    Fault(
        "engine/numba/softmax.py",
        "LN_2 = (0.693359375, -2.12194440e-4)",
        "LN_2 = (0.693359375, -2.12194440e-5)",
        "e^x is off by 0.02 % at places",
        "engine/test_layers.py::test_exp_is_within_two_last_places",
    ),
    Fault(
        "engine/numba/softmax.py",
        "power = builder.select(is_in, power, code.zero)",
        "",
        "a softmax counts what lies after its row",
        "engine/test_layers.py::test_a_row_of_any_length_becomes_its_softmax",
    ),
    Fault(
        "engine/numba/roofline.py",
        "return threads * operations / seconds / BILLION",
        "return operations / seconds / BILLION",
        "the peak of all threads is that of one",
        "engine/test_roofline.py::test_rates_are_what_was_done_in_a_second",
    ),
    Fault(
        "engine/numba/layers.py",
        "scale = F(1) / np.sqrt(F(size))",
        "scale = F(1.001) / np.sqrt(F(size))",
        "attention's scale is off by 0.1 %",
        "engine/test_conformance.py::test_losses",
    ),
    Fault(
        "engine/numba/vectors.py",
        "((written, True), (added, False))",
        "((written, False), (added, True))",
        "sums go on from what is no sum",
        "engine/test_numba.py::test_a_tile_is_a_small_matmul",
    ),
    Fault(
        "engine/numba/amx.py",
        "load(7, w, w_at + k * BOTH + SIDE, BOTH)",
        "load(7, w, w_at + k * BOTH, BOTH)",
        "both halves of a panel are the first",
        "engine/test_products.py::test_every_edge_of_products_by_a_model_of_the_instruction[amx]",
    ),
    Fault(
        "engine/numba/bfmmla.py",
        "low = 2 * (i % 2)",
        "low = 0",
        "every second token has the sums of the one before",
        "engine/test_products.py::test_every_edge_of_products_by_a_model_of_the_instruction[bfmmla]",
    ),
    Fault(
        "engine/numba/matrix.py",
        "UNIT = UNITS[TILE.matrix]",
        "UNIT = 1",
        "what is left of a row is not zero where a tile reads it",
        "engine/test_products.py::test_every_edge_of_products_by_a_model_of_the_instruction[amx]",
    ),
    Fault(
        "engine/numba/products.py",
        "if ways().keys() <= kept.keys():",
        "if kept:",
        "rates that lack a way are believed",
        "engine/test_products.py::test_what_lacks_a_way_is_measured_anew",
    ),
    Fault(
        "engine/numba/products.py",
        "MARGIN = 1.1",
        "MARGIN = 1.0",
        "a way that rounds is chosen for next to nothing",
        "engine/test_products.py::test_an_instruction_has_to_be_clearly_faster_than_float32",
    ),
    Fault(
        "engine/numba/matmul.py",
        "number = (first + task * block + j + i) * inner",
        "number = (task * block + j + i) * inner",
        "each block of streamed weights has the z of the first",
        "engine/test_streaming.py::test_any_number_of_probes",
    ),
    Fault(
        "engine/numba/kernels.py",
        "min(count, start + step)",
        "min(count, start + 1)",
        "of the tasks that a thread takes at once, it does the first",
        "engine/test_numba.py::test_linear_of_any_size_is_a_sum_of_products",
    ),
    Fault(
        "engine/numba/sizes.py",
        "min(BLOCK, rows) // least * least",
        "min(BLOCK, rows)",
        "a task is of rows that are no whole vectors",
        "engine/test_numba.py::test_a_task_has_rows_for_the_cache",
    ),
    Fault(
        "engine/numba/arguments.py",
        "terms[0] = terms[0]._replace(kept=kept)",
        "terms[-1] = terms[-1]._replace(kept=kept)",
        "w decays before the last term, not the first",
        "engine/test_conformance.py::test_folded_bytes",
    ),
    Fault(
        "engine/numba/groups.py",
        "I(pair >> I(4)) if k % 2 else I(pair & I(15))",
        "I(pair & I(15)) if k % 2 else I(pair >> I(4))",
        "the two codes of a byte change places in a part of a group",
        "engine/test_groups.py::test_the_kernel_gives_the_bits_of_numpy",
    ),
    Fault(
        "engine/groups.py",
        "rows = tile_rows(self.shape(name))",
        "rows = tile_rows((1, 1))",
        "a tile is a whole block",
        "engine/test_groups.py::test_a_tile_is_of_so_many_numbers_not_groups",
    ),
    Fault(
        "engine/stores/grouped.py",
        "min(rows, tiles * tile_rows((rows, columns)))",
        "tiles * tile_rows((rows, columns))",
        "the plan counts rows that a matrix does not have",
        "engine/test_groups.py::test_a_block_has_room_for_both_forms",
    ),
    # -- models
    Fault(
        "models/quantised.py",
        "INT8 if name in tables else GROUP_TYPES[kind]",
        "GROUP_TYPES[kind]",
        "tables are quantised to 4 bits",
        "checkpoints/test_files_of_groups.py::test_the_layout",
    ),
    Fault(
        "models/roberta.py",
        "batch.positions + config.pad_token_id + 1",
        "batch.positions + config.pad_token_id",
        "positions are off by one",
        "models/test_roberta.py::test_every_stage_agrees_with_transformers",
    ),
    Fault(
        "models/opt.py",
        "return self.do_layer_norm_before and not self._remove_final_layer_norm",
        "return self.do_layer_norm_before",
        "a field of config.json is not heeded",
        "models/test_opt.py::test_every_stage_agrees_with_transformers",
    ),
    Fault(
        "models/model.py",
        "            return self.architecture.logits",
        "        if True:\n            return self.architecture.logits",
        "the last part of a pass does without the lock",
        "models/test_sharing.py::test_threads_get_the_answers_of_one",
    ),
    Fault(
        "models/model.py",
        "if length > longest:",
        "if length > longest + 1:",
        "a sequence may be one token too long",
        "models/test_model.py::test_the_longest_sequence_is_read_and_one_more_token_refused",
    ),
    Fault(
        "models/trainable.py",
        "math.sqrt(3 * width)",
        "math.sqrt(width)",
        "LoRA's A is not of PEFT's variance",
        "models/test_trainable.py::test_adapters_begin_as_the_model_and_as_the_seed_says",
    ),
    Fault(
        "models/activations.py",
        "strict=False):\n        largest = direction[np.abs(direction).argmax()]",
        "strict=False):\n        largest = direction[direction.argmax()]",
        "the sign of a leading direction is chance",
        "models/test_activations.py",
    ),
    Fault(
        "models/activations.py",
        "owners = owners[batch.read]",
        "owners = owners[:count]",
        "the tokens that are read have the errors of the first ones",
        "models/test_activations.py",
    ),
    Fault(
        "models/activations.py",
        "product(x.T, x.T) + c * np.eye(count)",
        "product(x.T, x.T) + np.eye(count)",
        "the ridge of few inputs has another size",
        "models/test_activations.py",
    ),
    Fault(
        "models/activations.py",
        "p[np.arange(len(labels)), labels] -= 1",
        "p[np.arange(len(labels)), labels] -= 0.5",
        "the error of the gold label is not p - 1",
        "models/test_activations.py",
    ),
    Fault(
        "models/activations.py",
        "c = PRIOR * np.square(x).mean()",
        "c = RIDGE * np.square(x).sum() / x.shape[1]",
        "fewer rows have a weaker prior",
        "models/test_activations.py",
    ),
    Fault(
        "runs/start.py",
        "    rows[...] = 0\n",
        "",
        "the zero-shot figure has the fitted head",
        "runs/test_start.py",
    ),
    Fault(
        "runs/run.py",
        "if is_whole and _have_rows",
        "if _have_rows",
        "auto overrides a part that was chosen",
        "runs/test_start.py",
    ),
    Fault(
        "runs/start.py",
        "if _sha256(run / FILE) != sha256:",
        "if False:",
        "a start that another run had is gone on with",
        "runs/test_start.py",
    ),
    Fault(
        "models/context.py",
        "positions[len(ids) :]",
        "positions[: -len(ids)]",
        "what follows a text has the positions of its beginning",
        "models/test_context.py::test_weights_of_16_bits",
    ),
    Fault(
        "models/generate.py",
        "if not token.end:",
        "if True:",
        "a sequence that has ended stays in the batch",
        "models/test_generate.py::test_a_stop_ends_a_sequence_which_leaves_the_batch",
    ),
    Fault(
        "models/sampling.py",
        "self.top_p) + 1]",
        "self.top_p)]",
        "the tokens drawn from do not come to top_p",
        "models/test_generate.py::test_top_p_leaves_the_fewest_that_come_to_it",
    ),
    # -- zo
    Fault(
        "zo/mezo.py",
        "(loss_plus - loss_minus) / (2 * eps)",
        "(loss_plus - loss_minus) / eps",
        "the slope is twice as large",
        "zo/test_mezo.py",
    ),
    Fault(
        "zo/mezo.py",
        "((seed, -lr * projected_gradient),)",
        "((seed, lr * projected_gradient),)",
        "a step goes uphill",
        "zo/test_mezo.py",
    ),
    Fault(
        "zo/estimators.py",
        "/ (2 * eps) / len(plus)",
        "/ (2 * eps)",
        "queries are summed, not averaged",
        "zo/test_estimators.py",
    ),
    Fault(
        "zo/estimators.py",
        "(eps * (len(losses) - 1))",
        "(eps * len(losses))",
        "leave-one-out divides by q",
        "zo/test_estimators.py",
    ),
    Fault(
        "zo/updates.py",
        "lr * (step + 1) / warmup",
        "lr * step / warmup",
        "warm-up counts from 0",
        "zo/test_updates.py",
    ),
    Fault(
        "zo/updates.py",
        "MOMENTUM**age * g * g",
        "MOMENTUM**age * abs(g)",
        "rms divides by a root of sizes, not of squares",
        "zo/test_updates.py::test_rms_moves_by_momentum_over_the_root_of_one_number",
    ),
    Fault(
        "zo/methods.py",
        'lambda parts: parts.direction == "magnitude"',
        "lambda parts: False",
        "a combination that is not built passes",
        "zo/test_methods.py",
    ),
    Fault(
        "zo/objectives.py",
        "means: Float64 = -sums / batch.lengths",
        "means: Float64 = -sums",
        "long candidates score worse",
        "zo/test_objectives.py",
    ),
    Fault(
        "zo/directions.py",
        "sizes = np.abs(weights.gather(name, rows))",
        "sizes = weights.gather(name, rows)",
        "small means negative",
        "zo/test_directions.py",
    ),
    # -- autodiff
    Fault(
        "autodiff/forward_mode.py",
        "out[1:] += f(a[:1], b[1:])",
        "pass",
        "half of the product rule",
        "autodiff/test_forward_mode.py::test_loss_and_derivatives",
    ),
    Fault(
        "autodiff/reverse_mode.py",
        "ds -= (ds * p).sum(axis=-1, keepdims=True)",
        "pass",
        "softmax's gradient without its sum",
        "autodiff/test_reverse_mode.py::test_every_derivative",
    ),
    Fault(
        "autodiff/reverse_mode.py",
        "if x.node is not None or seen.has_any(self.leaves):",
        "if x.node is not None:",
        "the first layer that is trained has no gradient",
        "autodiff/test_reverse_mode.py::test_peft_has_the_same_gradients_of_lora",
    ),
    Fault(
        "autodiff/reverse_mode.py",
        "for start, raw in self.weights.store.blocks(name, rows.start, rows.stop, BACKWARD):",
        "for start, raw in self.weights.store.blocks(name, 0, rows.stop - rows.start, BACKWARD):",
        "each piece of a matrix is the first one",
        "autodiff/test_reverse_mode.py::test_streamed_weights_have_the_same_gradient_to_the_bit",
    ),
    Fault(
        "autodiff/adam.py",
        "gradients[name] + g if name in gradients else g",
        "g",
        "the gradient of the last micro-batch alone",
        "autodiff/test_adam.py::test_micro_batches_are_differentiated_one_after_another",
    ),
    Fault(
        "engine/stores/overlay.py",
        "while isinstance(store, Overlay):",
        "if isinstance(store, Overlay):",
        "moments in front of streamed weights make them resident",
        "autodiff/test_adam.py::test_what_a_step_changes_is_in_memory",
    ),
    Fault(
        "autodiff/tape.py",
        "self.gradient = self.gradient + gradient",
        "self.gradient = gradient",
        "only the last use of a value has a gradient",
        "autodiff/test_reverse_mode.py::test_every_derivative",
    ),
    Fault(
        "autodiff/adam.py",
        "1 - self.beta2**step",
        "1 - self.beta2",
        "the bias is corrected as at step 1",
        "autodiff/test_adam.py::test_the_formula_is_adamws",
    ),
    # -- runs
    Fault(
        "runs/settings.py",
        "if os.path.isdir(path):",
        "if os.path.isdir(path) and not (SHIPPED / model).is_dir():",
        "a shipped name hides a folder",
        "runs/test_settings.py",
    ),
    Fault(
        "runs/settings.py",
        "1024 if binary else 1000",
        "1024",
        "MB are MiB",
        "runs/test_memory.py::test_sizes",
    ),
    Fault(
        "runs/defaults.py",
        "return values | given",
        "return given | values",
        "defaults count before what is given",
        "runs/test_settings.py",
    ),
    Fault(
        "runs/data.py",
        "train = shuffled[n_dev:]",
        "train = shuffled",
        "the reported rows are trained on",
        "runs/test_data.py",
    ),
    Fault(
        "runs/evaluate.py",
        "loss = total / len(examples)",
        "loss = total",
        "a sum for a mean",
        "runs/test_evaluate.py",
    ),
    Fault(
        "runs/evaluate.py",
        "sum(example.label < 0 for example in examples)",
        "sum(example.label < -1 for example in examples)",
        "rows without a label have an accuracy",
        "runs/test_evaluate.py::test_rows_without_labels_have_no_accuracy",
    ),
    Fault(
        "runs/bounded.py",
        "np.concatenate(sums)",
        "np.concatenate(sums[::-1])",
        "groups of probes change places",
        "zo/test_estimators.py",
    ),
    Fault(
        "runs/journal.py",
        "record.crc == crc_due and record.join(history)",
        "record.join(history)",
        "checksums are not compared",
        "runs/test_journal.py",
    ),
    Fault(
        "runs/journal.py",
        "self._file.truncate(HEADER.size + records * header.record.size)",
        "pass",
        "a torn record is left in the file",
        "runs/test_journal.py",
    ),
    Fault(
        "runs/journal.py",
        "self.step.projected_gradient in range(after + 1)",
        "self.step.projected_gradient >= 0",
        "a run goes back to a step that it has not",
        "runs/test_journal.py::test_a_return_to_no_step_is_corrupt",
    ),
    Fault(
        "runs/history.py",
        "return number if back is None else back.to",
        "return number",
        "steps that a run left behind stay in its weights",
        "runs/test_journal.py::test_a_return_is_a_record_that_takes_no_step",
    ),
    Fault(
        "runs/course.py",
        "factor = FACTOR * self.history.factor(self.steps)",
        "factor = FACTOR",
        "a second return does not lower the rates",
        "runs/test_course.py::test_a_run_goes_back_to_the_least_loss_with_smaller_rates",
    ),
    Fault(
        "runs/course.py",
        "and n % every == 0",
        "",
        "a run that is resumed takes another course",
        "runs/test_course.py::test_only_regular_evaluations_count",
    ),
    Fault(
        "runs/find_lr.py",
        "trial = replace(trial, guard=0, patience=0)",
        "pass",
        "a rate that diverges is taken since the run goes back",
        "runs/test_find_lr.py::test_a_guard_does_not_hide_a_rate_that_diverges",
    ),
    Fault(
        "runs/methods.py",
        "span = s.lr_passes / self.forwards",
        "span = s.lr_passes",
        "a schedule counts steps for passes",
        "runs/test_run_methods.py::test_a_schedule_counts_passes_not_steps",
    ),
    Fault(
        "runs/snapshots.py",
        "weights.saved) and crc == expected",
        "weights.saved)",
        "a snapshot of another history is taken",
        "runs/test_crash.py::test_a_snapshot_of_another_run_or_step_is_passed_over",
    ),
    Fault(
        "runs/run.py",
        'return -accuracy, found["loss"], step',
        'return accuracy, found["loss"], step',
        "the worst step is the best",
        "runs/test_run.py",
    ),
    Fault(
        "runs/run.py",
        "sync(lines)",
        "pass",
        "no fsync of what a snapshot builds on",
        "runs/test_crash.py::test_the_events_are_all_there_is",
    ),
    Fault(
        "runs/ranks.py",
        "head.mark != heads[0].mark",
        "head.mark > 1 << 32",
        "a rank whose steps are others goes on",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/ranks.py",
        "if theirs[name] != first:",
        "if len(theirs[name]) != len(first):",
        "ranks with other data or rates begin together",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/ranks.py",
        "atexit.register(self.wire.abort, exit_code_of(error))",
        "pass",
        "the others wait for a rank that has failed",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/ranks.py",
        "if self.count == 1 < started:",
        "if self.count < 0:",
        "four processes take the same run, each alone",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/ranks.py",
        "waited = slowest - min(at_work)",
        "waited = slowest - min(seconds)",
        "ranks with nothing to do seem to wait",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/shared.py",
        "parts[row :: grid.rows] if column",
        "parts[grid.rows - 1 - row :: grid.rows] if column",
        "micro-batches are added in another order",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/shared.py",
        "a[...] = np.frombuffer(ranks.send(a.tobytes()), a.dtype).reshape(a.shape)",
        "ranks.send(a.tobytes())",
        "each rank but the first begins with another A",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/shared.py",
        "turn % step, rows, step",
        "0, rows, step",
        "some rows of the weights are never compared",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/shared.py",
        "        if is_left:",
        "        if True:",
        "what a rank at work has is removed",
        "runs/test_shared.py",
    ),
    Fault(
        "runs/train.py",
        "_check_digest(run, data.digest())",
        "pass",
        "a run goes on with other data",
        "runs/test_train.py::test_data_that_have_changed_are_refused",
    ),
    Fault(
        "runs/train.py",
        "steps % s.eval_every == 0 or steps == s.steps",
        "steps % s.eval_every == 0",
        "the last step is not evaluated",
        "runs/test_train.py::test_evaluations_every_so_often_at_the_start_and_the_end",
    ),
    Fault(
        "runs/methods.py",
        "number * s.queries + query",
        "number + query",
        "steps share directions",
        "runs/test_runs_of_methods.py::test_no_direction_is_taken_twice",
    ),
    Fault(
        "runs/memory.py",
        "math.ceil(min(plan.anonymous for",
        "math.ceil(max(plan.anonymous for",
        "the hint names a budget too large",
        "runs/test_memory.py::test_a_budget_chooses_the_fastest_plan_that_fits",
    ),
    Fault(
        "runs/loads.py",
        "read = objective.read(examples)",
        "read = examples",
        "the plan of a step counts candidates that it does not read",
        "runs/test_loads.py",
    ),
    Fault(
        "runs/bounded.py",
        "micro_batches(self.objective.read(examples), self.max_tokens)",
        "micro_batches(examples, self.max_tokens)",
        "candidates that are not computed make micro-batches smaller",
        "runs/test_loads.py::test_parts_of_a_batch_are_as_large_as_may_be",
    ),
    Fault(
        "runs/export.py",
        "if path.is_file() and not path.name.endswith(NO_COMPANIONS):",
        "if path.is_file():",
        "an index of shards comes along",
        "runs/test_export.py::test_shards_become_one",
    ),
    Fault(
        "runs/opened.py",
        "0 if zero_shot else None",
        "None",
        "zero-shot is the tuned model",
        "cli/test_cli_evaluate.py::test_zero_shot_of_a_run_is_its_base",
    ),
    Fault(
        "runs/api.py",
        "labels[odds.argmax()]",
        "labels[odds.argmin()]",
        "the unlikeliest label",
        "cli/test_cli_predict.py::test_texts",
    ),
    Fault(
        "runs/find_lr.py",
        "near = SLACK * min(losses)",
        "near = min(losses) / SLACK",
        "near is beyond the least",
        "runs/test_find_lr.py::test_the_rate_of_the_least_loss_is_taken_and_what_diverges_is_not",
    ),
    Fault(
        "runs/report.py",
        "1e-3 <= abs(x) < 1e4",
        "1e-3 <= x < 1e4",
        "negative numbers are written as tiny ones",
        "runs/test_report.py::test_numbers_for_people",
    ),
    Fault(
        "runs/doctor.py",
        "gap < NEAR and not bad",
        "gap < NEAR",
        "weights that are not finite pass",
        "runs/test_doctor.py::test_an_unused_row_that_is_not_finite",
    ),
    Fault(
        "runs/doctor.py",
        "tokenizer.vocab_size <= size",
        "tokenizer.vocab_size > 0",
        "the tokenizer of another model passes",
        "runs/test_doctor.py::test_the_tokenizer_of_another_model",
    ),
    Fault(
        "runs/snapshots.py",
        "if is_ours and file.checksums:",
        "if False:",
        "a damaged snapshot is taken",
        "runs/test_flips.py::test_the_older_snapshot_is_next",
    ),
    Fault(
        "runs/snapshots.py",
        "self._useless.add(at)",
        "pass",
        "a snapshot that was passed over outlives a sound one",
        "runs/test_run.py::test_a_damaged_snapshot_does_not_displace_a_sound_one",
    ),
    Fault(
        "runs/data.py",
        "    if both:\n",
        "    if False:\n",
        "nobody is told that test rows are training rows",
        "runs/test_data.py::test_training_rows_among_those_that_are_reported_on",
    ),
    Fault(
        "runs/places.py",
        "return list(dict.fromkeys(found))",
        "return list(dict.fromkeys(found))[-1:]",
        "a run that moved looks where it was only",
        "runs/test_places.py",
    ),
    Fault(
        "runs/run.py",
        "if is_run(self.path) or steps:",
        "if False:",
        "a run.toml is written over another run's",
        "runs/test_many.py::test_a_directory_that_another_run_took_meanwhile",
    ),
    Fault(
        "runs/run.py",
        "if found and int(found[1], 16) != zlib.crc32(rest):",
        "if False:",
        "a setting with a flipped bit is taken",
        "runs/test_flips.py::test_a_run_toml_that_is_another",
    ),
    Fault(
        "runs/lines.py",
        "not in (None, _crc(line)):",
        "== object():",
        "an evaluation with a flipped bit is taken",
        "runs/test_flips.py::test_no_bit_of_an_event_changes_the_best_step",
    ),
    Fault(
        "runs/lines.py",
        "len(line) > MOST_KEYS or _has_parts(line)",
        "len(line) > MOST_KEYS",
        "a line of a run may take 27 times its size",
        "runs/test_flips.py::test_a_line_that_would_take_much_memory_is_damaged",
    ),
    Fault(
        "engine/select.py",
        'if not find_spec("numba"):',
        "if False:",
        "who has no Numba is told of llvmlite",
        "engine/test_select.py",
    ),
    Fault(
        "checkpoints/directory.py",
        "if os.path.lexists(directory / name):",
        "if (directory / name).is_file():",
        "a link to nothing is no weights file",
        "checkpoints/test_directory.py",
    ),
    Fault(
        "runs/journal.py",
        "if not is_at(self._file, self.path):",
        "if False:",
        "a run that was deleted goes on",
        "runs/test_many.py::test_a_journal_that_is_gone",
    ),
    Fault(
        "runs/export.py",
        "is_ours = not path.exists()",
        "is_ours = True",
        "an export is written over another",
        "runs/test_many.py::test_a_folder_that_another_export_filled_meanwhile",
    ),
    Fault(
        "runs/spelling.py",
        "get_close_matches(name.lower(), by_lower, n=1)",
        "get_close_matches(name, by_lower, n=1)",
        "names in capitals are near none",
        "runs/test_spelling.py",
    ),
    Fault(
        "runs/report.py",
        "self._next = now + LINE_SECONDS",
        "self._next = now",
        "every step is a line of the log",
        "runs/test_report.py::test_a_line_now_and_then",
    ),
    Fault(
        "runs/settings.py",
        "if need and not need.is_met(settings):",
        "if False:",
        "a choice that counts for nothing is taken",
        "runs/test_settings.py::test_a_choice_that_counts_for_nothing_is_refused",
    ),
    Fault(
        "runs/answers.py",
        "number * len(rows) // most",
        "number",
        "the rows shown are the first, which have one label",
        "runs/test_answers_of_runs.py::test_ten_rows_evenly_apart",
    ),
    Fault(
        "runs/answers.py",
        "{end.partition(' ')[2] or end}",
        "",
        "a question after a long passage is out of sight",
        "runs/test_answers_of_runs.py::test_what_is_kept_of_long_texts_has_their_end",
    ),
    Fault(
        "runs/charts.py",
        "self.start + share * (self.stop - self.start)",
        "self.stop - share * (self.stop - self.start)",
        "curves are upside down",
        "runs/test_charts.py::test_a_curve_goes_where_its_points_are",
    ),
    Fault(
        "runs/charts.py",
        "if top > limit > 0",
        "if top < limit < 0",
        "a run that diverged makes all others flat lines",
        "runs/test_charts.py::test_a_line_that_diverges_leaves_the_others_readable",
    ),
    Fault(
        "runs/curves.py",
        "if len(runs) == 1:\n            lines.append",
        "if len(runs) > 1:\n            lines.append",
        "the steps of several runs lie on one another",
        "runs/test_page.py::test_the_steps_of_one_run_lie_behind_their_mean",
    ),
    Fault(
        "runs/commands.py",
        'if text.startswith("-"):',
        "if False:",
        "a value that begins with - is taken for an option",
        "runs/test_page.py::test_the_command_of_a_task_of_ones_own_and_of_a_model_that_is_gone",
    ),
    Fault(
        "runs/page.py",
        "if start != BEGINNING.encode():",
        "if False:",
        "a page replaces a file that is none",
        "runs/test_page.py::test_a_page_of_before_is_replaced_and_no_other_file",
    ),
    Fault(
        "runs/probe.py",
        "LEAST = np.finfo(np.float64).tiny",
        "LEAST = 1e-9",
        "a label that no training row has is not so unlikely",
        "runs/test_untrained.py::test_a_label_that_no_training_row_has_is_unlikely",
    ),
    Fault(
        "runs/recipes.py",
        "settings = settings.replace(**{other: None})",
        "pass",
        "a recipe's k_shot stays beside the train_rows given",
        "runs/test_recipes.py::test_what_is_given_counts_before_a_recipe",
    ),
    Fault(
        "runs/recorded.py",
        "if found.is_damaged:",
        "if False:",
        "a damaged line is not said",
        "runs/test_page.py::test_a_damaged_file_is_said_by_name_and_the_others_shown",
    ),
    Fault(
        "runs/texts.py",
        "[tokenizer.bos_id, *tokenizer.encode(prompt)]",
        "tokenizer.encode(prompt)",
        "a prompt begins without bos",
        "runs/test_texts.py::test_text_is_what_the_tokens_are",
    ),
    Fault(
        "runs/untrained.py",
        "by_row - known[_key(blank)]",
        "by_row",
        "candidates are not calibrated",
        "runs/test_untrained.py::test_calibrated_scores",
    ),
    # -- cli
    Fault(
        "cli/streams.py",
        "stream.reconfigure(errors=ESCAPED)",
        "pass",
        "a letter that the terminal has not costs the rows after it",
        "cli/test_cli_streams.py::test_no_letter_costs_a_row",
    ),
    Fault(
        "cli/failures.py",
        "if run and run.exists():",
        "if run:",
        "a run that is gone is said to go on",
        "cli/test_cli_failures.py::test_a_run_is_named_only_while_it_is_there",
    ),
    Fault(
        "cli/predict.py",
        'DataError(f"{where}: {what}", error.hint)',
        "DataError(what, error.hint)",
        "the line that cannot be labelled is not named",
        "cli/test_cli_predict.py::test_it_stops_at_the_first_line_that_it_cannot_label",
    ),
    Fault(
        "cli/main.py",
        "return 0 if is_ok else 1",
        "return 0",
        "a broken checkpoint leaves with 0",
        "runs/test_doctor.py::test_a_broken_checkpoint",
    ),
    Fault(
        "cli/parser.py",
        "if near := closest(name, known):",
        "if near := closest(name, []):",
        "no word on a misspelt option",
        "cli/test_cli_mistakes.py::test_did_you_mean",
    ),
    Fault(
        "cli/suggest.py",
        "path.parent / near if near",
        "Path(near) if near",
        "a suggestion without its folder",
        "cli/test_cli_mistakes.py::test_did_you_mean",
    ),
    Fault(
        "cli/options.py",
        "default=8,",
        "default=16,",
        "another default than the help says",
        "cli/test_cli_help.py::test_a_default_of_argparse_is_the_one_that_the_help_says",
    ),
    Fault(
        "cli/finetune.py",
        "settings = with_recipe(options.recipe, _read_config(options.config).replace(**given))",
        "settings = Settings(**(given | _read_config(options.config).given()))",
        "a file counts before options",
        "cli/test_cli_finetune.py::test_settings_of_a_file_and_options_over_them",
    ),
    Fault(
        "cli/evaluate.py",
        "zero_shot=options.zero_shot",
        "zero_shot=False",
        "an option is not heeded",
        "cli/test_cli_evaluate.py::test_zero_shot_of_a_run_is_its_base",
    ),
    Fault(
        "cli/predict.py",
        '.removesuffix("\\n")',
        "",
        "a text has the end of its line",
        "cli/test_cli_predict.py::test_lines_of_stdin",
    ),
    Fault(
        "cli/replay.py",
        "options.step, options.merge)",
        "options.step)",
        "an option is not heeded",
        "runs/test_adapters.py::test_a_step_and_the_command",
    ),
    Fault(
        "cli/convert.py",
        "if not options.json:",
        "if options.json:",
        "words in a JSON document",
        "cli/test_cli_folders.py::test_replay_and_convert",
    ),
    Fault(
        "cli/inspect.py",
        "for name in weights.trained if not",
        "for name in names if not",
        "all is said to be trained",
        "runs/test_runs_of_methods.py::test_the_command_line_runs_every_method[p-rge]",
    ),
    Fault(
        "runs/doctor.py",
        "except Exception as error:\n        yield check",
        "except ValueError as error:\n        yield check",
        "a check that fails in another way ends the doctor",
        "runs/test_doctor.py::test_a_check_that_fails_is_a_finding",
    ),
    Fault(
        "packages.py",
        "if not is_missing(error, package):",
        "if error:",
        "a package that is only missing is said to be broken",
        "test_packages.py::test_a_missing_package_is_done_without_in_silence",
    ),
    Fault(
        "cli/doctor.py",
        '"ok": all(',
        '"ok": any(',
        "one good check is enough",
        "runs/test_doctor.py::test_a_broken_checkpoint",
    ),
    Fault(
        "cli/streams.py",
        "text.translate(IN_LINES) + end",
        "text + end",
        "a name from a file commands the terminal",
        "cli/test_cli_folders.py::test_names_from_files_are_escaped",
    ),
    Fault(
        "runs/lines.py",
        "        json.dumps(found, allow_nan=False)\n",
        "",
        "a line says NaN, which is no JSON",
        "runs/test_flips.py::test_lines_that_are_none",
    ),
    Fault(
        "cli/completion.py",
        "dict.fromkeys(FOLDERS, shtab.DIRECTORY)",
        "dict.fromkeys(FOLDERS, shtab.FILE)",
        "files where folders are due",
        "cli/test_cli_help.py::test_completion",
    ),
    Fault(
        "cli/answers.py",
        "len(text) + wide - sum",
        "len(text) - sum",
        "a Chinese letter takes one column",
        "runs/test_answers_of_runs.py::test_texts_of_any_letters_in_a_terminal",
    ),
    Fault(
        "cli/generate.py",
        "if is_open:",
        "if False:",
        "an interrupt leaves a line without its end",
        "cli/test_cli_generate.py::test_an_interrupt_ends_the_line",
    ),
    Fault(
        "cli/report.py",
        "        say(problem)",
        "        pass",
        "what a page lacks is not said",
        "cli/test_cli_report.py::test_a_run_that_is_unfinished_is_said",
    ),
    # -- fine-tunes as files
    Fault(
        "runs/fine_tune_file.py",
        "hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]",
        "False",
        "a flipped bit of a file is not noticed",
        "runs/test_fine_tune.py::test_a_damaged_file_is_refused_at_every_byte",
    ),
    Fault(
        "runs/fine_tune_file.py",
        "if size + sum(sizes.values()) != len(body):",
        "if False:",
        "a file's sizes are believed",
        "runs/test_fine_tune.py::test_an_impossible_head_is_refused",
    ),
    Fault(
        "runs/fine_tune.py",
        "own[at - age] if age <= at else seeds",
        "own[max(0, at - age)]",
        "a first step looks back on the wrong seeds",
        "runs/test_fine_tune.py::test_a_file_is_what_the_run_is",
    ),
    Fault(
        "runs/fine_tune.py",
        "yield Taken(number, Step((), 0.0, terms, decay))",
        "yield Taken(number, Step((), 0.0, terms))",
        "a file's weight decay is forgotten",
        "runs/test_fine_tune.py::test_a_file_is_what_the_run_is",
    ),
    Fault(
        "runs/share.py",
        "seeds=None if is_by_rule else seeds",
        "seeds=None",
        "seeds that follow no rule are not stored",
        "runs/test_fine_tune.py::test_seeds_that_follow_no_rule_are_stored",
    ),
    Fault(
        "runs/share.py",
        'run.evaluations("dev").get(step)',
        'run.evaluations("dev").get(0)',
        "a file has the scores of another step",
        "runs/test_fine_tune.py::test_a_file_has_the_scores_of_its_step",
    ),
    Fault(
        "runs/sums.py",
        "    for part in parts:\n        check_linear(part)\n",
        "    for part in parts:\n",
        "a sum with weight decay is made",
        "runs/test_fine_tune.py::test_what_is_no_sum_is_refused",
    ),
    Fault(
        "zo/updates.py",
        "return (*own, (seed, factor * lr))",
        "return (*own, (seed, lr))",
        "adamezo's terms have no weight in a sum",
        "runs/test_fine_tune.py::test_adamezo_is_scaled_by_its_rate",
    ),
    Fault(
        "runs/named.py",
        "for s in starts if",
        "for s in starts[::-1] if",
        "a file with a + in its name is taken to pieces",
        "runs/test_fine_tune.py::test_paths_with_a_plus_are_themselves",
    ),
    Fault(
        "cli/share.py",
        "Path(options.output), options.step)",
        "Path(options.output))",
        "an option is not heeded",
        "cli/test_cli_share.py::test_share_says_what_it_wrote",
    ),
    # -- a fleet
    Fault(
        "fleet/__init__.py",
        "or method.differentiates",
        "or False",
        "derivatives are asked of clients",
        "fleet/test_fleet.py::test_methods_that_losses_alone_do_not_make_are_refused",
    ),
    Fault(
        "fleet/robust.py",
        "min(each.rows, most_rows)",
        "each.rows",
        "a client counts for as many rows as it says",
        "fleet/test_robust.py::test_no_client_counts_for_more_rows_than_it_was_asked_for",
    ),
    Fault(
        "fleet/robust.py",
        "not (distances[client] <= most).all()",
        "(distances[client] > 2 * most).all()",
        "an outlier at twice the limit counts",
        "fleet/test_robust.py",
    ),
    Fault(
        "fleet/rows.py",
        "own.append(max(held, key=len).pop())",
        "pass",
        "a client has no rows",
        "fleet/test_fleet_rows.py",
    ),
    Fault(
        "fleet/client.py",
        'method.seeds(question["number"])',
        "method.seeds(0)",
        "the losses of a step are along the directions of the first",
        "fleet/test_fleet.py::test_the_step_of_all_rows_is_that_of_one_machine",
    ),
    Fault(
        "fleet/client.py",
        "isinstance(error, RunError)",
        "isinstance(error, UsageError)",
        "a client that has lost its folder is no more asked",
        "fleet/test_fleet.py::test_who_loses_its_state_catches_up_to_the_same_bytes",
    ),
    Fault(
        "fleet/server.py",
        'if "refused" in answer',
        'if "nothing" in answer',
        "who has refused is asked again",
        "fleet/test_fleet.py::test_a_client_of_another_base_is_refused_by_name_and_not_asked_again",
    ),
    Fault(
        "fleet/server.py",
        "offset = self.has.get(node, 0)",
        "offset = 0",
        "each visit costs the whole journal",
        "fleet/test_fleet.py::test_a_visit_costs_a_tail_of_the_journal",
    ),
)


class Outcome(NamedTuple):
    """What became of tests. code: pytest's exit code, 1 when one fails; said: its last words."""

    code: int | None
    seconds: float
    said: str = ""

    @property
    def is_seen(self) -> bool:
        return self.code == 1

    def __str__(self) -> str:
        words = {0: "SURVIVED", 1: "seen", None: "NO END"}
        return f"{words.get(self.code, f'EXIT {self.code}'):9} {self.seconds:5.1f} s"


def run_tests(tree: Path, tests: Sequence[str], variables: dict[str, str]) -> Outcome:
    """Run some tests of a copy of the tree. variables: of the environment, beside this one's."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= variables
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", ""]
    command += [f"tests/{test}" for test in tests]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, LONGEST)
    said = (done.stdout + done.stderr)[-2000:]
    return Outcome(done.returncode, time.perf_counter() - start, said)


def planted(tree: Path, fault: Fault) -> Outcome:
    """Plant a fault, run its tests, and restore the file with its time of change."""
    path = tree / "tinyzo" / fault.file
    with tempfile.TemporaryDirectory() as cache:
        variables = {}
        if fault.file in COMPILED:
            variables["NUMBA_CACHE_DIR"] = cache
        elif fault.file in SHARED:
            variables["TINYZO_NO_NUMBA"] = "1"
        try:
            path.write_text(with_fault(path.read_text(encoding="utf-8"), fault), encoding="utf-8")
            return run_tests(tree, fault.tests.split(), variables)
        finally:
            shutil.copy2(ROOT / "tinyzo" / fault.file, path)


def with_fault(source: str, fault: Fault) -> str:
    """A file's text with the fault in it; AssertionError unless its code is there once."""
    assert source.count(fault.code) == 1, f"{fault.file}: {source.count(fault.code)} {fault.code}"
    return source.replace(fault.code, fault.planted)


def main() -> int:
    parser = argparse.ArgumentParser(description="plant faults; the tests must see each")
    parser.add_argument("--only", default="", help="faults with this in file, words or tests")
    only = parser.parse_args().only
    faults = [f for f in FAULTS if only in f"{f.file} {f.what} {f.tests}"]
    with tempfile.TemporaryDirectory() as room:
        tree = Path(room) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        tests = dict.fromkeys(test for fault in faults for test in fault.tests.split())
        sound = run_tests(tree, list(tests), {})
        if sound.code != 0:
            print(f"without a fault the tests are not green: {sound}\n{sound.said}")
            return 1
        print(f"{'green':9} {sound.seconds:5.1f} s  no fault", flush=True)
        survived = 0
        for fault in faults:
            outcome = planted(tree, fault)
            survived += not outcome.is_seen
            print(f"{outcome}  {fault.file:28} {fault.what:52} {fault.tests}", flush=True)
    print(f"{len(faults) - survived} of {len(faults)} faults are seen")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
