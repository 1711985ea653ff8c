"""A claim on a study that dies with its holder: one driver at a time, and no clean-up after a kill.

On a file it is the operating system's lock; on PostgreSQL an advisory lock, which the server drops with the connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sysdesign.errors import ArtifactError, ServiceError, ToolError

TAKEN = "one driver at a time runs a study, and another process holds this one"
WAIT = "wait for it to end, or give this sweep another name"


@contextmanager
def on_file(path: Path) -> Iterator[None]:
    """Hold `path` for this process. Raises ArtifactError when another one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=1.0)  # the processes of a driver that was just killed need a moment to let go
    except Timeout:
        raise ArtifactError(str(path), TAKEN, WAIT) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def on_server(url: str, study: str, variable: str) -> Iterator[None]:
    """Hold `study` on a PostgreSQL server. `variable`: where the address came from; the address itself is never shown.

    Raises ServiceError when the server does not answer, ArtifactError when another driver holds the study, ToolError without a client.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    number = int.from_bytes(hashlib.sha256(study.encode()).digest()[:7])
    try:
        engine = sqlalchemy.create_engine(url)
        connection = engine.connect()
        held = connection.execute(sqlalchemy.text("select pg_try_advisory_lock(:n)"), {"n": number}).scalar()
        connection.commit()  # the lock belongs to the session, and an open transaction would only hold back the server's vacuum
    except ImportError:
        raise ToolError(variable, "a shared study needs PostgreSQL's client", "pip install 'psycopg[binary]'") from None
    except (SQLAlchemyError, ValueError) as err:
        law = f"must be the address of a PostgreSQL server that answers ({type(err).__name__})"
        raise ServiceError(variable, law, "write postgresql+psycopg://USER:PASSWORD@HOST/NAME, or take storage_env out") from None
    try:
        if not held:
            raise ArtifactError(study, TAKEN, WAIT)
        yield
    finally:
        connection.close()
        engine.dispose()
