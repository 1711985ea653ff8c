"""Where results and runs are kept -> findings: the artefact store is whole; the tracking store answers and is of the right version.

The tables' version is compared with MLflow's own migration files, read as text: importing MLflow takes seconds.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from sysdesign.artifacts import Store
from sysdesign.doctor.findings import Finding, bad, ok, warn
from sysdesign.errors import ArtifactError

WAIT_S = 2.0


def artifacts(store: Store) -> Finding:
    """Every manifest is whole and every file has its size."""
    if not store.root.is_dir():
        return ok("artefacts", f"{store.root.name} is made by the first run")
    count, broken = 0, []
    for folder in sorted(path for path in store.root.iterdir() if path.is_dir() and re.fullmatch(r"[a-z]+-[0-9a-f]{12}", path.name)):
        count += 1
        try:
            store.load(folder)
        except ArtifactError as error:
            broken.append(error)
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return bad("artefacts", f"{broken[0].where}: {broken[0].law}{more}", broken[0].do)
    return ok("artefacts", f"{count} whole in {store.root}")


def tracking(root: Path) -> tuple[Finding, str | None]:
    """The tracking store that commands would use, and the date that its server tells."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if uri.startswith("sqlite:"):
        return _sqlite(uri), None
    if uri.startswith(("http://", "https://")):
        return _server(uri)
    if re.match(r"[a-z]+(\+\w+)?://", uri) and not uri.startswith("file:"):
        return _database(uri), None
    mend = "unset MLFLOW_TRACKING_URI (the default is sqlite:///mlflow.db); old runs: mlflow migrate-filestore --help"
    return bad("tracking", f"{uri} is a file store, which current MLflow refuses", mend), None


def file_store_trap(root: Path) -> Finding | None:
    """An `mlruns` folder of the old layout, which turns plain `mlflow` commands to the refused file store; None when there is none."""
    if (root / "mlruns/0/meta.yaml").is_file() and not os.environ.get("MLFLOW_TRACKING_URI"):
        says = "mlruns/0/meta.yaml is of an old file store: plain `mlflow ui` would look there and find nothing"
        return warn(
            "tracking trap", says, "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db, or move the old folder away: mv mlruns mlruns.old"
        )
    return None


def _sqlite(uri: str) -> Finding:
    path = Path(uri.removeprefix("sqlite:///").split("?")[0])
    if not path.is_file():
        return ok("tracking", f"{path.name} is made by the first run")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=WAIT_S) as database:
            row = database.execute("select version_num from alembic_version").fetchone()
            runs = database.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.Error as error:
        mend = f"move it away, a new one is made: mv {path} {path}.broken (runs in it are lost; artefacts are not)"
        return bad("tracking", f"{path} is no working MLflow database ({error})", mend)
    if not os.access(path, os.W_OK):
        return bad("tracking", f"{path} cannot be written", f"chmod u+w {path}")
    return _version(uri, str(row[0]) if row else "", f"{path.name}, {runs} runs")


def _version(uri: str, found: str, about: str) -> Finding:
    revisions, head = _revisions()
    if not head:
        return warn(
            "tracking", f"{about}; MLflow is not installed, so its version cannot be compared", "uv pip install -r requirements.txt"
        )
    installed = importlib.metadata.version("mlflow")
    if found == head:
        return ok("tracking", f"{about}, tables as MLflow {installed} wants them")
    if found in revisions:
        return bad("tracking", f"{about}: tables of an older MLflow than {installed}", f"cp the file first, then: mlflow db upgrade {uri}")
    mend = "uv pip install -U mlflow to the version that wrote it, or set MLFLOW_TRACKING_URI to a store of your own"
    return bad("tracking", f"{about}: tables of a newer MLflow than {installed} ({found or 'no version'})", mend)


def _revisions() -> tuple[set[str], str]:
    """All table versions that the installed MLflow knows, and the newest."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return set(), ""
    below: dict[str, str] = {}
    for path in (Path(spec.origin).parent / "store/db_migrations/versions").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        names = [re.search(rf"^{name}\s*=\s*[\"']([0-9a-f]+)[\"']", text, flags=re.M) for name in ("revision", "down_revision")]
        if names[0]:
            below[names[0][1]] = names[1][1] if names[1] else ""
    heads = set(below) - set(below.values())
    return set(below), heads.pop() if len(heads) == 1 else ""


def _server(uri: str) -> tuple[Finding, str | None]:
    import httpx

    shown = _without_password(uri)
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/version", timeout=WAIT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mend = "start it (mlflow server --backend-store-uri sqlite:///mlflow.db), or unset MLFLOW_TRACKING_URI"
        return bad("tracking", f"{shown} does not answer ({type(error).__name__})", mend), None
    told = answer.headers.get("date")
    if answer.status_code in (401, 403):
        mend = "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN), or start it with --allowed-hosts"
        return bad("tracking", f"{shown} refuses with {answer.status_code}", mend), told
    version = answer.text.strip()
    if answer.status_code != 200 or not re.fullmatch(r"\d+\.\d+[\w.]*", version):
        return bad("tracking", f"{shown} answers {answer.status_code}, but not as an MLflow server", "check MLFLOW_TRACKING_URI"), told
    try:
        own = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return warn("tracking", f"{shown}, MLflow {version}; none is installed here", "uv pip install -r requirements.txt"), told
    if version.split(".")[:2] != own.split(".")[:2]:
        return warn("tracking", f"{shown} is MLflow {version}, here is {own}", f"run the server with mlflow=={own}"), told
    return ok("tracking", f"{shown}, MLflow {version}"), told


def _database(uri: str) -> Finding:
    parts = urlsplit(uri)
    port = parts.port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.split("+")[0], 0)
    shown = _without_password(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout=WAIT_S).close()
    except OSError as error:
        return bad("tracking", f"{shown} does not answer ({error})", "start the database, or unset MLFLOW_TRACKING_URI")
    driver = {"postgresql": "psycopg", "mysql": "pymysql"}.get(parts.scheme.split("+")[0])
    if driver and find_spec(driver) is None and find_spec(f"{driver}2") is None:
        return bad(
            "tracking",
            f"{shown} answers, but {driver} is not installed",
            f"uv pip install '{driver}[binary]'" if driver == "psycopg" else f"uv pip install {driver}",
        )
    return ok("tracking", f"{shown} answers")


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)
