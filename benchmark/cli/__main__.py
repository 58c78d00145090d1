"""`python -m benchmark.cli`: the `synrep` command, for launchers that start modules."""

from benchmark.cli.main import main

main()
