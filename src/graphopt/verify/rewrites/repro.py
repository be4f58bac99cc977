"""A wrong rewrite in a folder of its own: the nodes before and after it, and the values that tell them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, NodeProto

from graphopt.analysis.record import Site
from graphopt.verify.repro import Story, write_repro
from graphopt.verify.rewrites.book import Book, assemble
from graphopt.verify.rewrites.replay import Fault

__all__ = ["write_site"]


def write_site(folder: str, book: Book, site: Site, fault: Fault) -> Path | None:
    """Writes the two sides of a site into a folder; None where it has none. Raises what `write_repro` raises."""
    sides = both_sides(book, site, fault)
    if sides is None:
        return None
    before, after, feeds = sides
    return write_repro(folder, before, after, feeds, story=Story(site.rule, site.labels, fault.why))


def both_sides(book: Book, site: Site, fault: Fault) -> tuple[ModelProto, ModelProto, dict[str, object]] | None:
    """The old and the new nodes as models with the same inputs and outputs, and the values that they differ on."""
    window = book.window(site)
    if not window.old.steps or not fault.values or not set(window.new.leaves) <= set(fault.values):
        return None
    left = [name for name, _ in site.pairs]
    before, feeds = assemble(book, window.old, left, fault.values)
    new = replace(window.new, leaves={**dict.fromkeys(fault.values), **window.new.leaves})
    after, _ = assemble(book, new, left, fault.values)
    made = {name for node in after.graph.node for name in node.output}
    for node in after.graph.node:
        node.output[:] = [f"{name} (old)" if name in left else name for name in node.output]
        node.input[:] = [f"{name} (old)" if name in left and name in made else name for name in node.input]
    after.graph.node.extend(
        NodeProto(op_type="Identity", input=[f"{new} (old)" if new in left else new], output=[old], name=f"to {number}")
        for number, (old, new) in enumerate(site.pairs)
    )
    return before, after, feeds
