"""Promote a registered version by hand: `champion` moves to it, and the reason stays with it."""

from __future__ import annotations

import sys

from pipelines.command import ROOT, errors_as_lines, parse
from sysdesign.config.root import Config
from sysdesign.errors import ConfigError, ServiceError
from sysdesign.profiles import resolve

OWN = {
    "version": "Version number, as the MLflow UI shows it.",
    "reason": "Why; a sentence that the next person will read.",
    "despite_certificate": "true: promote although the parity certificate failed; the reason must say why that is right. [false]",
}


def main() -> None:
    """Check that the version exists, then move the alias."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("runtime",), OWN)
        version, reason = flags.pop("version", ""), flags.pop("reason", "")
        despite = flags.pop("despite_certificate", "false")
        config = resolve(Config, profile, flags)
        if despite not in ("true", "false"):
            raise ConfigError("--despite_certificate", "must be true or false", "leave it out: a failed certificate then stops it", despite)
        if not version.isdigit():
            raise ConfigError("--version", "must be the number of a registered version", "see the model's page in mlflow ui", version)
        if not reason.strip():
            raise ConfigError("--reason", "must say why", 'add --reason "..."', reason)
        from mlflow.exceptions import MlflowException

        from sysdesign.tracking import registry, runs

        client, name = runs.connect(ROOT), config.runtime.registered_model
        try:
            before = registry.promote(client, name, version, reason=reason, despite_certificate=despite == "true")
        except MlflowException as err:
            law = f"must hold version {version} of {name} ({str(err).splitlines()[0][:160]})"
            raise ServiceError("model registry", law, "see the model's page in mlflow ui", version) from None
        uri = f"models:/{name}@champion"
        print(f"{uri} is version {version} now (before: {before or 'none'}); deploy it: python -m pipelines.deploy --model {uri}")


if __name__ == "__main__":
    main()
