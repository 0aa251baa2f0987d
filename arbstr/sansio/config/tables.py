"""A table of the file -> the dataclass of its subject, and whatever is wrong with it.

The fields of the dataclass are the keys that are accepted, each with the check of its annotation
(`values.py`). Which tables there are, and what they mean together, is `reader.py`.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, create_model

from arbstr.sansio.config import values
from arbstr.sansio.config.faults import Faults, Path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Table = TypeVar("Table", bound="DataclassInstance")


@cache
def _model(table: type["DataclassInstance"]) -> type[BaseModel]:
    """The dataclass as a pydantic model: the same keys, each with the check of its annotation.

    Made at first use, because compiling all of them takes longer than importing this module.
    """
    keys: dict[str, Any] = {}
    hints = get_type_hints(table, include_extras=True)
    for key in fields(table):
        # A field without a check is filled by this module, not by the file.
        if checks := getattr(hints[key.name], "__metadata__", ()):
            required = key.default is MISSING and key.default_factory is MISSING
            keys[key.name] = (Annotated[Any, PlainValidator(checks[0])], ... if required else None)
    config = ConfigDict(extra="forbid", protected_namespaces=())
    return create_model(table.__name__, __config__=config, **keys)


def given(table: "DataclassInstance") -> dict[str, Any]:
    """What was given of it: the fields that are not None."""
    every = {key.name: getattr(table, key.name) for key in fields(table)}
    return {key: value for key, value in every.items() if value is not None}


def read_table(
    table: type[Table],
    value: object,
    path: Path,
    faults: Faults,
    *,
    also_known: tuple[str, ...] = (),
) -> Table | None:
    """The table as its dataclass, or `None` after noting every fault in it.

    `also_known` are keys that somebody else reads.
    """
    if not isinstance(value, dict):
        faults.add(path, "must be a table")
        return None
    model = _model(table)
    try:
        read = model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            at = (*path, *detail["loc"])
            if faults.is_unreadable(at):
                continue
            match detail["type"]:
                case "missing":
                    faults.add(at, "is missing; add it")
                case "extra_forbidden":
                    faults.unknown_key(at, (*model.model_fields, *also_known))
                case _:
                    faults.add(at, str(detail["ctx"]["error"]))
        return None
    return table(**{key: getattr(read, key) for key in read.model_fields_set})


def named_tables(
    value: object, path: Path, faults: Faults
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The tables of a list of named tables, each under its name if it has one that will do."""
    if not isinstance(value, list):
        faults.add(
            path,
            f"must be a list of tables; write [[{'.'.join(map(str, path))}]] and in it name = ...",
        )
        return
    places: dict[str, list[int]] = {}
    for at, table in enumerate(value):
        name = table.get("name") if isinstance(table, dict) else None
        if _can_be_shown(name):
            places.setdefault(name, []).append(at)
            yield (*path, name), table
        elif isinstance(table, dict):
            yield (*path, at), table
        else:
            faults.add((*path, at), "must be a table")
    for name, found in places.items():
        if len(found) > 1:
            numbers = " and ".join(f"#{at + 1}" for at in found)
            faults.add((*path, name), f"is there more than once ({numbers}); rename one")


def _can_be_shown(name: object) -> TypeGuard[str]:
    """Whether a name, not yet expanded, will do to speak of its table."""
    return isinstance(name, str) and "${" not in name and bool(values.RULE_NAME.fullmatch(name))
