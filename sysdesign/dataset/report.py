"""What the dataset stage returns: counts that a person compares between two sets."""

from __future__ import annotations

from sysdesign.records import Report


class DatasetReport(Report):
    """Tokens include pictures; shares are of the training split. `shared_with_test`: topologies and pictures, always 0."""

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
    rows_sha256: str

    def metrics(self) -> dict[str, float]:
        return {f"dataset/{name}": float(value) for name, value in self.model_dump(exclude={"rows_sha256"}).items()}

    def note(self) -> str:
        return (
            f"**{self.rows_train:,}** training, {self.rows_val:,} validation and {self.rows_test:,} test rows over {self.pictures:,} "
            f"pictures ({self.rejected:,} rejected); longest row {self.longest:,} tokens, {self.trained_share:.0%} of tokens are learned; "
            f"{self.probes} probes on {self.probe_graphs} held-out graphs; nothing shared with test."
        )
