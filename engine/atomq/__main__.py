"""`python -m atomq` is `atomq`."""

from atomq.cli import main

main()
