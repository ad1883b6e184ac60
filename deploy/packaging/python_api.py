# SPDX-License-Identifier: Apache-2.0
"""The Python API as Markdown: signatures as they are in the source, and docstrings."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import nitrohb
from nitrohb import addresses, events, protocol
from nitrohb.sockets import opening

__all__ = ["anchors", "describe"]

_WITH_CONSTANTS: Final = [inspect.getsource(it) for it in (addresses, events, opening, protocol)]

# The base of the members of a union. The union lists its attributes, and the members do not.
_UNIONS: Final = {"Event": events.Listening.__base__, "ConnectionEvent": events.Connected.__base__}

# Only nitrohb creates these.
_WITHOUT_CONSTRUCTOR: Final = ("HeartbeatServer", "Listener", "ThreadServer")

_INDENTED: Final = r"((?: {4}.*\n|\n(?=\n* {4}))+)"
_EXAMPLE: Final = re.compile(rf"^\.\. code-block:: (\w+)\n\n{_INDENTED}", re.MULTILINE)
_SECTION: Final = re.compile(
    rf"^(Args|Attributes|Raises|Returns|Yields):\n{_INDENTED}", re.MULTILINE
)
_ITEM: Final = re.compile(r"^(\*{0,2}\w[\w, ]*): (.*(?:\n {4}.*)*)", re.MULTILINE)
_FENCE: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"(`{1,2})([^`]+)\1")
_SELF: Final = re.compile(r"\n +self,(?=\n)|(?<=[( ])self(?:, )?")

Anchors = dict[str, str]


def anchors(names: list[str]) -> Anchors:
    """The anchor of each name, and of each method, as GitHub makes it from the heading."""
    found: Anchors = {}
    slugs: list[str] = []
    for name in names:
        for title in (_last(name), *(f"{_last(name)}.{it}" for it in _methods(_get(name)))):
            slugs.append(title.lower().replace(".", ""))
            same = slugs.count(slugs[-1]) - 1  # Heartbeat and HEARTBEAT
            found[title] = f"#{slugs[-1]}-{same}" if same else f"#{slugs[-1]}"
    return found


def describe(names: list[str], known: Anchors) -> str:
    """A section for each name, with links to the known ones."""
    return "\n\n".join(part for name in names for part in _describe(name, known))


def _describe(path: str, known: Anchors) -> Iterator[str]:
    name, value = _last(path), _get(path)
    if inspect.isfunction(value):
        yield from _describe_function("###", name, value, known)
    elif inspect.isclass(value):
        yield from _describe_class(name, value, known)
    else:
        definition, doc = _constant(name)
        yield f"### `{name}`\n\n{_block(definition)}"
        yield from [_markdown(doc, known, name)] if doc else []
        yield from _list_attributes(_UNIONS.get(name), known, name)


def _describe_function(
    level: str, name: str, function: Callable[..., Any], known: Anchors
) -> Iterator[str]:
    yield f"{level} `{name}()`\n\n{_block(_SELF.sub('', _header(function), count=1))}"
    yield _markdown(_doc(function), known, name)


def _describe_class(name: str, class_: type[Any], known: Anchors) -> Iterator[str]:
    yield f"### `{name}`\n\n{_block(_class_header(class_))}"
    doc = _SECTION.sub(lambda it: "" if it[1] == "Attributes" else it[0], _doc(class_))
    yield _markdown(doc, known, name)
    yield from _list_attributes(class_, known, name)
    for method in _methods(class_):
        yield from _describe_function("####", f"{name}.{method}", getattr(class_, method), known)


def _list_attributes(class_: type[Any] | None, known: Anchors, name: str) -> Iterator[str]:
    if class_ and (items := [f"- {it}: {text}" for it, text in _attributes(class_).items()]):
        yield _markdown("Attributes:\n\n" + "\n".join(items), known, name)


def _class_header(class_: type[Any]) -> str:
    """Its public bases, or else its constructor. Of an Enum, the members as well."""
    name, source = class_.__name__, inspect.getsource(class_)
    if issubclass(class_, Enum):
        return re.sub(r'^ +""".*?"""\n\n?', "", source, count=1, flags=re.MULTILINE | re.DOTALL)
    if bases := re.findall(rf"^class {name}\(([A-Z].*)\):$", source, re.MULTILINE):
        return f"class {name}({bases[0]})"
    owner = next((it for it in _merged(class_) if "__init__" in vars(it)), None)
    if owner is None or dataclasses.is_dataclass(owner) or name in _WITHOUT_CONSTRUCTOR:
        return f"class {name}"
    arguments = re.sub(r"\s+", " ", _SELF.sub("", _header(owner.__init__)))
    return re.sub(r"^def __init__\( ?(.*?),? ?\) -> None$", rf"class {name}(\1)", arguments)


def _attributes(class_: type[Any]) -> dict[str, str]:
    """What the docstrings call attributes, properties, and the methods of private bases."""
    found: dict[str, str] = {}
    for owner in reversed(_merged(class_)):
        for kind, text in _SECTION.findall(_doc(owner)):
            found |= _ITEM.findall(textwrap.dedent(text)) if kind == "Attributes" else []
        for name, value in vars(owner).items():
            if isinstance(value, property):
                found[name] = _doc(value)
            elif owner.__name__[0] == "_" and name[0] != "_" and inspect.isfunction(value):
                found[_SELF.sub("", _header(value)).removeprefix("def ")] = _doc(value)
    return {_typed(name, class_): _in_list(text) for name, text in found.items()}


def _typed(name: str, class_: type[Any]) -> str:
    """The name of an attribute, with its type if the source says it."""
    for owner in _merged(class_):
        getter = vars(owner).get(name)
        if isinstance(getter, property) and getter.fget:
            return f"`{name}` (`{_header(getter.fget).rpartition(' -> ')[2]}`)"
        pattern = rf"^(?: {{4}}| {{8}}self\.){name}: ([^=\n]+?)(?: = .*)?$"
        if found := re.search(pattern, inspect.getsource(owner), re.MULTILINE):
            return f"`{name}` (`{found[1]}`)"
    return f"`{name}`"


def _merged(class_: type[Any]) -> list[type[Any]]:
    """A class and its private bases, which no reader needs to know."""
    ours = [it for it in class_.__mro__ if it.__module__.startswith("nitrohb")]
    listed = [*_UNIONS.values()]
    return [it for it in ours if it is class_ or (it.__name__[0] == "_" and it not in listed)]


def _methods(value: object) -> list[str]:
    members = vars(value).items() if inspect.isclass(value) else ()
    return [name for name, it in members if inspect.isfunction(it) and not name.startswith("_")]


def _constant(name: str) -> tuple[str, str]:
    """How a module defines a constant, and the string below it."""
    pattern = rf'^{name}(?:: Final)? = (?:\((?:.|\n)*?\n\)|.*)$\n(?:"""((?:.|\n)*?)""")?'
    for source in _WITH_CONSTANTS:
        if found := re.search(pattern, source, re.MULTILINE):
            return found[0].partition('\n"""')[0], found[1] or ""
    raise LookupError(f"no module defines {name}")


