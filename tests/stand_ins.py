"""What stands where a file should be, as downloads, clones and packers leave it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.jsonl", "{}\n")
    return buffer.getvalue()


# Of each: its bytes, what an error says of it, a word of the hint.
STAND_INS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "it is empty", "download or copy it again"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "it is a git-lfs pointer",
        "git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html class=''>404", "it is a page of HTML", "/resolve/"),
    "html-bom": (b"\xef\xbb\xbf<HTML><body>", "it is a page of HTML", "/resolve/"),
    "zeros": (bytes(4096), "it is zeros", "download it again"),
    "gzip": (gzip.compress(b'{"a": 1}'), "it is compressed by gzip", "gzip -d"),
    "xz": (lzma.compress(b'{"a": 1}'), "it is compressed by xz", "xz -d"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24\x09", "it is compressed by zstd", "zstd -d"),
    "bzip2": (bz2.compress(b'{"a": 1}'), "it is compressed by bzip2", "bzip2 -d"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "it is an archive of 7-Zip", "unpack it"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(16), "it is a GGUF", "safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "it is HDF5", "save_pretrained"),
}
# What is right in one place and wrong in another.
OTHER_KINDS: dict[str, tuple[bytes, str, str]] = {
    "zip": (_zipped(), "it is a ZIP", "exported as CSV"),
    "safetensors": (b"\x08" + bytes(7) + b"{}      ", "it is a safetensors file", "end in"),
    "pickle": (b"\x80\x02}q\x00.", "it is a pickle", "save_pretrained"),
    "parquet": (b"PAR1\x15\x04", "it is Parquet", "end in .parquet"),
}
ALL = STAND_INS | OTHER_KINDS
