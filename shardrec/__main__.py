"""`python -m shardrec` is the command line, as `torchrun -m shardrec` needs it."""

from shardrec.trainer.cli import main

if __name__ == "__main__":
    main()
