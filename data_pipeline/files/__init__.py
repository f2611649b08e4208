"""What files are called, who wrote them, whether they are whole.

- `file_errors.py`: errors of the operating system, which say which file they were about
- `file_names.py`: what a table's name becomes in the names of files
- `interrupts.py`: Ctrl-C and SIGTERM, which wait where they would leave something half done
- `late_signals.py`: signals that come in the midst of an import
- `natural_order.py`: names in the order of the numbers in them
- `owned_files.py`: what the program can prove that it wrote, all that it may remove
- `processes.py`: which processes live, and where their numbers mean something
- `relative_names.py`: names of files that stay inside their folder
- `sealed_parquet.py`: Parquet files that notice flipped bytes
- `streams.py`: files written from front to back, and read anywhere, on disks and in stores alike
- `whole_files.py`: files and folders that appear complete or not at all
"""
