"""The journal: what is written is read, a torn end is nothing, and any other damage is named."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
import zlib

import pytest

from tinyzo.errors import RunError
from tinyzo.runs.history import History, Return
from tinyzo.runs.journal import HEADER, Header, Journal, read_journal, record_crc
from tinyzo.zo.mezo import Step

HEAD = Header(losses=2, terms=1, kind="gaussian", base="ab" * 32)
STEPS = [
    Step((0.5 + i, 0.25 - i), 0.125 * i, ((2**53 - i, -1e-7 * i),), decay=1e-9 * i)
    for i in range(1, 5)
]
RECORD = 56  # step u32, decay f64, gradient f64, 2 losses f64, seed u64, coefficient f64, crc u32


def write(path, steps=STEPS, header=HEAD):
    with Journal(path, header) as journal:
        for step in steps:
            journal.append(step)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "journal")


def read(path):
    return read_journal(path).history.steps


def test_what_is_written_is_read(path):
    header, history, _ = read_journal(path)
    assert (header, history) == (HEAD, History(STEPS))
    assert path.stat().st_size == HEADER.size + 4 * RECORD


def test_the_bytes_of_format_1(path):
    """Header and first record, written down once: journals of any version are read."""
    header = "74696e797a6f2d6a0100020001000101" + "ab" * 32 + "7478497f"
    record = (
        "0100000095d626e80b2e113e000000000000c03f000000000000f83f000000000000e8bf"
        "ffffffffffff1f0048afbc9af2d77abe97716e52"
    )
    assert path.read_bytes()[: HEADER.size + RECORD].hex() == header + record


def test_no_terms_and_several_terms(tmp_path):
    header = Header(losses=3, terms=2, kind="rademacher", base="00" * 32)
    step = Step((1.0, 2.0, 3.0), -4.0, ((0, 0.5), (2**64 - 1, -0.5)))
    assert read_journal(write(tmp_path / "j", [step], header))[:2] == (header, History([step]))
    assert read(write(tmp_path / "empty", [])) == []


def test_it_goes_on_where_it_ended(path):
    whole = path.read_bytes()
    path.unlink()
    for step in STEPS:
        write(path, [step])
    assert path.read_bytes() == whole


BACK = Return(after=3, to=1, factor=0.3)


def write_with_return(path):
    with Journal(path, HEAD) as journal:
        for step in STEPS[:3]:
            journal.append(step)
        journal.append_return(BACK)
        journal.append(STEPS[3])
    return path


def test_a_return_is_a_record_that_takes_no_step(tmp_path):
    path = write_with_return(tmp_path / "journal")
    assert path.stat().st_size == HEADER.size + 5 * RECORD
    history = read_journal(path).history
    assert history == History(STEPS, [BACK])
    assert [number for number, _ in history.way(4)] == [0, 3]
    assert [number for number, _ in history.way(3)] == [0, 1, 2]
    whole = path.read_bytes()
    crcs = {step: record_crc(path, step) for step in (1, 2, 3, 4, 5)}
    records = [whole[HEADER.size + at * RECORD :][:RECORD][-4:].hex() for at in (0, 1, 2, 4)]
    assert list(crcs.values()) == [*records, ""]


def test_a_torn_return_is_as_if_never_written(tmp_path):
    path = write_with_return(tmp_path / "journal")
    whole = path.read_bytes()
    for size in range(HEADER.size + 3 * RECORD, HEADER.size + 4 * RECORD):
        path.write_bytes(whole[:size])
        assert read_journal(path).history == History(STEPS[:3])
    with Journal(path, HEAD) as journal:
        journal.append_return(BACK)
        journal.append(STEPS[3])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("to", [5.0, -1.0, 0.5, float("nan")])
def test_a_return_to_no_step_is_corrupt(tmp_path, to):
    path = write(tmp_path / "journal")
    crc = int.from_bytes(path.read_bytes()[-4:], "little")
    for end in (b"", b"\0" * RECORD):
        with path.open("ab") as file:
            file.write(HEAD.pack_return(Return(4, to, 0.3), crc) + end)
        if end:
            with pytest.raises(RunError, match="record 5 of 6 is corrupt"):
                read_journal(path)
        else:
            assert read_journal(path).history == History(STEPS)
            write(path, [])


@pytest.mark.parametrize("size", range(HEADER.size + 3 * RECORD, HEADER.size + 4 * RECORD))
def test_a_torn_last_record_is_as_if_never_written(path, size):
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert read(path) == STEPS[:3]
    write(path, STEPS[3:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("size", range(HEADER.size))
def test_a_torn_header_is_as_if_never_written(path, size):
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert write(path).read_bytes() == whole


def test_a_corrupt_byte_of_the_last_record_leaves_it_out(path):
    whole = path.read_bytes()
    for at in range(len(whole) - RECORD, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert read(path) == STEPS[:3]
    write(path, STEPS[3:])
    assert path.read_bytes() == whole


def test_a_corrupt_byte_anywhere_else_is_an_error_with_its_place(path):
    whole = path.read_bytes()
    for at in range(len(whole) - RECORD):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(RunError) as error:
            read_journal(path)
        where = "not a journal" if at < 8 else "its header"
        if at >= HEADER.size:
            where = f"record {1 + (at - HEADER.size) // RECORD} of 4 is corrupt"
        assert where in error.value.message, at
        assert error.value.hint


@pytest.mark.parametrize(
    ("order", "bad"),
    [
        ([0, 1, 1, 2, 3], 3),  # repeated
        ([0, 2, 3], 2),  # removed
        ([1, 2, 3], 1),
        ([0, 2, 1, 3], 2),  # swapped
    ],
)
def test_records_that_are_repeated_removed_or_swapped_are_noticed(path, order, bad):
    whole = path.read_bytes()
    records = [whole[HEADER.size + i * RECORD :][:RECORD] for i in order]
    path.write_bytes(whole[: HEADER.size] + b"".join(records))
    with pytest.raises(RunError, match=f"record {bad} of {len(order)} is corrupt"):
        read_journal(path)


def test_a_record_of_another_journal_is_noticed(path, tmp_path):
    """Each checksum covers all before it, down to the header."""
    other = write(tmp_path / "other", header=Header(2, 1, "gaussian", "cd" * 32)).read_bytes()
    path.write_bytes(path.read_bytes()[: HEADER.size + RECORD] + other[HEADER.size + RECORD :])
    with pytest.raises(RunError, match="record 2 of 4 is corrupt"):
        read_journal(path)


@pytest.mark.parametrize(
    "other",
    [
        Header(2, 1, "gaussian", "cd" * 32),
        Header(2, 1, "rademacher", "ab" * 32),
        Header(3, 1, "gaussian", "ab" * 32),
        Header(2, 2, "gaussian", "ab" * 32),
    ],
)
def test_a_journal_of_another_run_is_refused_and_left_alone(path, other):
    whole = path.read_bytes()
    with pytest.raises(RunError) as error:
        Journal(path, other)
    assert f"it records {HEAD}; this run has {other}" in error.value.message
    assert "2 losses, 1 gaussian terms a step, base abababababab" in error.value.message
    assert path.read_bytes() == whole
    write(path, [])  # and the lock is given back


@pytest.mark.parametrize(
    ("version", "kind", "message"),
    [
        (2, 0x0101, "its header says journal format 2 and z format 1"),
        (1, 0x0201, "its header says journal format 1 and z format 2"),
        (1, 0x0109, "its header is corrupt"),
    ],
)
def test_headers_of_another_format_or_kind(tmp_path, version, kind, message):
    body = struct.pack("<8sHHHH32s", b"tinyzo-j", version, 2, 1, kind, bytes(32))
    (tmp_path / "journal").write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    with pytest.raises(RunError, match=message):
        read_journal(tmp_path / "journal")


def test_what_is_no_journal(tmp_path):
    (tmp_path / "text").write_text("something else, and longer than the header of a journal is it")
    with pytest.raises(RunError, match="text: not a journal of tinyzo"):
        Journal(tmp_path / "text", HEAD)
    assert (tmp_path / "text").read_text().startswith("something else")
    with pytest.raises(RunError, match="none: No such file or directory"):
        read_journal(tmp_path / "none")
    with pytest.raises(RunError, match="Is a directory"):
        Journal(tmp_path, HEAD)


def test_one_process_at_a_time(path):
    code = (
        "import sys; from pathlib import Path; from tinyzo.runs.journal import *;"
        f"from tinyzo.errors import RunError; header = {HEAD!r}\n"
        "try: Journal(Path(sys.argv[1]), header)\n"
        "except RunError as error: print(error.message)"
    )
    with Journal(path, HEAD) as journal:
        command = [sys.executable, "-c", code, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout == f"{path}: another process is at work on this run\n"
        with pytest.raises(RunError, match="another process is at work"):
            Journal(path, HEAD)
        journal.append(STEPS[0])
        assert len(read(path)) == 5  # reading needs no lock
    write(path, [])


class FullDisk:
    """A file that takes so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, RECORD - 1])
def test_a_full_disk_is_an_error_and_the_journal_goes_on_later(path, room):
    whole = path.read_bytes()
    path.write_bytes(whole[: HEADER.size + 2 * RECORD])
    with Journal(path, HEAD) as journal:
        journal._file = FullDisk(journal._file, RECORD + room)
        journal.append(STEPS[2])
        with pytest.raises(RunError, match=r"journal: No space left on device") as error:
            journal.append(STEPS[3])
        assert "make room on the disk, then --resume" in error.value.hint
        assert journal.steps == STEPS[:3]
    assert path.read_bytes() == whole[: HEADER.size + 3 * RECORD + room]
    assert write(path, STEPS[3:]).read_bytes() == whole


def test_it_is_unbuffered(path):
    """What append wrote is in the file before anything else happens: a kill loses nothing."""
    with Journal(path, HEAD) as journal:
        journal.append(STEPS[0])
        assert path.stat().st_size == HEADER.size + 5 * RECORD
