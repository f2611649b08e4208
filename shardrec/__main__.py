"""`python -m shardrec` is the command line, as `torchrun -m shardrec` needs it."""

from shardrec.trainer.cli import main

main()
