"""Money that may be spent -> money that was: one SQLite file that no crash, race or dropped reply can make exceed its cap.

Before a call its worst case is reserved; after it the true cost is settled together with the reply. What may have been billed without
our seeing the reply is `lost` and stays charged at its worst case for ever. So at every moment

    billed <= committed = settled costs + worst cases of open and lost reservations <= cap,

and a reply that was paid for is stored under its request's key and never bought again. Amounts are integer micro-dollars. Layer: below
`models` (whose paid providers and the judge use it), above `errors`; it knows nothing of providers, prices or prompts.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from sysdesign.errors import LimitError, ServiceError
from sysdesign.graph import Record

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reply (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, cost INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, made REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charge (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'lost', 'released')),
    amount INTEGER NOT NULL CHECK (amount >= 0), owner TEXT NOT NULL, intent TEXT, provider TEXT NOT NULL, model TEXT NOT NULL,
    made REAL NOT NULL, note TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS charge_key ON charge (key, state);
CREATE INDEX IF NOT EXISTS charge_state ON charge (state, owner);
CREATE UNIQUE INDEX IF NOT EXISTS one_open_charge ON charge (key) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS intent (
    id TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('intended', 'posting', 'posted', 'done')), owner TEXT NOT NULL,
    provider TEXT NOT NULL, model TEXT NOT NULL, size INTEGER NOT NULL, remote TEXT, made REAL NOT NULL, newest TEXT
);
"""


class Held(Record):
    """A reservation: settle, release or lose it exactly once."""

    charge: int


class Paid(Record):
    """The reply is in the ledger already; nothing was reserved."""

    body: str


class Busy(Record):
    """Somebody else is buying this reply right now: wait and ask again, unless it is in a `batch`, which may take a day."""

    batch: bool = False


class Intent(Record):
    """A batch that was reserved: `intended` (never sent), `posting` (perhaps sent), `posted` (sent, `remote` is its id).

    `newest`: the provider's newest batch before this one was sent, so that a search needs no clock. `made`: seconds since the epoch.
    """

    id: str
    state: Literal["intended", "posting", "posted", "done"]
    provider: str
    model: str
    remote: str | None
    keys: tuple[str, ...]
    newest: str | None = None
    made: float = 0.0


class Totals(Record):
    """Micro-dollars by state; `committed` is what the cap is held against."""

    settled: int
    open: int
    lost: int

    @property
    def committed(self) -> int:
        """Settled plus everything that may still turn out to be billed."""
        return self.settled + self.open + self.lost


