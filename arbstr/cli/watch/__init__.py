"""`arbstr watch`: what the running arbstr does with somebody's money, live.

All that decides what is seen is pure: what is known (`model`), what was chosen (`view`), and the
lines that follow from both (`screen`). Around that a reader of routes, and a terminal.

The order of the modules; each imports only from those before it:

    keys      bytes of a terminal -> keys
    model     answers of the routes -> what is known
    view      keys -> what was chosen
    detail    lines about one request
    screen    all lines
    lines     what is printed where there is no screen
    reader    which routes are asked, and when
    terminal  taken, written to, given back
    command   the tasks

It never opens the ledger: what it shows, the running arbstr said.
"""
