"""Profiles and flags resolve to one configuration, or to every problem at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import permutations
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from sysdesign.config.root import Config
from sysdesign.config.section import Section
from sysdesign.config.sweep import SweepSpec
from sysdesign.errors import ConfigError
from sysdesign.profiles import CONF, _blocks, _kinds, fields, resolve


class Rules(Section):
    kind: Literal["rules"] = "rules"
    phrasings: int = 12


class Live(Section):
    kind: Literal["live"] = "live"
    model: str
    cap_usd: float = Field(default=1.0, ge=0)


class Talk(Section):
    teacher: Annotated[Rules | Live, Field(discriminator="kind")] = Rules()
    rate: float = 1e-4
    names: tuple[str, ...] = ()
    """Names to use."""


class Tree(Section):
    seed: int = 0
    talk: Talk = Talk()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "one.yaml").write_text("# first\nseed: 1\ntalk:\n  teacher: {kind: live, model: m, cap_usd: 2}\n")
    (tmp_path / "two.yaml").write_text("seed: 2\ntalk:\n  teacher: {kind: rules}\n")
    (tmp_path / "bad.yaml").write_text("talk:\n  rate: fast\n  teachr: {}\nseeds: 3\n")
    (tmp_path / "broken.yaml").write_text("talk: [")
    return tmp_path


def test_later_profiles_win_and_flags_win_over_all(conf: Path) -> None:
    assert resolve(Tree, "one,two", {}, conf).seed == 2
    assert resolve(Tree, "one,two", {"seed": "7"}, conf).seed == 7
    assert resolve(Tree, "", {}, conf) == Tree()


def test_a_block_whose_kind_changes_is_replaced_not_mixed(conf: Path) -> None:
    assert resolve(Tree, "one,two", {}, conf).talk.teacher == Rules()
    assert resolve(Tree, "one", {"talk.teacher.cap_usd": "3"}, conf).talk.teacher == Live(model="m", cap_usd=3)
    assert resolve(Tree, "two", {"talk.teacher.phrasings": "3"}, conf).talk.teacher == Rules(phrasings=3)
    assert resolve(Tree, "", {"talk.teacher.phrasings": "4"}, conf).talk.teacher == Rules(phrasings=4)


def test_the_order_of_flags_says_nothing(conf: Path) -> None:
    live = {"talk.teacher.model": "m", "talk.teacher.cap_usd": "3", "talk.teacher.kind": "live"}
    for flags in permutations(live.items()):
        assert resolve(Tree, "two", dict(flags), conf).talk.teacher == Live(model="m", cap_usd=3)
    block = {"talk.teacher.cap_usd": "3", "talk.teacher": "{kind: live, model: m, cap_usd: 2}"}
    for flags in permutations(block.items()):
        assert resolve(Tree, "", dict(flags), conf).talk.teacher == Live(model="m", cap_usd=3)
    for flags in permutations({"talk.teacher.kind": "live", "talk.teacher.phrasings": "3"}.items()):
        with pytest.raises(ConfigError, match="phrasings: is no field of kind live .*set talk.teacher.kind to rules, or") as caught:
            resolve(Tree, "", dict(flags), conf)
        assert "--talk.teacher.kind: talk.teacher.model: field required" in str(caught.value)


def test_a_value_where_a_block_belongs_is_not_lost_under_a_field_of_that_block(conf: Path) -> None:
    with pytest.raises(ConfigError, match=r"--talk: talk is a block of fields .got 5. - write a mapping, or leave it out"):
        resolve(Tree, "", {"talk.rate": "1", "talk": "5"}, conf)
    (conf / "empty.yaml").write_text("talk:\n")
    assert resolve(Tree, "empty", {"talk.rate": "1"}, conf).talk.rate == 1


def test_a_field_written_for_a_kind_that_a_later_layer_names_is_kept(conf: Path) -> None:
    (conf / "cap.yaml").write_text("talk: {teacher: {cap_usd: 5, phrasings: 3}}\n")
    (conf / "live.yaml").write_text("talk: {teacher: {kind: live, model: m}}\n")
    assert resolve(Tree, "cap,live", {}, conf).talk.teacher == Live(model="m", cap_usd=5), "phrasings went with the kind that had them"
    with pytest.raises(ConfigError, match="conf/cap.yaml: talk.teacher.cap_usd: is no field"):
        resolve(Tree, "cap", {}, conf)


def _unions(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[type[BaseModel]]]]:
    """Every field below `model` that is one of several blocks."""
    for name, info in model.model_fields.items():
        blocks = _blocks(info)
        if len(blocks) > 1:
            yield prefix + name, blocks
        for block in blocks:
            yield from _unions(block, f"{prefix}{name}.")


SPEC = {"question": "Is it so or not?", "name": "n", "budget": {"trials": 1}, "space": {"seed": {"kind": "int", "low": 0, "high": 1}}}
UNIONS = [(root, path, blocks) for root in (Config, SweepSpec) for path, blocks in dict(_unions(root)).items()]


def _other(info: FieldInfo) -> Any:
    """A value of that field that is not its default; None where this cannot tell one."""
    if isinstance(info.default, bool):
        return not info.default
    if isinstance(info.default, int):
        return info.default * 2 or 1
    options = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    return options[1] if len(options) > 1 else None


@pytest.mark.parametrize(("root", "path", "blocks"), UNIONS, ids=[path for _, path, _ in UNIONS])
def test_in_every_union_flags_hold_in_whatever_order_and_a_new_kind_empties_the_block(
    root: type[BaseModel], path: str, blocks: list[type[BaseModel]], conf: Path
) -> None:
    (conf / "start.yaml").write_text(json.dumps(SPEC if root is SweepSpec else {}))
    settings = []
    for block in blocks:
        for kind in _kinds(block):
            flags = {f"{path}.{name}": json.dumps(_other(info)) for name, info in block.model_fields.items() if _other(info) is not None}
            flags |= {f"{path}.model": "m"} if "model" in block.model_fields else {}
            flags[f"{path}.kind"] = kind
            settings.append((kind, flags))
    assert len(settings) >= 2 and any(len(flags) > 1 for _, flags in settings)
    for kind, flags in settings:
        forth, back = (resolve(root, "start", dict(order), conf) for order in (flags.items(), reversed(flags.items())))
        assert forth == back and attrgetter(path)(forth).kind == kind
        nested: dict[str, Any] = {flag.rpartition(".")[2]: yaml.safe_load(value) for flag, value in flags.items()}
        for part in reversed(path.split(".")):
            nested = {part: nested}
        (conf / f"{kind}.yaml").write_text(json.dumps(nested))
        assert resolve(root, f"start,{kind}", {}, conf) == forth
    for (first, _), (second, flags) in permutations(settings, 2):
        assert resolve(root, f"start,{first},{second}", {}, conf) == resolve(root, "start", flags, conf)
        assert resolve(root, f"start,{first}", flags, conf) == resolve(root, "start", flags, conf)


def test_numbers_written_as_people_write_them(conf: Path) -> None:
    talk = resolve(Tree, "", {"talk.rate": "1e-5", "talk.names": "[a, b]"}, conf).talk
    assert talk.rate == 1e-5
    assert talk.names == ("a", "b")


def test_every_problem_is_reported_at_once_with_its_place(conf: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Tree, "bad", {"talk.teacher.phrasing": "3"}, conf)
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    assert "conf/bad.yaml: talk.rate" in text and "'fast'" in text
    assert "conf/bad.yaml: seeds: is no field" in text and "did you mean seed?" in text
    assert "conf/bad.yaml: talk.teachr" in text
    assert "--talk.teacher.phrasing: is no field" in text and "did you mean talk.teacher.phrasings?" in text


@pytest.mark.parametrize(("profile", "words"), [("oen", "did you mean --profile one?"), ("../one", "conf/"), ("broken", "readable YAML")])
def test_a_profile_that_cannot_be_read(conf: Path, profile: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(Tree, profile, {}, conf)


def test_every_profile_in_conf_resolves() -> None:
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    assert {"rehearsal", "full"} <= set(names)
    for name in names:
        assert isinstance(resolve(Config, name, {}), Config), name
        assert (CONF / f"{name}.yaml").read_text(encoding="utf-8").startswith("# "), f"{name}: the first line says what it is for"


def test_every_field_has_help() -> None:
    missing = [field.path for field in fields(Config) if not field.help and not field.path.endswith(".kind")]
    assert not missing


def test_yaml_that_would_mean_something_else_is_refused(conf: Path) -> None:
    for flag, value in {"seed": "true", "talk.rate": "no"}.items():
        with pytest.raises(ConfigError, match=f"--{flag}: input should be a valid"):
            resolve(Tree, "", {flag: value}, conf)
    assert resolve(Tree, "", {"seed": "010"}, conf).seed == 10, "YAML 1.1 reads eight"
    (conf / "twice.yaml").write_text("seed: 1\ntalk: {rate: 1}\nseed: 2\n")
    with pytest.raises(ConfigError, match="conf/twice.yaml: .*`seed` is written twice.*line 3"):
        resolve(Tree, "twice", {}, conf)