class Ledger:
    """One open ledger. Threads may share it; processes open the same file. `cap_micro_usd` 0 forbids every paid call."""

    def __init__(self, path: Path, cap_micro_usd: int) -> None:
        """Opens or makes the file and charges what dead processes left open. Raises ServiceError when SQLite cannot use the file."""
        self.path, self.cap = path, cap_micro_usd
        self._local = threading.local()
        self._lives = path.with_name(path.name + "-owners")
        self._lives.mkdir(parents=True, exist_ok=True)
        self.owner = uuid.uuid4().hex
        # The kernel drops this lock when the process dies, whatever kills it: no clock, lease or reusable pid decides who is alive.
        self._alive = FileLock(self._lives / self.owner, thread_local=False)
        self._alive.acquire()
        try:
            with self._write() as db:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                if "newest" not in {row[1] for row in db.execute("PRAGMA table_info(intent)")}:  # a file of an earlier version
                    db.execute("ALTER TABLE intent ADD COLUMN newest TEXT")
        except sqlite3.DatabaseError as error:
            raise ServiceError(str(path), f"must be a usable spend ledger ({error})", "restore it: it holds paid replies") from error
        self.bury_the_dead()

    def reserve(self, key: str, worst: int, provider: str, model: str) -> Held | Paid | Busy:
        """Set `worst` micro-dollars aside for the request `key`. Raises LimitError when the cap would be passed."""
        with self._write() as db:
            found = db.execute("SELECT body FROM reply WHERE key = ?", (key,)).fetchone()
            if found is not None:
                return Paid(body=found[0])
            taken = db.execute("SELECT intent FROM charge WHERE key = ? AND state = 'open'", (key,)).fetchone()
            if taken is not None:
                return Busy(batch=taken[0] is not None)
            self._afford(db, worst)
            return Held(charge=self._open(db, key, worst, provider, model, None))

    def settle(self, held: Held, cost: int, body: str) -> None:
        """The reply came: charge its true cost and keep it, in one transaction."""
        with self._write() as db:
            self._settle(db, held.charge, cost, body)

    def release(self, held: Held, note: str = "") -> None:
        """The provider surely did not take the request: nothing was billed."""
        self._close(held, "released", note)

    def lose(self, held: Held, note: str = "") -> None:
        """The request may have been billed and the reply is gone: its worst case stays charged."""
        self._close(held, "lost", note)

    def spend(self, amount: int, provider: str, model: str, note: str = "") -> None:
        """Charge `amount` micro-dollars that no reply answers, such as a minute of a rented machine. Raises LimitError over the cap."""
        with self._write() as db:
            self._afford(db, amount)
            charge = self._open(db, f"spend:{uuid.uuid4().hex}", amount, provider, model, None)
            db.execute("UPDATE charge SET state = 'settled', note = ? WHERE id = ?", (note[:500], charge))

    def reply(self, key: str) -> str | None:
        """The paid reply of that request, if there is one."""
        found = self._db().execute("SELECT body FROM reply WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def totals(self) -> Totals:
        """What was spent, is reserved, and was lost."""
        return self._totals(self._db())

    def losses(self, key: str) -> int:
        """How often a reply to this request was lost."""
        return int(self._db().execute("SELECT COUNT(*) FROM charge WHERE key = ? AND state = 'lost'", (key,)).fetchone()[0])

    def intend(self, items: Sequence[tuple[str, int]], provider: str, model: str) -> Intent | None:
        """Reserve a batch of (key, worst) before it is posted, less what is paid or being bought already; None if nothing is left.

        Raises LimitError over the cap: then nothing is reserved.
        """
        name, made = uuid.uuid4().hex, time.time()
        with self._write() as db:
            taken = "SELECT 1 FROM reply WHERE key = :k UNION ALL SELECT 1 FROM charge WHERE key = :k AND state = 'open'"
            free = {key: worst for key, worst in items if db.execute(taken, {"k": key}).fetchone() is None}
            if not free:
                return None
            self._afford(db, sum(free.values()))
            db.execute(
                "INSERT INTO intent (id, state, owner, provider, model, size, made) VALUES (?, 'intended', ?, ?, ?, ?, ?)",
                (name, self.owner, provider, model, len(free), made),
            )
            for key, worst in free.items():
                self._open(db, key, worst, provider, model, name)
        return Intent(id=name, state="intended", provider=provider, model=model, remote=None, keys=tuple(free), made=made)

    def posting(self, intent: Intent, newest: str | None = None) -> None:
        """Written before the request leaves: from here on it may have been accepted. `newest`: the provider's newest batch so far."""
        self._move(intent, "posting", None, newest or intent.newest)

    def posted(self, intent: Intent, remote: str) -> None:
        """The provider took it under this id."""
        self._move(intent, "posted", remote, intent.newest)

    def settle_item(self, intent: Intent, key: str, cost: int, body: str) -> bool:
        """One reply of a batch; False if that request is not open (its result was read before)."""
        with self._write() as db:
            row = db.execute("SELECT id FROM charge WHERE intent = ? AND key = ? AND state = 'open'", (intent.id, key)).fetchone()
            if row is None:
                return False
            self._settle(db, row[0], cost, body)
            return True

    def close_items(self, intent: Intent, keys: Sequence[str], state: Literal["released", "lost"], note: str = "") -> None:
        """Requests of a batch that came back without a reply: errored, expired and cancelled ones are not billed, missing ones may be."""
        with self._write() as db:
            for key in keys:
                db.execute(
                    "UPDATE charge SET state = ?, note = ? WHERE intent = ? AND key = ? AND state = 'open'", (state, note, intent.id, key)
                )

    def finish(self, intent: Intent) -> None:
        """Every result was read; what is still open was never accounted for and counts as lost."""
        with self._write() as db:
            db.execute("UPDATE charge SET state = 'lost', note = 'no result' WHERE intent = ? AND state = 'open'", (intent.id,))
            db.execute("UPDATE intent SET state = 'done' WHERE id = ?", (intent.id,))

    def adopt(self) -> list[Intent]:
        """Unfinished batches of dead processes, which now belong to this one, and its own."""
        self.bury_the_dead()
        with self._write() as db:
            rows = db.execute(
                "SELECT id, state, provider, model, remote, newest, made, owner FROM intent WHERE state != 'done' ORDER BY made, id"
            ).fetchall()
            found = []
            for id_, state, provider, model, remote, newest, made, owner in rows:
                if owner == self.owner or not self._lives_on(owner):
                    db.execute("UPDATE intent SET owner = ? WHERE id = ?", (self.owner, id_))
                    db.execute("UPDATE charge SET owner = ? WHERE intent = ? AND state = 'open'", (self.owner, id_))
                    keys = tuple(k for (k,) in db.execute("SELECT key FROM charge WHERE intent = ? ORDER BY id", (id_,)))
                    about = {"id": id_, "state": state, "provider": provider, "model": model, "remote": remote, "keys": keys}
                    found.append(Intent.model_validate(about | {"newest": newest, "made": made}))
            return found

    def remotes(self) -> frozenset[str]:
        """Provider ids of all batches ever posted from here."""
        return frozenset(r for (r,) in self._db().execute("SELECT remote FROM intent WHERE remote IS NOT NULL"))

    def bury_the_dead(self) -> int:
        """Live calls that a dead process left open count as lost. Batches wait for `adopt`. Returns how many were lost."""
        owners = [o for (o,) in self._db().execute("SELECT DISTINCT owner FROM charge WHERE state = 'open' AND intent IS NULL")]
        count = 0
        for owner in owners:
            if owner != self.owner and not self._lives_on(owner):
                with self._write() as db:
                    changed = db.execute(
                        "UPDATE charge SET state = 'lost', note = 'its process died' WHERE state = 'open' AND intent IS NULL AND owner = ?",
                        (owner,),
                    )
                    count += changed.rowcount
        return count

    def close(self) -> None:
        """Give the owner's lock back; safe to call twice."""
        if self._alive.is_locked:
            self._alive.release()
            (self._lives / self.owner).unlink(missing_ok=True)
        if (db := getattr(self._local, "db", None)) is not None:
            db.close()
            self._local.db = None

    def _lives_on(self, owner: str) -> bool:
        if owner == self.owner:
            return True
        path = self._lives / owner
        if not path.exists():
            return False
        probe = FileLock(path, thread_local=False)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
        return False

    def _afford(self, db: sqlite3.Connection, worst: int) -> None:
        committed = self._totals(db).committed
        if worst and committed + worst > self.cap:
            raise LimitError(
                "runtime.budget_usd",
                f"{_usd(committed)} are committed and this may add {_usd(worst)}; the cap is {_usd(self.cap)}",
                "raise --runtime.budget_usd, or choose a cheaper model, batch mode or machine; what was paid and made is kept",
                self.cap / 1e6,
            )

    def _open(self, db: sqlite3.Connection, key: str, worst: int, provider: str, model: str, intent: str | None) -> int:
        done = db.execute(
            "INSERT INTO charge (key, state, amount, owner, intent, provider, model, made) VALUES (?, 'open', ?, ?, ?, ?, ?, ?)",
            (key, worst, self.owner, intent, provider, model, time.time()),
        )
        return int(done.lastrowid or 0)

    def _settle(self, db: sqlite3.Connection, charge: int, cost: int, body: str) -> None:
        row = db.execute("SELECT key, state, provider, model FROM charge WHERE id = ?", (charge,)).fetchone()
        if row is None or row[1] not in ("open", "lost"):  # lost: declared dead while its reply was still under way
            raise ServiceError(
                str(self.path), f"charge {charge} must be open to be settled", "report this", None if row is None else row[1]
            )
        db.execute("UPDATE charge SET state = 'settled', amount = ? WHERE id = ?", (cost, charge))
        db.execute("INSERT OR IGNORE INTO reply VALUES (?, ?, ?, ?, ?, ?)", (row[0], body, cost, row[2], row[3], time.time()))

    def _close(self, held: Held, state: str, note: str) -> None:
        with self._write() as db:
            db.execute("UPDATE charge SET state = ?, note = ? WHERE id = ? AND state = 'open'", (state, note[:500], held.charge))

    def _move(self, intent: Intent, state: str, remote: str | None, newest: str | None) -> None:
        with self._write() as db:
            db.execute("UPDATE intent SET state = ?, remote = ?, newest = ? WHERE id = ?", (state, remote, newest, intent.id))

    @staticmethod
    def _totals(db: sqlite3.Connection) -> Totals:
        sums = dict(db.execute("SELECT state, SUM(amount) FROM charge WHERE state != 'released' GROUP BY state").fetchall())
        return Totals(settled=sums.get("settled", 0), open=sums.get("open", 0), lost=sums.get("lost", 0))

    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            self._local.db = db
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        db = self._db()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _usd(micro: int) -> str:
    return f"${micro / 1e6:.4f}"
