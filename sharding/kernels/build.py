"""The kernels of rows and ids are a library; all libraries are compiled here, at installation or at first use."""

from pathlib import Path

from shardrec.models.kernels.sources import KernelSources

ROWS = KernelSources(
    "rows", Path(__file__).parent, "update rows of tables", "rows of tables are updated by torch operations"
)


def compile_kernels() -> None:
    """Compiles what is not compiled yet."""
    ROWS.library_file()


if __name__ == "__main__":
    compile_kernels()
