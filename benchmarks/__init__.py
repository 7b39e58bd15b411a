"""Speed, memory and overhead of ostinato beside its peers: ``python -m benchmarks --help``.

Order of the files, each importing only those before it: ``problems`` (the registry) and ``cells``,
``work`` (what a problem costs at least), ``case`` (data, oracle, comparator), ``peers/`` (one
contestant a file), ``measure`` (clock, limits, machine), ``remote`` (contestants in processes of
their own), ``contests``, ``memory`` and ``tracing`` (what is measured), ``worker`` (one suite on so
many threads), ``targets`` and ``report`` (what comes of it), ``compare`` (two revisions),
``__main__``.
"""
