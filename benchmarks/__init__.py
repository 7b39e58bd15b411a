"""Speed, memory and overhead of ostinato beside its peers: ``python -m benchmarks --help``.

Order of the files, each importing only those before it: ``problems`` (the registry) and ``cells``,
``work`` (what a problem costs at least), ``case`` (data, oracle, comparator), ``peers/`` (one
contestant a file), ``measure`` (clock, limits, machine), ``checkout`` (whose sources are measured),
``watch`` (what disturbs), ``remote`` (contestants in processes of their own), ``contests``,
``memory`` and ``tracing`` (what is measured), ``results`` (files), ``worker`` (one suite on so many
threads), ``targets`` and ``report`` (what comes of it), ``compare`` (two revisions), ``__main__``.

Programs of their own beside these: ``tasks`` (whole trainings), ``time_to_accuracy`` and
``keras_imdb`` (how soon IMDB is read well), ``loop_overhead`` (what training costs besides).
"""
