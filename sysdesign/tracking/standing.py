"""What the registry knows -> what a verdict needs: the version to beat, with its files, and which attempt on the questions this is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sysdesign.artifacts import Artifact, Store, hash_files
from sysdesign.errors import ArtifactError, ServiceError, SysdesignError
from sysdesign.evaluate.measure import Standing
from sysdesign.models.bundle import open_bundle
from sysdesign.tracking.registry import create_model, decided, fetch_to_serve, registered, to_beat

T = TypeVar("T")


def standing(client: MlflowClient, store: Store, name: str, export: Artifact, key: str) -> Standing:
    """What an evaluation of `export` at address `key` must know: the version to beat, with its files, and how to take an attempt.

    Files are fetched if they are elsewhere and hashed. A champion that ships the very files of `export` is not to be beaten.
    Raises ServiceError when the registry does not answer.
    """

    def attempt(questions: str) -> int:
        return take_attempt(client, name, questions, key)

    champion = _answering(lambda: to_beat(client, name, export), name)
    if champion is None:
        return Standing(attempt=attempt)
    version = str(champion.version)
    try:
        uri = f"models:/{name}/{version}"
        folder, _ = fetch_to_serve(client, uri, store.root / ".work" / "models", despite_certificate=True)
        held = store.load(folder)
        if changed := set(held.manifest.files) - set(hash_files(folder)):
            raise ArtifactError(
                uri, "its files must have the sha256 their manifest records", "register it again", min(e.path for e in changed)
            )
        open_bundle(folder)
        return Standing(champion=held, version=version, attempt=attempt)
    except (SysdesignError, MlflowException, OSError) as err:
        mend = (
            'bring its files back, or promote another version: python -m pipelines.promote --version N --reason "..."; then evaluate again'
        )
        missing = f"the champion, version {version}, could not be asked ({str(err).splitlines()[0][:300]}): {mend}"
        return Standing(version=version, missing=missing, attempt=attempt)


def take_attempt(client: MlflowClient, name: str, questions: str, key: str) -> int:
    """Which attempt on these questions the evaluation at `key` is; the same again when it asks again.

    It is written down before the others are counted, so of two evaluations that end at once neither overlooks the other: they may both
    become the second, never both the first. Raises ServiceError when the registry does not answer.
    """
    prefix = f"sysdesign.attempt.{questions[:16]}."
    tag = prefix + key[:16]

    def take() -> int:
        create_model(client, name)
        if not (said := client.get_registered_model(name).tags.get(tag, "")).isdigit():
            client.set_registered_model_tag(name, tag, "taken")
            said = str(sum(other.startswith(prefix) for other in client.get_registered_model(name).tags))
            client.set_registered_model_tag(name, tag, said)
        return int(said)

    return _answering(take, name)


def outdated(client: MlflowClient, name: str, evaluate: Artifact | None, export: Artifact, key: str) -> bool:
    """Whether an evaluation in the store is to be decided again: not registered yet, and the champion or the attempt is another now."""
    if evaluate is None or _answering(lambda: registered(client, name, evaluate.digest), name):
        return False
    verdict, lineage = decided(evaluate)
    champion = _answering(lambda: to_beat(client, name, export), name)
    faced = str(champion.version) if champion else ""
    return lineage.get("faced", "") != faced or take_attempt(client, name, lineage["questions"], key) != verdict.attempt


def _answering(ask: Callable[[], T], name: str) -> T:
    try:
        return ask()
    except MlflowException as err:
        do = "run the same command again when the registry answers; what was asked is kept"
        raise ServiceError("model registry", f"must answer ({str(err).splitlines()[0][:200]})", do, name) from None
