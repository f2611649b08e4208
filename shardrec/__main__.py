"""`python -m shardrec` is the command line, as `torchrun -m shardrec` needs it, and the command `shardrec` itself.

Signals are minded before the command's own modules are imported.
"""

from shardrec.trainer.run_folder.signals import ended_in_a_line


def main() -> None:
    """Runs the command that the process was called with, and ends the process."""
    with ended_in_a_line():
        from shardrec.trainer.cli import main

        main()


if __name__ == "__main__":
    main()
