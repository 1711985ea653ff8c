"""Profiles and flags resolve to one configuration, or to every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sysdesign.config.root import Config
from sysdesign.config.section import Section
from sysdesign.errors import ConfigError
from sysdesign.profiles import CONF, fields, resolve


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
