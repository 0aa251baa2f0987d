"""What a ledger is to everybody who writes into it or asks it: two Protocols, and one exception.

    Database   one ledger, opened (`database.open_database`): `transaction` and `read` run work in a
               thread, each on one state of the ledger, and tell what went wrong as `Trouble`
    Session    what the work gets: SQL in, rows out

An engine is a module that makes both (`sqlite`); nobody but an engine imports its library. SQL is
that of `sql/`, which the engines share but for what `Session.question` replaces. Values go in and
out as numbers, texts and None: moments are texts (`sansio.moments`), money is a float, what is true
is 1. Names in SQL are bound as `:name`, places as `?`, whatever the engine's library calls them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import trio

T = TypeVar("T")

Row: TypeAlias = Sequence[object]

MOVER: Final = "move-"
"""How the boot id of a process begins that moves a ledger, and keeps none."""

UNFINISHED: Final = "another ledger is being moved into it, and not all of it is there"
FINISH: Final = "run the same `arbstr migrate` again, which goes on where it ended"
"""Why such a ledger is refused, and what to do."""

DOWNGRADED: Final = "upgrade arbstr, or put the copy from before the upgrade there"
"""What to do about a ledger that a newer arbstr has brought up."""


class Trouble(Exception):  # noqa: N818 - a fact about the ledger, told in a sentence
    """The ledger cannot be read or written now; what was to be written is kept and tried again.

    Its text says why, in the engine's words, and holds no secret. `is_lasting`: it does not pass by
    itself as a lock or a restart of the server does; somebody must free a disk, say.
    """

    def __init__(self, why: str, *, is_lasting: bool = False) -> None:
        super().__init__(why)
        self.is_lasting: Final = is_lasting


class Rows(Protocol):
    """What a statement gave. Rows are tuples, or like one."""

    @property
    def rowcount(self) -> int:
        """How many rows were new, changed or removed."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """Of each column its name and more (DB-API 2.0)."""

    def fetchone(self) -> Any:  # noqa: ANN401 - a column is what it was declared as
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """The rest of them."""

    def __iter__(self) -> Iterator[Any]: ...


class Session(Protocol):
    """A connection within one transaction, the work's own. All methods block.

    What they raise is the engine's; `Database` makes `Trouble` of it where the work ends.
    """

    def execute(self, sql: str, parameters: Row | Mapping[str, object] = ..., /) -> Rows:
        """Runs one statement."""

    def question(self, name: str, /) -> str:
        """The text of `sql/<name>.sql`, as this engine understands it."""

    def insert(self, question: str, columns: Sequence[str], rows: Sequence[Row], /) -> int:
        """Many rows at once, none of them twice, by the INSERT of that name.

        Returns how many are new or changed.
        """

    def is_trouble(self, error: Exception, /) -> bool:
        """Whether it was the database that failed (locked, full, gone), and not a value or row."""

    def give_back(self) -> None:
        """After rows were removed: some of the room they took goes back to the file system."""


class Database(Protocol):
    """One ledger. From trio's thread only."""

    @property
    def boot_id(self) -> str:
        """What marks the rows of this process."""

    @property
    def beside(self) -> str | None:
        """How the names of files begin that belong to it; None: it keeps nothing."""

    @property
    def damaged(self) -> bool:
        """Whether what is written to it could not be read again; nothing is, then."""

    @property
    def is_shared(self) -> bool:
        """Whether processes that keep their ledger here can share a day's budget."""

    def is_gone(self, boot_id: str) -> bool:
        """Whether it is sure that the process with that boot id has ended. From any thread; blocks
        for microseconds."""

    async def is_alone(self) -> bool:
        """Whether it is sure that no other process keeps its ledger here just now."""

    async def transaction(
        self, work: Callable[[Session], T], *, written: Callable[[], Sequence[str]] | None = None
    ) -> T:
        """Run `work` in a thread; what it writes is there wholly or not at all.

        A cancellation is seen before the thread starts or not before the next checkpoint, never in
        the middle. Raises what `work` raises, and `Trouble` for a ledger that cannot be written
        now, also if the requests with the ids `written` gives afterwards are not to be found.
        """

    async def read(
        self, work: Callable[[Session], T], *, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """Run `work` in a thread, on one state of the ledger that nobody changes.

        A cancelled caller leaves the thread to itself. Raises what `work` raises, and `Trouble`.
        """

    async def others(self) -> int:
        """How many other processes keep their ledger here just now. Raises `Trouble`."""

    async def many_came(self) -> None:
        """Very many rows were written: what the engine knows of its tables is told it now, and not
        when it next looks. Raises `Trouble`."""


def named(rows: Rows) -> list[dict[str, Any]]:
    """All rows, by the names of their columns."""
    names = [column[0] for column in rows.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows]
