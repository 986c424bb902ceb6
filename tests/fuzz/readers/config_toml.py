"""A file of settings, as --config takes one: what is read of it is written and read again."""

from __future__ import annotations

from fuzz.reader import Reader, place

from tinyzo.models.model import MODELS
from tinyzo.parsing import read_toml
from tinyzo.runs.settings import CHOICES, FIELDS, Settings


def read(data: bytes) -> None:
    path = place("settings.toml", data)
    given = Settings.from_mapping(read_toml(path), path.name)
    for family in MODELS:
        settings = given.resolve(family)
        again = read_toml(place("run.toml", settings.to_toml().encode()))
        if Settings.from_mapping(again, "run.toml").resolve(family) != settings:
            raise ValueError("other settings were written than read")


READER = Reader(
    read,
    seeds=[
        b"\n",
        b"\xef\xbb\xbflr = 1e-3\r\n",
        b'model = "opt-tiny"\ntask = "reviews"\nsteps = 3\nlr = 1e-3\nmemory-budget = "1.5GB"\n',
        b'method = "lozo"\nwindow = 5\nseed = 7\ntrain = "full"\nschedule = "linear"\r\n',
        b"template = '''{x}\n<mask>'''\nlabel-words = ['a', \"b\"]\ndata = 'rows.csv'\n",
        b'train = "lora"\nlora_rank = 4\nlora_alpha = 2.5\nlora_targets = ["a"]\nclip = 3\n',
        b"eps = 1_0.0e-5 # no more\nqueries = 0x3\n",
    ],
    words=[
        *(f"\n{name} = ".encode() for name in FIELDS),
        *(f'"{choice}"'.encode() for choices in CHOICES.values() for choice in choices),
        *(b"\n", b" = ", b"nan", b"-inf", b"1e999", b'"~"', b"'''", b"[a]\n", b"{a = 1}", b"1"),
        *(b"1979-05-27", b"07:32:00", b'"\\u0000"', b'"\\u0085"', b'"\\u2028"', b"[['a']]", b"1.0"),
    ],
)
