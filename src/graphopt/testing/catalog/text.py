"""Strings."""

from __future__ import annotations

from onnx import TensorProto

from graphopt.testing.catalog.call import Call
from graphopt.testing.catalog.elementwise import broadcast
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import Var


def _concat(c: Call) -> list[Var] | None:
    return broadcast(c, 2)


def _normalizer(c: Call) -> None:
    c.any(0, (1,))
    c.attr("locale", "C")
    c.attr("case_change_action", None, "LOWER", "UPPER", "NONE")
    c.attr("is_case_sensitive", None, 1)
    c.attr("stopwords", None, ["a"])


def _split(c: Call) -> None:
    c.any(0, (1, 2))
    c.attr("delimiter", None, " ", "a")
    c.attr("maxsplit", None, 1)
    c.n_out = 2


def _match(c: Call) -> None:
    c.any(0, (1, 2))
    c.attr("pattern", "[a-z]*", ".*")


def _tf_idf(c: Call) -> None:
    c.any(0, (1, 2), (TensorProto.INT64, TensorProto.INT32))
    for name, value in (("max_gram_length", 2), ("max_skip_count", 0), ("min_gram_length", 1), ("mode", "TF")):
        c.attr(name, value)
    c.attrs.setdefault("ngram_counts", [0, 2])
    c.attrs.setdefault("ngram_indexes", [0, 1, 2])
    c.attrs.setdefault("pool_int64s", [1, 2, 2, 3])


ENTRIES = [
    Entry("StringConcat", _concat),
    Entry("StringNormalizer", _normalizer),
    Entry("StringSplit", _split),
    Entry("RegexFullMatch", _match),
    Entry("TfIdfVectorizer", _tf_idf),
]
