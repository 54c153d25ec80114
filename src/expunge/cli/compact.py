"""Named settings in one argument: `resnet,width=16,depth=18`."""

import re
import tomllib
from pathlib import Path

from expunge.types import Json

PAIR = re.compile(r",(?=\s*[\w.]+\s*=)")  # a comma before a key, not one within a list
SUFFIXES = {".npz": "npz", ".csv": "table", ".parquet": "table"}


def table(text: str) -> dict[str, Json]:
    """Return the settings table that `name,key=value,...` stands for.

    A value is read as TOML, and as plain text where it is not; `a.b=1` nests.
    """
    name, *pairs = PAIR.split(text)
    if "," in name:
        rest = name.partition(",")[2]
        raise ValueError(f"expected key=value after a comma, got '{rest}' in '{text}'")
    found: dict[str, Json] = {"name": name.strip()}
    for pair in pairs:
        key, _, value = pair.partition("=")
        place = found
        *above, last = key.strip().split(".")
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"'{part}' is given twice in '{text}', as a value and with parts")
        place[last] = _value(value.strip())
    return found


def source(text: str) -> dict[str, Json]:
    """Return the table of a data set: a name, a file, a folder of images, an import path."""
    head, comma, rest = text.partition(",")
    path = Path(head)
    if path.suffix.lower() in SUFFIXES:
        head = f"{SUFFIXES[path.suffix.lower()]},path={head}"
    elif path.is_dir():
        head = f"image_folder,path={head}"
    elif ":" in head and "=" not in head:
        head = f"dataset,path={head}"
    return table(head + comma + rest)


def chosen(text: str) -> dict[str, Json]:
    """Return the table of a forget set: a file of record ids, or a named choice."""
    head = text.partition(",")[0]
    if Path(head).is_file() and "=" not in text:
        return {"name": "ids", "path": head}
    if Path(head).suffix or "/" in head:
        raise ValueError(f"there is no file {head}; expected a list of record ids, one a line")
    return table(text)


def _value(text: str) -> Json:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
