"""Turns `conf/*.yaml` profiles and dotted flags into one checked Config: defaults < profiles left to right < flags.

Every problem is reported at once, with the file or flag that set it, the value, and the nearest field that exists; only a value where a
block of fields belongs is reported alone, because what is set inside that block has no place then. A
union block whose `kind` changes from one layer to the next is replaced, never mixed with the fields of the kind before.
All flags are one layer, so their order says nothing; a flag for a block comes before those for fields inside it.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sysdesign.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
Path_ = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML without two surprises: a key written twice, whose first value would be lost, and `010` read as eight."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` is written twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = str(self.construct_scalar(node)).replace("_", "")
        return int(digits) if digits.lstrip("+-").isdigit() else super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class Field(typing.NamedTuple):
    """One flag: its dotted path, the type as a person reads it, its default and its help."""

    path: str
    type: str
    default: Any
    help: str


def resolve(root: type[BaseModel], profile: str, flags: Mapping[str, str], conf: Path = CONF) -> Any:
    """A `root` instance from comma-separated profile names and dotted flags.

    Raises ConfigError listing every unknown profile, unreadable file, mistyped field and bad value, one a line.
    """
    try:
        return _resolve(root, profile, flags, conf)
    except RecursionError:
        raise ConfigError("configuration", "must not contain itself, nor nest hundreds of levels deep", "mend the flag or file") from None


def _resolve(root: type[BaseModel], profile: str, flags: Mapping[str, str], conf: Path) -> Any:
    tree: dict[str, Any] = {}
    origin: dict[Path_, str] = {}
    names = [name.strip() for name in profile.split(",") if name.strip()]
    for name in names:
        _overlay(tree, _read_profile(name, conf), lambda at, name=name: f"conf/{name}.yaml", origin, root)  # type: ignore[misc]
    for layer in _layers(flags):
        _overlay(tree, layer, partial(_flag_of, list(flags)), origin, root)
    try:
        return root.model_validate(tree)
    except ValidationError as err:
        problems = [_explain(root, tree, dict(problem), origin) for problem in err.errors()]
        raise _joined(sorted(problems, key=str)) from None


def _layers(flags: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The flags as nested mappings: those of one section first, then those of its blocks, then of fields in them.

    Raises ConfigError for a flag that is no dotted path.
    """
    by_depth: dict[int, dict[str, Any]] = {}
    for path, text in flags.items():
        *blocks, last = path.split(".")
        if not all((*blocks, last)):
            raise ConfigError(f"--{path}", "a flag is a dotted path such as --train.lora.rank", "see --help for all of them")
        node = by_depth.setdefault(len(blocks), {})
        for part in blocks:
            node = node.setdefault(part, {})
        node[last] = _parse(text)
    yield from (by_depth[depth] for depth in sorted(by_depth))


