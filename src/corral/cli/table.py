"""Lists for people and programs: table, compact, csv, json and yaml, and the natural order of names."""

from __future__ import annotations

from corral.cli import output
from corral.errors import CorralError, InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Any

    Row = list[str]


def show(format_name: str, header: Sequence[str], rows: Sequence[Row], raw: Any) -> None:
    """Print a list in one of the formats; `raw` is what json and yaml show. Raises InvalidRequest."""
    if format_name == "table":
        output.write(render_table(header, rows))
    elif format_name == "compact":
        output.write(render_compact(header, rows))
    elif format_name == "csv":
        output.write(render_csv(rows))
    elif format_name == "json":
        output.write(render_json(raw))
    elif format_name == "yaml":
        from corral.client.yaml_output import render_yaml

        output.write(render_yaml(raw))
    else:
        raise InvalidRequest(f'Invalid format "{format_name}"')


def parse_columns(chosen: str, letters: Container[str], *, dotted: bool = False) -> list[str]:
    """The columns that a `-c` argument names, by their letters; with `dotted` entries with a dot stand for themselves.

    Raises CorralError for other letters and for empty entries.
    """
    columns: list[str] = []
    for entry in chosen.split(","):
        if not entry:
            raise CorralError(f"Empty column entry (redundant, leading or trailing command) in '{chosen}'")
        if dotted and "." in entry:
            columns.append(entry)
            continue
        for letter in entry:
            if letter not in letters:
                raise CorralError(f"Unknown column shorthand char '{letter}' in '{entry}'")
            columns.append(letter)
    return columns


def without_location(chosen: str, default: str, *, is_clustered: bool) -> str:
    """The columns without `L` where there are no members. Raises CorralError where somebody asked for it."""
    if is_clustered or "L" not in chosen:
        return chosen
    if chosen != default:
        raise CorralError("Can't specify column L when not clustered")
    return chosen.replace("L", "")


def natural_key(text: str) -> tuple[tuple[object, ...], ...]:
    """A sort key: numbers by value and before letters, empty texts last."""
    if text == "":
        return ((2,),)
    parts: list[tuple[object, ...]] = []
    position = 0
    size = len(text)
    while position < size:
        end = position + 1
        is_number = "0" <= text[position] <= "9"
        while end < size and ("0" <= text[end] <= "9") == is_number:
            end += 1
        run = text[position:end]
        if is_number:
            digits = run.lstrip("0")
            parts.append((0, len(digits), digits, len(run) - len(digits)))
        else:
            parts.append((1, run))
        position = end
    return tuple(parts)


def sort_rows(rows: list[Row]) -> None:
    """Sort rows by their cells, from the first to the last."""
    firsts = {row[0] for row in rows if row}
    if len(firsts) == len(rows):
        rows.sort(key=lambda row: natural_key(row[0]))
    else:
        rows.sort(key=lambda row: [natural_key(cell) for cell in row])


def width_of(text: str) -> int:
    """How many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def title(text: str) -> str:
    """A column's heading: upper case, with `_` and `.` as spaces, except in numbers."""
    if "." in text or "_" in text:
        letters = list(text)
        for index, letter in enumerate(text):
            if letter == "_" or (letter == "." and not _is_decimal_point(text, index)):
                letters[index] = " "
        text = "".join(letters).strip() or " "
    return text.upper()


def _is_decimal_point(text: str, index: int) -> bool:
    before = text[index - 1] if index else "0"
    after = text[index + 1] if index + 1 < len(text) else "0"
    return (before.isdecimal() or before == " ") and (after.isdecimal() or after == " ")


def _lay_out(header: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[list[Row]], list[int]]:
    """Headings, cells split into lines, and the width of each column."""
    titles = [title(text) for text in header]
    widths = [width_of(text) for text in titles]
    cells = []
    for row in rows:
        split = [cell.split("\n") if "\n" in cell else [cell] for cell in row]
        cells.append(split)
        for column, lines in enumerate(split):
            for line in lines:
                if len(line) > widths[column] or not line.isascii():
                    widths[column] = max(widths[column], width_of(line))
    return titles, cells, widths


def _centre(text: str, width: int) -> str:
    gap = width - width_of(text)
    left = gap // 2
    return " " * left + text + " " * (gap - left)


def _pad(text: str, width: int) -> str:
    return text.ljust(width) if text.isascii() else text + " " * (width - width_of(text))


def render_table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """A table with borders and a line below each row."""
    titles, cells, widths = _lay_out(header, rows)
    border = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [
        border,
        "| " + " | ".join(_centre(text, width) for text, width in zip(titles, widths, strict=True)) + " |",
        border,
    ]
    for row in cells:
        height = max(len(lines_of_cell) for lines_of_cell in row) if row else 0
        for index in range(height):
            shown = [
                _pad(cell[index] if index < len(cell) else "", width) for cell, width in zip(row, widths, strict=True)
            ]
            lines.append("| " + " | ".join(shown) + " |")
        lines.append(border)
    lines.append("")
    return "\n".join(lines)


def render_compact(header: Sequence[str], rows: Sequence[Row]) -> str:
    """A table of columns with nothing between them."""
    titles, cells, widths = _lay_out(header, rows)
    lines = ["  " + "  ".join(_centre(text, width) for text, width in zip(titles, widths, strict=True)) + "  "]
    for row in cells:
        for index in range(max(len(lines_of_cell) for lines_of_cell in row) if row else 0):
            shown = [
                _pad(cell[index] if index < len(cell) else "", width) for cell, width in zip(row, widths, strict=True)
            ]
            lines.append("  " + "  ".join(shown) + "  ")
    lines.append("")
    return "\n".join(lines)


def render_csv(rows: Sequence[Row]) -> str:
    """Comma separated values without a header."""
    return "".join(",".join(_csv_field(cell) for cell in row) + "\n" for row in rows)


def _csv_field(cell: str) -> str:
    if cell == "\\." or (cell and (cell[0] in " \t" or any(letter in ',"\r\n' for letter in cell))):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def render_json(raw: Any, *, escape_html: bool = True) -> str:
    """One line of JSON as Go's encoder writes it."""
    import json

    text = json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    if escape_html:
        for letter in "<>&":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"
