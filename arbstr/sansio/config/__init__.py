"""The configuration: text and environment -> one frozen `Config`, or every fault in it at once.

It decides what may be written and what it means: which key holds for which provider, what kind of
money a provider has, what is a secret. Strict, because a slip of the pen must not switch off a cap;
a sentence about a fault names the key path and the remedy, never a value that could be a secret.

The order of the modules; each imports only from those before it:

    addresses      where arbstr listens, where providers are, through whom
    ledger_url     where a ledger lies that is no file
    credentials    whose key it is, and what kind of money stands behind it
    values         what a single value may be
    settings       the tables of the file, resolved: frozen dataclasses
    faults         what is wrong, in sentences
    tables         a table of the file -> its dataclass (pydantic's only place)
    models         what a provider's table says of single models
    cautions       what is right and yet unwise
    reader         TOML text and an environment -> Config
    reload         what a SIGHUP changes, and what needs a restart

Start reading at `reader`. Nothing here asks the network, the disk or a clock.
"""
