"""Where one installation keeps everything: a folder, with the ledger and the store elsewhere if wished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storage.ledger import Ledger
from storage.objects import ObjectStore
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.case import Stores


@dataclass(frozen=True)
class Home:
    """Places of one installation.

    Attributes
    ----------
    root
        Folder for whatever has no other place: tables, reports, Prefect's own files.
    ledger_url
        Database of the ledger; by default ``ledger.sqlite`` in the folder.
    store_url
        Where volumes and objects lie (path or ``s3://bucket/prefix``); by default the folder.
    """

    root: Path
    ledger_url: str | None = None
    store_url: str | None = None

    @classmethod
    def at(cls, root: str | Path, ledger_url: str | None = None, store_url: str | None = None) -> Home:
        """Home in the folder ``root``, which is made when it is not there."""
        folder = Path(root).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, ledger_url, store_url)

    def open_ledger(self) -> Ledger:
        """Open the ledger, brought to the newest schema."""
        return Ledger(self.ledger_url or self.root / "ledger.sqlite")

    @property
    def ledger_place(self) -> str:
        """Where the ledger is, for people: without the password a database URL may carry."""
        return self.ledger_url.rsplit("@", 1)[-1] if self.ledger_url else str(self.root / "ledger.sqlite")

    @property
    def stores(self) -> Stores:
        """Locations that workers read from and write to."""
        store = Location(self.store_url or str(self.root))
        return Stores(store.child("volumes"), store.child("objects"), store.child("models"))

    @property
    def volumes(self) -> VolumeStore:
        """The volume store."""
        return VolumeStore(self.stores.volumes)

    @property
    def objects(self) -> ObjectStore:
        """Published pictures and objects."""
        return ObjectStore(self.stores.objects)

    @property
    def table(self) -> Location:
        """The Parquet table of all current results."""
        return Location(str(self.root / "tables" / "results.parquet"))

    @property
    def report(self) -> Path:
        """The report that every run renews."""
        return self.root / "reports" / "report.html"
