"""The numbers of the pages on results, from the JSON files in docs/results.

    python -m benchmarks.results            # writes them: make results
    python -m benchmarks.results --check    # shows what differs: make results-check
    python -m benchmarks.results --take runs/novels-seconds --machine "two NVIDIA H200 of one host"

The last stores what an experiment has found so far as docs/results/novels-seconds.json, and adds it to what is there.

A page is Markdown that a person writes. Two marks in it, which no reader sees, say where a number comes from:

    <!-- table: NAME ARGUMENT... -->        everything up to the end mark is written by the function NAME
    <!-- end -->

    ... costs <!--=NAME ARGUMENT...-->4.027 ± 0.002 nats    the number after the mark is

`tables.py` and `log_tables.py` have a function a table, `values.py` one for each kind of number in a sentence.
"""
