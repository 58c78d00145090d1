"""`python -m benchmark.cli`: the `synrep` command, for launchers that start modules."""

from synrep_bench import main

main()
