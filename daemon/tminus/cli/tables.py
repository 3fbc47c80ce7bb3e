"""Print tables. On a terminal they fit its width; in a pipe nothing is padded or cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tminus.cli import output
from tminus.cli.output import Line, Span
from tminus.domain import text

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    least: int | None = None
    """The width to which the column may shrink on a narrow terminal; None: it never shrinks."""
    wide: bool = False
    """Whether it is shown only with `--wide`."""
    folds: bool = False
    """Whether text that does not fit continues on the next line; otherwise it is cut and ends in `…`."""


Row = Sequence[Span | str]


def show(columns: Sequence[Column], rows: Iterable[Row], *, wide: bool = False) -> None:
    """Print a table. With `wide`, a table that is wider than the terminal is printed row by row, as fields."""
    chosen = [at for at, column in enumerate(columns) if wide or not column.wide]
    titles = [columns[at].title for at in chosen]
    cells = [[_span(row[at]) for at in chosen] for row in rows]
    if not output.is_terminal():
        output.put_fields(titles)
        for row in cells:
            output.put_fields([span.text for span in row])
        return
    width = output.size()[0]
    shown = [columns[at] for at in chosen]
    if wide and cells and _total(_widths(shown, cells, None)) > width:
        for number, row in enumerate(cells):
            if number:
                output.put([[]])
            fields((title.lower(), span) for title, span in zip(titles, row, strict=True) if span.text)
        return
    output.put(lines(shown, cells, width))


def least_width(columns: Sequence[Column], rows: Sequence[Sequence[Span]]) -> int:
    """Return the smallest width of the table in which no cell is cut. Columns that fold then have their least width."""
    widths = _widths(columns, [[Span(text.escape(span.text)) for span in row] for row in rows], None)
    return _total(
        [(column.least or 0) if column.folds else width for column, width in zip(columns, widths, strict=True)]
    )


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def lines(columns: Sequence[Column], rows: Sequence[Sequence[Span]], width: int | None) -> list[Line]:
    """Return a table's lines, the heading first, within `width` columns; None: without a limit."""
    shown = [[Span(text.escape(span.text), span.style) for span in row] for row in rows]
    widths = _widths(columns, shown, width)
    heading = [Span(column.title, "dim") for column in columns]
    drawn = [line for row in (heading, *shown) for line in _row(columns, row, widths)]
    return drawn if width is None else [_within(line, width) for line in drawn]


def _within(line: Line, width: int) -> Line:
    """Return a line cut to the width of the terminal, which would otherwise wrap it."""
    kept: Line = []
    left = width
    for span in line:
        taken = text.width(span.text)
        if taken > left:
            return [*kept, Span(text.cut(span.text, left), span.style)]
        kept.append(span)
        left -= taken
    return kept


def fields(pairs: Iterable[tuple[str, Span | str]]) -> None:
    """Print one object, one field per line. Values are never cut."""
    known = [(name, _span(value)) for name, value in pairs]
    if not output.is_terminal():
        for name, value in known:
            output.put_fields([name, value.text])
        return
    longest = max(len(name) for name, _ in known)
    output.put([[Span(f"{name:<{longest}}{GAP}", "dim"), value] for name, value in known])


def _span(cell: Span | str) -> Span:
    return Span(cell) if isinstance(cell, str) else cell


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Span]], width: int | None) -> list[int]:
    """Return the width of each column: its widest cell, or less if the table would exceed `width`."""
    widths = [max((text.width(row[at].text) for row in rows), default=0) for at in range(len(columns))]
    widths = [max(found, len(column.title)) for found, column in zip(widths, columns, strict=True)]
    if width is None:
        return widths
    while (over := _total(widths) - width) > 0:
        flexible = [at for at, column in enumerate(columns) if column.least is not None and widths[at] > column.least]
        if not flexible:
            break
        widest = max(flexible, key=lambda at: widths[at])
        others = max((widths[at] for at in flexible if at != widest), default=0)
        least = columns[widest].least or 0
        widths[widest] = max(least, widths[widest] - over, min(others, widths[widest] - 1))
    return widths


def _row(columns: Sequence[Column], row: Sequence[Span], widths: Sequence[int]) -> list[Line]:
    parts = [
        folded(span.text, width) if column.folds else [text.cut(span.text, width)]
        for column, span, width in zip(columns, row, widths, strict=True)
    ]
    result: list[Line] = []
    for number in range(max(map(len, parts))):
        line: Line = []
        for at, part in enumerate(parts):
            piece = part[number] if number < len(part) else ""
            pad = " " * (widths[at] - text.width(piece)) if at < len(parts) - 1 else ""
            line += [Span(piece, row[at].style), Span(pad + (GAP if at < len(parts) - 1 else ""))]
        result.append(line)
    return result


def folded(sentence: str, width: int) -> list[str]:
    """Return the sentence in lines of at most `width` columns, broken at spaces if possible."""
    result, line = [], ""
    for word in sentence.split(" "):
        joined = f"{line} {word}" if line else word
        if text.width(joined) <= width:
            line = joined
            continue
        if line:
            result.append(line)
        line = word
        while text.width(line) > width > 1:
            piece = text.cut(line, width + 1)[:-1] if text.width(line) > width + 1 else line[:-1]
            piece = piece or line[0]
            result.append(piece)
            line = line[len(piece) :]
    return [*result, line]
