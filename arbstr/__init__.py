"""arbstr: a local proxy that sends each LLM request to the cheapest provider that qualifies.

It fails over when a provider fails, never pays twice without consent, and leaves one truthful
row in SQLite for every request. The decisions are Sans-IO state machines (`arbstr.sansio`); a
Trio runtime (`arbstr.trio_runtime`) gives them sockets, clocks and a database.
Start reading at `sansio/exchange.py`.
"""

__version__ = "0.1.0"
