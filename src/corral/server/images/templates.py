"""Renders an image's templates: pongo2's syntax, run by Jinja2's sandbox within bounds. Pure; writing is the caller's.

pongo2 is Django's language in Go. Nearly all of it is Jinja2 too; the rest (`|filter:argument`, `&&`, `||`, `!`,
`ifequal`, `empty`, `comment`, `autoescape`) is translated before parsing. A template may only loop a bounded number
of times, make bounded texts and call `config_get`; it reaches no file, no attribute and no method.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from jinja2 import ChainableUndefined, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from corral.errors import InvalidRequest
from corral.server.images.formats import ImageMetadata, Template

SOURCE_LIMIT = 256 * 1024
TEXT_LIMIT = 4 * 1024 * 1024
ITERATION_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class TemplateVariables:
    """What a template may show of an instance. `config` and `devices` are the expanded ones."""

    name: str
    architecture: str
    type: str = "container"
    ephemeral: bool = False
    privileged: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file to write below the instance's root. `create_only`: only where none exists."""

    path: str
    content: bytes
    create_only: bool


def due_templates(metadata: ImageMetadata, trigger: str) -> dict[str, Template]:
    """The templates that this trigger (create, copy, start, rename) renders, by path."""
    return {path: template for path, template in metadata.templates.items() if trigger in template.when}


def render_templates(
    metadata: ImageMetadata, trigger: str, variables: TemplateVariables, read: Callable[[str], str]
) -> list[RenderedFile]:
    """Render what is due; `read` gives the text of a file of templates/. Raises InvalidRequest naming the template."""
    rendered = []
    for path, template in due_templates(metadata, trigger).items():
        try:
            text = render(read(template.template), _context(path, trigger, template, variables), variables.config)
        except (TemplateError, RecursionError, ArithmeticError, TypeError, ValueError) as error:
            raise InvalidRequest(f"Failed to render template {template.template!r} for {path}: {error}") from error
        content = text.encode("utf-8", "surrogateescape")
        rendered.append(RenderedFile("/" + path.lstrip("/"), content, template.create_only))
    return rendered


def render(source: str, context: Mapping[str, Any], config: Mapping[str, str]) -> str:
    """Render one template. Raises TemplateError or SecurityError."""
    if len(source) > SOURCE_LIMIT:
        raise SecurityError(f"the template is larger than {SOURCE_LIMIT} characters")
    environment = _environment()
    tree = environment.parse(translate(source))
    _restrict(tree)
    iterations = 0

    def bounded(items: Iterable[Any]) -> Iterator[Any]:
        nonlocal iterations
        for item in items:
            iterations += 1
            if iterations > ITERATION_LIMIT:
                raise SecurityError("the template loops too often")
            yield item

    def config_get(key: Any = "", default: Any = "") -> Any:
        value = config.get(str(key))
        return default if value is None else value.rstrip("\r\n")

    template = environment.template_class.from_code(
        environment, environment.compile(tree), {"config_get": config_get, "_bounded": bounded}
    )
    parts, size = [], 0
    for part in template.generate(context):
        size += len(part)
        if size > TEXT_LIMIT:
            raise SecurityError(f"the result is larger than {TEXT_LIMIT} characters")
        parts.append(part)
    return "".join(parts)


