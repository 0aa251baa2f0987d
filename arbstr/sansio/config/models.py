"""What a provider's table says of single models: their ids, their rates, and what they cost then.

A model is named by its id, a key of `model_rates`, `model_ids` or `model_endpoints`. What is wrong
is noted in the `Faults` each of these is given; `path` is where it stands in the file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Final

from arbstr.sansio.config.faults import Faults, Path, quoted
from arbstr.sansio.config.settings import ANY_MODEL, AUTO, RatesTable
from arbstr.sansio.config.tables import given, read_table
from arbstr.sansio.config.values import no_model_id
from arbstr.sansio.money import Rates

RATE_KEYS: Final = tuple(f.name for f in fields(RatesTable))
_RATE_PAIR: Final = frozenset({"input_rate", "output_rate"})
"""Without these there is no price."""


def rates_by_model(value: object, path: Path, faults: Faults) -> dict[str, dict[str, Any]] | None:
    """The rates each model states for itself: those keys that are given. `None`: none is right."""
    if not isinstance(value, dict):
        faults.add(path, "must hold one table for each model")
        return None
    if has_cut_ids(value, path, faults):
        return None
    tables = {
        model: read_table(RatesTable, v, (*path, model), faults) for model, v in value.items()
    }
    found = {model: given(table) for model, table in tables.items() if table is not None}
    return found if len(found) == len(tables) else None


def has_cut_ids(value: Mapping[str, object], path: Path, faults: Faults) -> bool:
    """Notes the ids that TOML took for tables in tables, for their dots lack quotes."""
    tables = path[-1] == "model_rates"
    found = [(key, cut) for key in value for cut in _cut_ids(key, value[key], tables=tables)]
    for key, cut in found:
        right = f"[providers.model_rates.{quoted(cut)}]" if tables else f"{quoted(cut)} = ..."
        faults.add((*path, key), f"is cut at a dot that is not in quotes; write {right}")
    return bool(found)


def _cut_ids(key: str, value: object, *, tables: bool) -> Iterator[str]:
    """The ids below a key that were cut at their dots. `tables`: an id's value is a table."""
    for name, item in value.items() if isinstance(value, dict) else ():
        whole = f"{key}.{name}"
        if isinstance(item, dict) and name not in RATE_KEYS:
            longer = tuple(_cut_ids(whole, item, tables=tables))
            yield from longer or (whole,)
        elif not tables:
            yield whole


def check_ids(
    named: Mapping[str, object], models: tuple[str, ...], path: Path, faults: Faults
) -> None:
    """Each model that is `named` is one of the provider's `models`."""
    served = frozenset(models)
    for model in named:
        if model == ANY_MODEL:
            faults.add((*path, model), "is no model; set what is for all on the provider")
        elif model == AUTO and AUTO not in served:
            faults.add((*path, model), "is no model, but how clients let arbstr choose one")
        elif fault := no_model_id(model):
            faults.add((*path, model), f"{fault}; write one id")
        elif model not in served and ANY_MODEL not in served:
            faults.add((*path, model), "is not in models; add it there or remove it here")


def resolve_rates(
    models: tuple[str, ...],
    default: dict[str, Any],
    by_model: Mapping[str, dict[str, Any]],
    path: Path,
    faults: Faults,
) -> tuple[Rates | None, Mapping[str, Rates]]:
    """The provider's rates, and those of each model that overrides some, key by key."""
    rates = None
    # A part of a price is right as long as every model states the rest.
    if any(model not in by_model for model in models) or default.keys() >= _RATE_PAIR:
        rates = _whole(default, path, faults)
    merged = {
        model: _whole({**default, **own}, (*path, "model_rates", model), faults)
        for model, own in by_model.items()
    }
    return rates, MappingProxyType({m: r for m, r in merged.items() if r is not None})


def _whole(given: dict[str, Any], path: Path, faults: Faults) -> Rates | None:
    """Rates with both of the pair; nothing given is no rates."""
    if ("input_rate" in given) != ("output_rate" in given):
        there = "input_rate" if "input_rate" in given else "output_rate"
        missing = "output_rate" if "input_rate" in given else "input_rate"
        sentence = f"is missing although {there} is given; give both or neither"
        faults.add((*path, missing), sentence)
        return None
    if given and "input_rate" not in given:
        # It would be of no use, as a price and as a ceiling, and nobody would know.
        there = next(iter(given))
        sentence = f"is missing although {there} is given; give it, and output_rate"
        faults.add((*path, "input_rate"), sentence)
        return None
    return Rates(**given) if given else None
