"""Renders templates in pongo2's language by Jinja2's sandbox, within bounds of size and time. Pure.

pongo2 is Django's language in Go. Nearly all of it is Jinja2 too; the rest (`|filter:argument`, `&&`, `||`, `!`,
`ifequal`, `empty`, `comment`, `autoescape`, `forloop`) is translated before parsing. A template may only loop a bounded
number of times, make bounded texts and call `config_get`; it reaches no file, no attribute and no method.
"""

import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import ChainableUndefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from corral.server.pongo2.filters import FILTERS, TEXT_LIMIT, short

SOURCE_LIMIT = 256 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a rendering may use: turns of its loops altogether, and time."""

    iterations: int = 100_000
    time_s: float = 5.0


DEFAULT_BOUNDS = Bounds()


class _Guard:
    """What one rendering may still do: some loops, and some time, which is asked for at each loop and filter."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._iterations = 0
        self._deadline = time.monotonic() + bounds.time_s

    def check_time(self) -> None:
        """Raise SecurityError where the rendering has taken too long."""
        if time.monotonic() > self._deadline:
            raise SecurityError(f"the template takes longer than {self._bounds.time_s:g} s")

    def bounded(self, items: Iterable[Any], targets: int) -> Iterator[Any]:
        """The items of a loop; a mapping gives its keys, or with two targets keys and values, in their order."""
        if isinstance(items, Mapping):
            items = sorted(items.items()) if targets > 1 else sorted(items)
        for item in items:
            self._iterations += 1
            if self._iterations > self._bounds.iterations:
                raise SecurityError("the template loops too often")
            self.check_time()
            yield item

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that ends with the time of the rendering."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.check_time()
            return function(*args, **kwargs)

        return call


def render(source: str, context: Mapping[str, Any], config: Mapping[str, str], bounds: Bounds = DEFAULT_BOUNDS) -> str:
    """Render one template; `config_get` reads from the config. Raises TemplateError or SecurityError."""
    if len(source) > SOURCE_LIMIT:
        raise SecurityError(f"the template is larger than {SOURCE_LIMIT} characters")
    guard = _Guard(bounds)
    environment = _environment(guard)
    tree = environment.parse(translate(source))
    _restrict(tree)

    def config_get(key: Any = "", default: Any = "") -> Any:
        value = config.get(str(key))
        return default if value is None else value.rstrip("\r\n")

    template = environment.template_class.from_code(
        environment, environment.compile(tree), {"config_get": config_get, "_bounded": guard.bounded}
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
    r"""|(?P<forloop>\bforloop\.\w+)"""
    r"""|(?P<or>\|\|)|(?P<and>&&)|(?P<differs>!=)|(?P<not>!)"""
    r"""|\|\s*(?P<filter>\w+)\s*:\s*(?P<argument>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[\w.]+)"""
)
_COMMENT = re.compile(r"\{%-?\s*comment\b.*?%\}.*?\{%-?\s*endcomment\s*-?%\}", re.DOTALL)
_DROPPED = re.compile(r"\{%-?\s*(?:end)?autoescape\b.*?%\}")
_LOOP = re.compile(r"(\{%-?\s*for\s[^%]*?\sin\s[^%]*?)\s+(reversed(?:\s+sorted)?|sorted)(\s*-?%\})")
_FORLOOP = re.compile(r"\bforloop\.(Counter0|Counter|Revcounter0|Revcounter|First|Last)\b")
_LOOP_WORDS = {
    "Counter": "index",
    "Counter0": "index0",
    "Revcounter": "revindex",
    "Revcounter0": "revindex0",
    "First": "first",
    "Last": "last",
}
_EQUAL = re.compile(r"(\{%-?\s*)if(not)?equal\s+(.*?)(\s*-?%\})", re.DOTALL)


def translate(source: str) -> str:
    """pongo2's template as Jinja2's."""
    source = _DROPPED.sub("", _COMMENT.sub("", source))
    source = _EQUAL.sub(_compare, source)
    source = re.sub(r"(\{%-?\s*)endif(?:not)?equal\b", r"\1endif", source)
    source = re.sub(r"(\{%-?\s*)empty(\s*-?%\})", r"\1else\2", source)
    source = re.sub(r"(\{%-?\s*)(end)?verbatim(\s*-?%\})", r"\1\2raw\3", source)
    source = _LOOP.sub(_loop, source)
    return _TAG.sub(lambda tag: _OPERATOR.sub(_operator, tag[0]), source)


def _loop(match: re.Match[str]) -> str:
    words = match[2].split()
    ordered = "".join(f"|{word}_items" for word in sorted(words, reverse=True))
    return f"{match[1]}{ordered}{match[3]}"


def _compare(match: re.Match[str]) -> str:
    operands = shlex.split(match[3], posix=False)
    if len(operands) != 2:
        raise SecurityError("ifequal compares two values")
    return f"{match[1]}if {operands[0]} {'!=' if match[2] else '=='} {operands[1]}{match[4]}"


def _operator(match: re.Match[str]) -> str:
    if match["filter"]:
        return f"|{match['filter']}({match['argument']})"
    if match["forloop"]:
        return _FORLOOP.sub(lambda word: f"loop.{_LOOP_WORDS[word[1]]}", match["forloop"])
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
        targets = nodes.Const(len(loop.target.items) if isinstance(loop.target, nodes.Tuple) else 1)
        bounded = nodes.Name("_bounded", "load")
        loop.iter = nodes.Call(bounded, [loop.iter, targets], [], None, None, lineno=loop.lineno)


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A name after a dot is a key of a mapping, and no method of it."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return short(left, len(right)) + right
        if not isinstance(left, int | float) or not isinstance(right, int | float) or abs(left * right) > 2**64:
            raise SecurityError(f"{operator!r} works on numbers only")
        return super().call_binop(context, operator, left, right)


def _environment(guard: _Guard) -> _Environment:
    environment = _Environment(undefined=ChainableUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.clear()
    environment.filters = {name: guard.guarded(function) for name, function in FILTERS.items()}
    return environment
