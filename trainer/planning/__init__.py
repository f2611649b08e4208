"""What-if: machines that may not be here, and what a step would take there.

- `chart.py`: A chart of what a plan puts on each rank: a bar a rank, the largest tables and id maps stacked, and what
- `machines.py`: The machines that `shardrec plan` is asked about, from its options: sizes and rates as people write
- `report.py`: `shardrec plan`: where tables would live, and for machines that are described, what a step would take
- `workload.py`: What a run's step has to do, from its run file and schema alone: no data are read
"""
