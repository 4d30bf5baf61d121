"""`python -m atomq.cli` is `atomq`."""

from atomq.cli import main

main()
