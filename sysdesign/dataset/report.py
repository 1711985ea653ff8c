"""What the dataset stage returns: counts that a person compares between two sets."""

from __future__ import annotations

from sysdesign.dataset.leaks import LeakProof
from sysdesign.records import Report


class DatasetReport(Report):
    """Tokens include pictures; shares are of the training split. `shared_with_test`: topologies and pictures, always 0; `leaks`: the
    whole proof. `content_sha256`: rows and pixels, equal on every machine that makes the same data. `not_read`: lines beyond max_rows.
    """

    rows_train: int
    rows_val: int
    rows_test: int
    probes: int
    probe_graphs: int
    pictures: int
    rejected: int
    tokens: int
    longest: int
    median: int
    image_share: float
    trained_share: float
    packed_sequences: int
    shared_with_test: int
    not_read: int
    content_sha256: str
    leaks: LeakProof

    def metrics(self) -> dict[str, float]:
        return {f"dataset/{name}": float(value) for name, value in self.model_dump(exclude={"content_sha256", "leaks"}).items()}

    def note(self) -> str:
        beyond = f", {self.not_read:,} beyond max_rows not read" if self.not_read else ""
        rows = f"**{self.rows_train:,}** training, {self.rows_val:,} validation and {self.rows_test:,} test rows"
        return (
            f"{rows} over {self.pictures:,} pictures ({self.rejected:,} rejected{beyond}); longest row {self.longest:,} tokens, "
            f"{self.trained_share:.0%} of tokens are learned; {self.probes} probes on {self.probe_graphs} held-out graphs; "
            f"nothing shared with test; content `{self.content_sha256[:12]}`."
        )
