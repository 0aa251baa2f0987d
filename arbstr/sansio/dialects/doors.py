"""All doors by name. Which path leads to which says the table of routes (`trio_runtime/app.py`)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.dialects.chat.door import CHAT
from arbstr.sansio.dialects.dialect import Dialect

DOORS: Final[Mapping[str, Dialect]] = MappingProxyType({door.name: door for door in (CHAT,)})
