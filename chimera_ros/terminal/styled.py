"""Text and console of the library rich that take text from outside literally.

No markup (`[red]`), no emoji codes (`:bomb:`), no highlighting of words in text, and no line break or control
character out of a text (`formats.display`). Several lines are several texts, in a `rich.console.Group`.
"""

from __future__ import annotations

from typing import IO, Any, cast

import rich.console
import rich.text

from chimera_ros.formats import display


class Text(rich.text.Text):
    """One line of text with a style."""

    def __init__(self, text: object = "", style: Any = "", **options: Any) -> None:
        super().__init__(display.line(text), style, **options)

    @classmethod
    def assemble(cls, *parts: Any, **options: Any) -> Text:
        """One line of strings, texts, and strings with a style."""
        return cast(Text, super().assemble(*parts, **options))  # it appends to one of `cls`

    def append(self, text: Any, style: Any = None) -> Text:
        """Append a string in a style, or a text in its own."""
        super().append(display.line(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """Where tables and texts are printed."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, **options: Any) -> None:
        super().__init__(stderr=stderr, file=file, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """A text from a string, such as a cell of a table."""
        return super().render_str(display.line(text), **options)
