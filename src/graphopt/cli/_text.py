"""Names out of a model on a terminal: a model is not trusted, and a terminal obeys what it is sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

# Control characters (ESC among them, and the one-character forms of its sequences), what turns the direction of text
# around or is no character at all, and line separators that are not \n.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str, newlines: bool = True) -> str:
    r"""Text whose control characters are spelled out; newlines, too, where they are not the program's own.

    >>> printable("a\x1b[2Jb\nc"), printable("a\nb", newlines=False)
    ('a\\x1b[2Jb\\nc', 'a\nb')
    """
    text = _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)
    return text.replace("\n", "\\n") if newlines else text


class Printable:
    """A rich renderable with the control characters in its text spelled out; its own styles stay."""

    def __init__(self, part: RenderableType):
        self.part = part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self.part, options):
            text = segment.text if segment.control else printable(segment.text, newlines=False)
            yield Segment(text, segment.style, segment.control)