def _header(function: Callable[..., Any]) -> str:
    """The lines before the body of a function."""
    return textwrap.dedent(inspect.getsource(function).partition(":\n")[0])


def _markdown(doc: str, known: Anchors, name: str) -> str:
    text = _EXAMPLE.sub(lambda it: _block(textwrap.dedent(it[2]), it[1]) + "\n\n", doc + "\n")
    parts = _FENCE.split(_SECTION.sub(_list, text))
    for number, part in enumerate(parts[::2]):
        linked = _CODE.sub(lambda it: _link(it[2], known, name), part)
        parts[2 * number] = re.sub(r"\n{3,}", "\n\n", linked)
    return "".join(parts).strip()


def _list(section: re.Match[str]) -> str:
    label, text = section[1], textwrap.dedent(section[2])
    if label in ("Returns", "Yields"):
        return f"{label}: {text}\n"
    items = (
        f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {_in_list(text)}\n"
        for names, text in _ITEM.findall(text)
    )
    return f"{'Arguments' if label == 'Args' else label}:\n\n{''.join(items)}\n"


def _in_list(text: str) -> str:
    return re.sub(r"\n *(?=\S)", "\n  ", text.strip())


def _link(code: str, known: Anchors, within: str) -> str:
    bare, owner = code.removesuffix("()"), within.partition(".")[0]
    titles = (bare, f"{owner}.{bare}", bare.partition(".")[0])
    title = next((title for title in titles if title in known), within)
    return f"`{code}`" if title in (owner, within) else f"[`{code}`]({known[title]})"


def _block(text: str, language: str = "python") -> str:
    return f"```{language}\n{text.strip()}\n```"


def _doc(value: object) -> str:
    return inspect.cleandoc(getattr(value, "__doc__", None) or "") + "\n"


def _get(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(protocol if module == "protocol" else nitrohb, name)


def _last(path: str) -> str:
    return path.rpartition(".")[2]
