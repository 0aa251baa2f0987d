"""Readers of our own beside judges that others wrote, on as many made-up inputs as one likes.

    python -m tests.judged --seed 1 --heads 5200000 --chunks 1300000
    python -m tests.judged --seed 1 --events 400000 --objects 500000

    heads      edited heads of requests and answers     h11
    chunks     edited bodies in chunks, cut anywhere    h11
    events     edited event streams, cut anywhere       the rules of the standard, line by line
    objects    edited JSON                              json

Where a reader of ours takes something, its judge must take it for the same. Each case is made by
its number and the seed alone, so that a range of them can be run again (`--start`), in any slices,
on any machine. Properties that Hypothesis searches ask the same questions of better cases, and
fewer: a million of these take some minutes of one core. One head in four is still one of ours to
read after its edits; the others are left to h11 in any case.
"""
