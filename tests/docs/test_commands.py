"""Every command that the documentation gives or mentions is one that the command line takes."""

import pytest

from tests.docs.commands import PAGES, RUN_FILES, Command, arguments, commands, parse, simple_commands

FOUND = [command for page in (*PAGES, *RUN_FILES) for command in commands(page)]
INCOMPLETE = ("LookupError", "MissingParameter", "BadOptionUsage")
"""What is raised for a command without a name, an argument, or an option's value."""


def refusal(command: Command) -> str | None:
    """Why a command is refused; one that a text only mentions may leave out what is required."""
    try:
        parse(command.words)
    except Exception as error:
        if command.whole or type(error).__name__ not in INCOMPLETE:
            return f"{command.place}: shardrec {' '.join(command.words)}: {error or type(error).__name__}"
    return None


def test_every_command_can_be_given() -> None:
    """Its name, options, values and number of arguments are right; nothing is run."""
    refused = [line for command in FOUND if (line := refusal(command))]
    assert not refused, "\n".join(refused)


def test_the_commands_are_found() -> None:
    """So that the test above sees them: those of every kind of block, and the continued and hidden ones."""
    assert sum(command.whole for command in FOUND) > 150 and sum(not command.whole for command in FOUND) > 50
    assert {command.words[0] for command in FOUND if command.whole} >= {"train", "serve", "bench", "prepare", "tune"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shardrec train RUN.yaml   # in this process", ("train", "RUN.yaml")),
        ("RAY_ADDRESS=auto shardrec train RUN.yaml --set 'a.\"C*\"=1'", ("train", "RUN.yaml", "--set", 'a."C*"=1')),
        ("torchrun --nproc-per-node 2 -m shardrec train RUN.yaml", ("train", "RUN.yaml")),
        ("ray job submit --working-dir . -- shardrec train RUN.yaml", ("train", "RUN.yaml")),
        ("$ shardrec tables RUN", ("tables", "RUN")),
        ("shardrec: error: RUN.yaml: unknown", None),
        ("shardrec serve: listening", None),
        ("pip install shardrec", None),
    ],
)
def test_what_a_command_is(line: str, words: tuple[str, ...] | None) -> None:
    assert arguments(simple_commands(line)[0]) == words


@pytest.mark.parametrize(
    "words",
    [
        "train",
        "train a b",
        "train a --epochs 3",
        "train a --step x",
        "trian a",
        "bench",
        "export a",
        "rank a --top 1.5",
    ],
)
def test_a_wrong_command_is_refused(words: str) -> None:
    assert refusal(Command("page.md:1", tuple(words.split())))