def _flag_of(flags: Sequence[str], at: Path_) -> str:
    """The flag that set what is `at` that place: its own, then the one that chose the block's kind, then any in it or around it."""
    ordered = sorted(flags, key=lambda flag: (flag != ".".join(at), not flag.endswith(".kind")))
    paths = {flag: tuple(flag.split(".")) for flag in ordered}
    return next(f"--{flag}" for flag, path in paths.items() if path[: len(at)] == at[: len(path)])


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    """Every leaf field below `model` in declaration order; each kind of a union block is listed once."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        blocks = _blocks(info)
        if not blocks:
            default = info.get_default(call_default_factory=True)
            yield Field(path, _type_name(info), None if default is PydanticUndefined else default, info.description or "")
            continue
        kinds = "|".join(str(kind) for block in blocks if "kind" in block.model_fields for kind in _kinds(block))
        seen: set[str] = set()
        for block in blocks:
            for field in fields(block, path + "."):
                if field.path == path + ".kind":
                    default = getattr(info.get_default(call_default_factory=True), "kind", None)
                    field = Field(field.path, kinds, default, info.description or "Which kind; the other fields follow from it.")
                if field.path not in seen:
                    seen.add(field.path)
                    yield field


def _read_profile(name: str, conf: Path) -> dict[str, Any]:
    path = conf / f"{name}.yaml"
    if "/" in name or not path.is_file():
        known = sorted(p.stem for p in conf.glob("*.yaml"))
        near = (difflib.get_close_matches(name, known, 1) or [""])[0]
        do = f"did you mean --profile {near}?" if near else "write --profile rehearsal"
        raise ConfigError("--profile", f"must name files in conf/: {', '.join(known)}", do, name)
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        said = " ".join(str(err).split())[:160]
        raise ConfigError(f"conf/{path.name}", f"must be readable YAML ({said})", "mend or restore the file") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"conf/{path.name}", "must be a mapping of sections", "see conf/rehearsal.yaml", loaded)
    return loaded or {}


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader) if text.strip() else text
    except yaml.YAMLError:
        return text


def _overlay(
    tree: dict[str, Any],
    layer: Mapping[str, Any],
    source: Callable[[Path_], str],
    origin: dict[Path_, str],
    model: type[BaseModel] | None,
    at: Path_ = (),
) -> None:
    """Put `layer` over `tree`, in place. `source(place)`: what a person wrote it in."""
    for name, value in layer.items():
        here = (*at, str(name))
        info = model.model_fields.get(str(name)) if model else None
        blocks = _blocks(info) if info else []
        if isinstance(value, Mapping) and (blocks or not info):
            old = tree.get(str(name))
            if old is not None and not isinstance(old, dict):  # what another layer put here would be lost without a word
                raise ConfigError(origin[here], f"{'.'.join(here)} is a block of fields", "write a mapping, or leave it out", old)
            old = old or {}
            kind = value.get("kind")
            if len(blocks) > 1:
                default = getattr(info.get_default(call_default_factory=True), "kind", None) if info else None
                kind = kind or old.get("kind") or default
                if old and (before := old.get("kind", default)) != kind:
                    # what the kind before never had was written for another one: it must fit the new one, or be named as wrong
                    known = {field for b in blocks if before in _kinds(b) for field in b.model_fields}
                    old = {field: value for field, value in old.items() if field not in known}
                old = {"kind": kind} | old
            tree[str(name)] = old
            block = next((b for b in blocks if len(blocks) == 1 or kind in _kinds(b)), None)
            origin[here] = source(here)
            _overlay(old, value, source, origin, block, here)
        else:
            truth_for_number = isinstance(value, bool) and info is not None and info.annotation in (int, float)
            tree[str(name)] = str(value).lower() if truth_for_number else value  # pydantic would read `true` as 1
            origin[here] = source(here)


def _blocks(info: FieldInfo) -> list[type[BaseModel]]:
    """The nested models a field may hold: several when it is a union discriminated by `kind`; none for plain values."""
    found: list[type[BaseModel]] = []

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
            for option in typing.get_args(annotation):
                visit(option)
        elif typing.get_origin(annotation) is typing.Annotated:
            visit(typing.get_args(annotation)[0])

    visit(info.annotation)
    return found


def _kinds(block: type[BaseModel]) -> tuple[Any, ...]:
    return typing.get_args(block.model_fields["kind"].annotation)


def _explain(root: type[BaseModel], tree: Any, problem: Mapping[str, Any], origin: Mapping[Path_, str]) -> ConfigError:
    """One pydantic error in the project's words."""
    path: list[str] = []
    node, block = tree, tree
    for part in problem["loc"]:
        if isinstance(node, dict) and str(part) not in node and node.get("kind") == part:
            continue  # pydantic names the tag of a union; it is no field
        path.append(str(part))
        node, block = (node.get(part) if isinstance(node, dict) else None), node
    dotted = ".".join(path)
    source = next((origin[tuple(path[:n])] for n in range(len(path), 0, -1) if tuple(path[:n]) in origin), "defaults")
    where = source if source == f"--{dotted}" else f"{source}: {dotted}"
    if problem["type"] == "extra_forbidden":
        if kinds := _kinds_with(root, path):
            do = f"set {'.'.join(path[:-1])}.kind to {' or '.join(kinds)}, or leave it out"
            return ConfigError(where, f"is no field of kind {block.get('kind')}", do, problem["input"])
        known = [field.path for field in fields(root)]
        near = difflib.get_close_matches(dotted, known, 1, 0.6) or [p for p in known if p.endswith("." + path[-1])][:1]
        return ConfigError(where, "is no field", f"did you mean {near[0]}?" if near else "see --help for all fields", problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    do = "set a value that fits, or leave it out for the default"
    return ConfigError(where, message[0].lower() + message[1:], do, problem["input"])


def _kinds_with(root: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Kinds of the block at `path[:-1]` that have the field which `path` ends in."""
    blocks = [root]
    for part in path[:-1]:
        blocks = [inner for block in blocks if part in block.model_fields for inner in _blocks(block.model_fields[part])]
    return [str(kind) for block in blocks if {"kind", path[-1]} <= set(block.model_fields) for kind in _kinds(block)]


def _joined(problems: Sequence[ConfigError]) -> ConfigError:
    """All problems as one error, a line each."""
    problems[0].args = ("\n".join(str(problem) for problem in problems),)
    return problems[0]


def _type_name(info: FieldInfo) -> str:
    annotation = info.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(str(option) for option in typing.get_args(annotation))
    name = getattr(annotation, "__name__", None) if typing.get_origin(annotation) is None else None
    return name or str(annotation).replace("typing.", "").replace("NoneType", "None")
