"""YAML files whose every mistake is told at once, with file, line, path and what was expected.

Nodes are composed with their marks, and each error of a model is led back to the node it is about.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from ingest.mapping import Mapping
from telemetry.errors import Problem
from telemetry.site import SiteConfig
from telemetry.topic import NAME, NAME_RULE

FILE_BYTES_MAX: Final = 4 << 20  # a site of 10,000 written-out devices is 1 MB; beyond this it is a mistake or an attack
DEPTH_MAX: Final = 50  # a site nests 6 deep
WHOLE: Final = "(whole file)"
TAB: Final = "is indented with a tab; YAML takes blanks only"
POINT_RULE: Final = "1-64 of a-z 0-9 _, beginning with a letter, such as air_temp_c"
PATTERNS: Final = {f"^{NAME.pattern}$": NAME_RULE, r"^[a-z][a-z0-9_]{0,63}$": POINT_RULE}
Path_ = tuple[str | int, ...]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml where it is there: ten times as fast
    """Safe, and a key that stands twice is an error: the first one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping with unique keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


@dataclass(slots=True)
class Document:
    """One YAML file: its value, and the node tree that knows the lines."""

    file: Path
    value: Any
    root: yaml.Node | None

    def line(self, path: Sequence[str | int]) -> int:
        """Line of the deepest node on `path` that exists (1-based)."""
        node, line = self.root, 1
        if node is not None:
            line = node.start_mark.line + 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line

    def place(self, location: Sequence[str | int], *, keep_last: bool) -> Path_:
        """`location` of a model's error without the names of variants, which are no part of the file."""
        node, kept = self.root, []
        for index, step in enumerate(location):
            found = _child(node, step)
            if found is not None:
                node = found[1]
            if found is not None or (keep_last and index == len(location) - 1):
                kept.append(step)
        return tuple(kept)

    def at(self, path: Sequence[str | int]) -> Any:
        """The value at `path`; None when there is none."""
        value = self.value
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def _depth(text: str) -> int:
    """How deep the text nests, read without recursion: composing it recurses, in libyaml on the C stack."""
    depth = deepest = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > DEPTH_MAX:
            break
    return deepest


def _child(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    return None


@dataclass(slots=True)
class Reading:
    """Problems found so far."""

    problems: list[Problem] = field(default_factory=list)

    def note(self, document: Document, path: Sequence[str | int], message: str) -> None:
        """One mistake at `path`; the same one twice counts once."""
        name = ".".join(str(step) for step in path) or WHOLE
        problem = Problem(str(document.file), document.line(path), name, message)
        if problem not in self.problems:
            self.problems.append(problem)

    def has(self, document: Document, path: Sequence[str | int]) -> bool:
        """Was a mistake found at `path` or below?"""
        name = ".".join(str(step) for step in path)
        return any(p.file == str(document.file) and f"{p.path}.".startswith(f"{name}.") for p in self.problems)

    def load(self, file: Path) -> Document | None:
        """The file's document; None (and a problem) when it cannot be read."""
        try:
            if file.stat().st_size > FILE_BYTES_MAX:
                self._refuse(file, 0, f"is larger than {FILE_BYTES_MAX >> 20} MB")
                return None
            text = file.read_text("utf-8-sig")
            if _depth(text) > DEPTH_MAX:
                self._refuse(file, 1, f"is nested more than {DEPTH_MAX} deep", "YAML")
                return None
            loader = _Loader(text)
            root = loader.get_single_node()
            return Document(file, None if root is None else loader.construct_document(root), root)
        except FileNotFoundError:
            self._refuse(file, 0, "does not exist")
        except UnicodeDecodeError as error:
            self._refuse(file, 0, f"is not UTF-8 text (byte {error.start}); save it as UTF-8")
        except OSError as error:
            self._refuse(file, 0, f"cannot be read: {error.strerror}")
        except yaml.MarkedYAMLError as error:
            self._refuse_yaml(file, error)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            self._refuse(file, 1, str(error).splitlines()[0] if str(error) else "is nested too deeply", "YAML")
        return None

    def _refuse(self, file: Path, line: int, message: str, path: str = WHOLE) -> None:
        self.problems.append(Problem(str(file), line, path, message))

    def _refuse_yaml(self, file: Path, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        lines = file.read_text("utf-8-sig").splitlines()
        text = lines[line - 1] if line <= len(lines) else ""
        message = TAB if "\t" in text[: len(text) - len(text.lstrip())] else str(error.problem or error.context)
        self._refuse(file, line, message, "YAML")

    def validate(self, document: Document, model: type[BaseModel], value: Any, prefix: Path_ = ()) -> Any:
        """The model; None and its problems otherwise."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for path, message in mistakes(document, error, prefix):
                self.note(document, path, message)
        return None


def mistakes(document: Document, error: ValidationError, prefix: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """(Place, what was expected) of a model's errors. Variants of one place (a number or a word) are one mistake."""
    variants: dict[Path_, list[str]] = {}
    for item in error.errors(include_url=False):
        location = (*prefix, *item["loc"])
        if item["type"] == "missing":
            yield document.place(location, keep_last=True), "is missing"
        elif item["type"] == "extra_forbidden":
            place = document.place(location, keep_last=True)
            yield place, "is not a known field" + _meant(str(place[-1]), document.at(place[:-1]))
        elif item["type"] == "value_error":  # a check of the model's own; it may join several with "; "
            for message in str(item["msg"]).removeprefix("Value error, ").split("; "):
                yield document.place(location, keep_last=False), message
        else:
            variants.setdefault(document.place(location, keep_last=False), []).append(_expected(dict(item)))
    for place, wanted in variants.items():
        yield place, " or ".join(dict.fromkeys(wanted)) + _given(document.at(place))


def _expected(item: dict[str, Any]) -> str:
    rule = PATTERNS.get(str(item.get("ctx", {}).get("pattern")))
    if rule is not None:
        return f"must be {rule}"
    message = str(item["msg"]).replace("Input should be", "must be").replace("String should", "must")
    return message.partition(", unable to parse")[0]


def _given(value: Any) -> str:
    text = repr(value)
    return f" (it is {text if len(text) < 60 else text[:57] + '...'})"


def _meant(name: str, siblings: Any) -> str:
    """The known field that is most like a misspelt one and does not stand beside it already."""
    known = FIELDS - set(siblings if isinstance(siblings, dict) else ())
    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def fields_of(*models: type[BaseModel]) -> frozenset[str]:
    """Names of all fields of models and of the models inside them."""
    names: set[str] = set()
    waiting: list[Any] = list(models)
    seen: set[Any] = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        if isinstance(model, type) and issubclass(model, BaseModel):
            names.update(model.model_fields)
            waiting.extend(field.annotation for field in model.model_fields.values())
        else:
            waiting.extend(getattr(model, "__args__", ()))
    return frozenset(names)


FIELDS: Final = fields_of(SiteConfig, Mapping)
