"""Whom to ask, in which order, and whether the day can pay for it.

    a node's listing --prices--> what it asks, until the next one
    Config, prices --catalog--> who offers which model at which price
    request, rules --policy--> the rule it is under
    request, catalog, rule, samples --plan--> RoutePlan: candidates, cheapest first; or why not
    plan --quote--> the same told to a person, without sending anything

It decides by prices and by what earlier answers taught. Whether a provider is well just now is not
asked here, that is `failover`.

The order of the modules; each imports only from those before it:

    listing    what a node lists, read
    announced  where nodes are, as a directory or a Nostr relay tells
    prices     what a node asks, how old that is, and which model a name means
    catalog    who offers what at which price, and what to redact
    paths      which APIs providers turned out not to serve
    affinity   where a conversation was answered last
    policy     the rule a header names, else the first one a keyword finds
    origins    who keeps what a request refers to
    latency    how soon each provider begins: what `lowest_latency` goes by
    ratios     how much a policy's answers take: what estimates are made of
    holds      how much output a request is held to: what caps and the budget go by
    refusals   what is said where nobody qualifies
    plan       a request, its policy and the catalog -> candidates in order, or why not
    quote      what a request would cost, as JSON
    budget     what may still be spent today: reserved before, settled after each attempt
    lease      how much of a day one of many processes may use without asking
    gauge      how the day's budget is shown, and when its owner is told

Start reading at `plan`.
"""
