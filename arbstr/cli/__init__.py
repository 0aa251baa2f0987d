"""What a person types and reads: one file a command, and what they share.

Every command answers with an exit code and with sentences that say what to do next: 0, 1 (something
failed), 2 (the command line), 78 (the configuration), 130 (a second Ctrl-C). None of them prints a
traceback.

The order of the modules; each imports only from those before it:

    output             standard output and error, which may be closed or full
    progress           how far a command is that takes long
    figures            figures of the ledger as words
    cells              texts that fit into the cells of a terminal, harmless
    tables             tables and lines on standard output, as wide as it is
    config_file        which configuration, what it says, who else may read it
    first_config       `arbstr init`
    init_asked         `arbstr init --url`: what a node or an endpoint lists
    node_prices        what nodes ask, from the ledger or asked just now
    provider_text      what the configuration says of a provider
    check_command      `arbstr check`
    providers_command  `arbstr providers`
    cost_command       `arbstr cost`
    ledger_options     what `stats` and `requests` take
    clients            what to set in each client: a table
    connect_command    `arbstr connect`
    routes             those of the running arbstr, asked
    status_command     `arbstr status`
    stats_csv          the same for a spreadsheet: `stats --csv`
    stats_text         what `stats` prints
    request_text       what `requests` prints
    ledger_commands    `arbstr stats` and `arbstr requests`
    reconcile_command  `arbstr reconcile`
    discover_command   `arbstr discover`
    backup_command     `arbstr backup`
    import_command     `arbstr import`
    migrate_command    `arbstr migrate`
    mock_ledger        where the requests of `run --mock` are kept
    run_command        `arbstr run`
    watch/             `arbstr watch`
    doctor/            `arbstr doctor`
    service_command    `arbstr service`
    help_command       `arbstr help`: the pages of arbstr/docs
    command_line       which commands there are, and what each takes
    grammar            the same as data
    completion_command `arbstr completion`
    commands           the command line obeyed

Start reading at `command_line`.
"""
