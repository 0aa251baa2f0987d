"""`arbstr doctor`: everything that can be asked for nothing, and what to do about what is wrong.

The order of the modules; each imports only from those before it:

    findings   facts -> findings, each with its remedy
    machine    this machine: ledger, disk, port, limits
    providers  each provider, asked
    command    all of it, printed
"""