_TAG = re.compile(r"\{#.*?#\}|\{\{-?.*?-?\}\}|\{%-?.*?-?%\}", re.DOTALL)
_OPERATOR = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<or>\|\|)|(?P<and>&&)|(?P<differs>!=)|(?P<not>!)"""
    r"""|\|\s*(?P<filter>\w+)\s*:\s*(?P<argument>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[\w.]+)"""
)
_COMMENT = re.compile(r"\{%-?\s*comment\b.*?%\}.*?\{%-?\s*endcomment\s*-?%\}", re.DOTALL)
_DROPPED = re.compile(r"\{%-?\s*(?:end)?autoescape\b.*?%\}")
_EQUAL = re.compile(r"(\{%-?\s*)if(not)?equal\s+(.*?)(\s*-?%\})", re.DOTALL)


def translate(source: str) -> str:
    """pongo2's template as Jinja2's."""
    source = _DROPPED.sub("", _COMMENT.sub("", source))
    source = _EQUAL.sub(_compare, source)
    source = re.sub(r"(\{%-?\s*)endif(?:not)?equal\b", r"\1endif", source)
    source = re.sub(r"(\{%-?\s*)empty(\s*-?%\})", r"\1else\2", source)
    source = re.sub(r"(\{%-?\s*)(end)?verbatim(\s*-?%\})", r"\1\2raw\3", source)
    return _TAG.sub(lambda tag: _OPERATOR.sub(_operator, tag[0]), source)


def _compare(match: re.Match[str]) -> str:
    operands = shlex.split(match[3], posix=False)
    if len(operands) != 2:
        raise SecurityError("ifequal compares two values")
    return f"{match[1]}if {operands[0]} {'!=' if match[2] else '=='} {operands[1]}{match[4]}"


def _operator(match: re.Match[str]) -> str:
    if match["filter"]:
        return f"|{match['filter']}({match['argument']})"
    words = {"or": " or ", "and": " and ", "not": " not "}
    return words.get(match.lastgroup or "", match[0])


_FORBIDDEN = (
    nodes.Extends,
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Macro,
    nodes.CallBlock,
    nodes.Block,
    nodes.Concat,
    nodes.Pow,
)


def _restrict(tree: nodes.Template) -> None:
    for node in tree.find_all(nodes.Node):
        if isinstance(node, _FORBIDDEN):
            raise SecurityError(f"{type(node).__name__.lower()} is not available in image templates")
        if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Name) and node.node.name == "config_get"):
            raise SecurityError("a template can call nothing but config_get")
        if isinstance(node, nodes.For) and node.recursive:
            raise SecurityError("loops cannot be recursive in image templates")
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Call(nodes.Name("_bounded", "load"), [loop.iter], [], None, None, lineno=loop.lineno)


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _short(left, len(right)) + right
        if not isinstance(left, int | float) or not isinstance(right, int | float) or abs(left * right) > 2**64:
            raise SecurityError(f"{operator!r} works on numbers only")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Environment:
    environment = _Environment(undefined=ChainableUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.clear()
    environment.filters = dict(_FILTERS)
    return environment


def _short(text: str, more: int = 0) -> str:
    if len(text) + more > TEXT_LIMIT:
        raise SecurityError(f"a text is longer than {TEXT_LIMIT} characters")
    return text


def _join(items: Any, separator: Any = "") -> str:
    texts, between = [str(item) for item in items], str(separator)
    _short("", sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _add(value: Any, other: Any) -> Any:
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value + other
    return _short(str(value), len(str(other))) + str(other)


def _yes_no(value: Any, words: Any = "yes,no,maybe") -> str:
    choices = str(words).split(",")
    return choices[0] if value else choices[min(1, len(choices) - 1)]


def _integer(value: Any) -> int:
    try:
        return int(str(value)[:32])
    except ValueError:
        return 0


_FILTERS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "addslashes": lambda value: re.sub(r"([\\\"'])", r"\\\1", str(value)),
    "capfirst": lambda value: str(value)[:1].upper() + str(value)[1:],
    "cut": lambda value, part: str(value).replace(str(part), ""),
    "default": lambda value, other="": value or other,
    "default_if_none": lambda value, other="": other if value is None else value,
    "escape": lambda value: _short(escape(str(value))),
    "first": lambda value: next(iter(value), ""),
    "integer": _integer,
    "join": _join,
    "last": lambda value: list(value)[-1] if value else "",
    "length": len,
    "lower": lambda value: str(value).lower(),
    "safe": lambda value: value,
    "split": lambda value, separator: str(value).split(str(separator)),
    "title": lambda value: str(value).title(),
    "trim": lambda value: str(value).strip(),
    "truncatechars": lambda value, length: str(value)[: _integer(length)],
    "upper": lambda value: str(value).upper(),
    "urlencode": lambda value: _short(quote(str(value), safe="")),
    "wordcount": lambda value: len(str(value).split()),
    "yesno": _yes_no,
}


def _context(path: str, trigger: str, template: Template, variables: TemplateVariables) -> dict[str, Any]:
    instance = {
        "name": variables.name,
        "type": variables.type,
        "architecture": variables.architecture,
        "ephemeral": "true" if variables.ephemeral else "false",
        "privileged": "true" if variables.privileged else "false",
    }
    return {
        "trigger": trigger,
        "path": path,
        "container": instance,
        "instance": instance,
        "config": dict(variables.config),
        "devices": {name: dict(device) for name, device in variables.devices.items()},
        "properties": dict(template.properties),
    }
